"""Tasks over TensorFlow Datasets (TFDS), for machines that reach it or hold data sets that it has prepared.

    record of TFDS ──template, choices──▶ inputs, targets, choices as text ──tasks.common──▶ tokens

A template such as "Sentence 1: {sentence1} Sentence 2: {sentence2}" names fields of the record. All of this is
TensorFlow's string functions, since TFDS's largest sets hold hundreds of thousands of records.

Nothing is read before its examples are asked for. Data sets are looked for, and prepared where they are missing, in
TFDS's own place: ~/tensorflow_datasets, or the environment variable TFDS_DATA_DIR, or what a task module hands to
`seqio.set_tfds_data_dir_override`; each may be on gs://.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from frozen_jax.errors import UserError
from tasks.common import OUTPUT_FEATURES, PREPROCESSORS

Record = Mapping[str, Any]  # tensors by field
Maker = Callable[[Record], dict[str, tf.Tensor]]


class Source(seqio.TfdsDataSource):
    """As seqio's; what TFDS does not have and cannot get is said in one line."""

    def get_dataset(self, split: str = "train", *args: Any, **keywords: Any) -> tf.data.Dataset:
        """Reads a split, which TFDS downloads and prepares first where that has not been done.

        Args:
            split: one of the source's splits.
            *args: see `seqio.TfdsDataSource`.
            **keywords: see `seqio.TfdsDataSource`.

        Returns:
            The records.

        Raises:
            UserError: if TFDS cannot give it; says why, and where a prepared copy would be found.
        """
        try:
            return super().get_dataset(split, *args, **keywords)
        except Exception as error:  # TFDS, TensorFlow and requests each have their own for a network that is not there
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            place = self.tfds_dataset.data_dir or "~/tensorflow_datasets or TFDS_DATA_DIR"
            raise UserError(
                f"TFDS has no data set {self.tfds_dataset.name} in {place} and cannot make it: {cause[:300]}"
            ) from error


def add(
    name: str,
    tfds_name: str,
    make: Maker,
    metrics: Sequence[Callable[..., Any]],
    splits: Mapping[str, str],
    postprocessor: Callable[..., Any] | None = None,
) -> seqio.Task:
    """Registers a task.

    Args:
        name: of the task.
        tfds_name: of the data set, such as `glue/sst2:2.0.0`.
        make: turns one record into an example as text.
        metrics: of predicted texts.
        splits: the task's splits, each with TFDS's name for it.
        postprocessor: what makes texts ready for the metrics.

    Returns:
        The task.
    """

    def examples(records: tf.data.Dataset) -> tf.data.Dataset:
        return records.map(make, num_parallel_calls=tf.data.AUTOTUNE)

    return seqio.TaskRegistry.add(
        name,
        source=Source(tfds_name, splits=dict(splits)),
        preprocessors=[examples, *PREPROCESSORS],
        output_features=OUTPUT_FEATURES,
        postprocess_fn=postprocessor,
        metric_fns=metrics,
    )


def labelled(template: str, choices: Sequence[str]) -> Maker:
    """Examples of a classification.

    Args:
        template: of the inputs.
        choices: the answer for each label from 0 up, which stands in the field `label`.

    Returns:
        What turns a record into an example.
    """

    def make(record: Record) -> dict[str, tf.Tensor]:
        answers = tf.constant(choices)
        target = tf.gather(answers, record["label"])  # raises at -1, which brackets would take for the last
        return {"inputs": fill(template, record), "targets": target, "choices": answers}

    return make


def fill(template: str, record: Record) -> tf.Tensor:
    """Puts the fields of a record into a template.

    Args:
        template: text with names of fields in braces.
        record: its text fields, scalar tensors.

    Returns:
        The text, the fields without the spaces around them.
    """
    literals_and_fields = re.split(r"\{(\w+)\}", template)
    parts = [tf.strings.strip(record[part]) if i % 2 else part for i, part in enumerate(literals_and_fields)]
    return tf.strings.join(parts)
