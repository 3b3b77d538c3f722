"""What a template of P3 makes of the records of a split: examples as text, no longer than the LM reads.

As T0 does (Sanh et al. 2022), a record is left out if its template says nothing about it: no targets, or no two parts.
The rest is our choice.

Instructions often stand at the end, where a cut would take them. So where inputs are too long, the record is shortened
and rendered anew: each of its texts keeps its first words, as many for all of them as fit, so that only the longest
lose any, and of two long answers neither gives itself away. Targets and answer choices come of the whole record.

A record whose targets are none of the answer choices is left out, and one whose choices are the same once they are cut
at the length of targets: they could not be ranked.
"""

from __future__ import annotations

import bisect
import functools
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from frozen_jax import p3
from frozen_jax.ordering import permutation
from frozen_jax.tokenizer import lm_tokenizer
from tasks.common import Example
from tasks.p3_records import SOURCES
from tasks.p3_templates import Template, map_texts, read
from tasks.splits import SPLITS


def source(task: str, dataset: str, sizes: Mapping[str, int], templates: int) -> seqio.DataSource:
    """The records of a data set, a fixed sample of each split for each task.

    Args:
        task: the name of the task, which the sample depends on.
        dataset: one of `SOURCES`.
        sizes: how many records there are of each split.
        templates: how many templates share them.

    Returns:
        The source: records as JSON in the field `record`, their rows in the split in `record_number`. It reads when a
        split is asked for; what it gives is not to be cached, as `frozen_jax.p3` may change.
    """

    def dataset_fn(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        del shuffle_files, seed  # the order of training is made behind seqio, see frozen_jax.data
        records, fields = SOURCES[dataset].records()[split], SOURCES[dataset].fields
        limits = p3.limits()
        most = max(1, limits.most_examples // templates) if split == "train" else limits.most_evaluated
        chosen = sorted(permutation(len(records), task, split)[:most].tolist())
        found: Any = {"record": [json.dumps(fields(records[row])) for row in chosen], "record_number": chosen}
        return tf.data.Dataset.from_tensor_slices(found)

    return seqio.FunctionDataSource(dataset_fn, splits=SPLITS, num_input_examples=dict(sizes), caching_permitted=False)


def render(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int | None] | None = None,
    *,
    folder: str,
    name: str,
    choosing: bool,
) -> tf.data.Dataset:
    """A preprocessor of seqio: records become examples as text.

    Args:
        dataset: of `source`.
        sequence_length: from seqio; the most tokens of each feature. None cuts nothing.
        folder: of promptsource, such as `glue/sst2`.
        name: of the template.
        choosing: whether the examples have answer choices.

    Returns:
        The examples, with `inputs`, `targets`, `record_number` and, where there are, `choices`.
    """
    maker = Maker(read(folder)[name], choosing, dict(sequence_length or {}))
    batches: Any = dataset.batch(1024).as_numpy_iterator()
    rows = [pair for batch in batches for pair in zip(batch["record_number"], batch["record"], strict=True)]
    found = [{**example, "record_number": n} for n, text in rows for example in maker.examples(json.loads(text))]
    columns: Any = {
        feature: tf.constant([example[feature] for example in found], kind, (len(found),))
        for feature, kind in {"inputs": tf.string, "targets": tf.string, "record_number": tf.int32}.items()
    }
    if choosing:
        choices = [example["choices"] for example in found]
        columns["choices"] = tf.ragged.constant(choices, tf.string, ragged_rank=1)
    return tf.data.Dataset.from_tensor_slices(columns)


class Maker:
    """Makes the examples of one template."""

    def __init__(self, template: Template, choosing: bool, lengths: Mapping[str, int | None]) -> None:
        """Holds what all examples have in common.

        Args:
            template: of the data set.
            choosing: whether the examples are to have answer choices.
            lengths: the most tokens of `inputs` and `targets`; None, or left out, where nothing is cut.
        """
        self._template, self._choosing, self._lengths = template, choosing, lengths
        self._encode = functools.cache(lm_tokenizer().encode)  # most choices are the same for all records

    def examples(self, record: Mapping[str, Any]) -> Iterator[Example]:
        """The example made of a record, if there is one.

        Args:
            record: in the fields of Hugging Face.

        Yields:
            The example.
        """
        key = self._template.key(record)
        parts = self._template.render(record, key)
        if len(parts) != 2 or not all(parts):
            return
        made: dict[str, Any] = {"inputs": parts[0], "targets": parts[1]}
        if self._choosing:
            made["choices"] = list(dict.fromkeys(self._template.choices(record, key) or []))
            if made["targets"] not in made["choices"] or not self._differ(made["choices"]):
                return
        yield {**made, "inputs": self._that_fits(record, key, parts[0])}

    def _that_fits(self, record: Mapping[str, Any], key: str, inputs: str) -> str:
        """The inputs, of a record that is shortened until they fit; how far, is estimated from their words."""
        room = (self._lengths.get("inputs") or sys.maxsize) - 1  # the end-of-sequence token takes one
        counts = list(_words([record[name] for name in self._template.fields if name in record]))
        most, tokens = max(counts), len(self._encode(inputs))
        while tokens > room and most > 1:
            left = _total(counts, most) - (tokens - room) * len(inputs.split()) / tokens
            fitting = bisect.bisect_right(range(1, most), left, key=lambda words: _total(counts, words))
            most = max(1, min(most - 1, fitting))
            inputs = self._template.render(shortened(record, most), key)[0]
            tokens = len(self._encode(inputs))
        return inputs

    def _differ(self, choices: Sequence[str]) -> bool:
        """Whether answer choices can be told apart when they are cut."""
        length = self._lengths.get("targets")
        return len({tuple(self._encode(choice)[: length and length - 1]) for choice in choices}) == len(choices)


def shortened(record: Any, most: int) -> Any:
    """A record with the first words of its texts.

    Args:
        record: or what is in one.
        most: how many words a text keeps.

    Returns:
        The same with nothing changed in what is left of its texts.
    """

    def beginning(text: str) -> str:
        ends = [word.end() for word in re.finditer(r"\S+", text)]
        return text[: ends[most - 1]] if len(ends) > most else text

    return map_texts(record, beginning)


def _total(counts: Sequence[int], most: int) -> int:
    """The words of all texts if none has more than `most`."""
    return sum(min(count, most) for count in counts)


def _words(value: Any) -> Iterator[int]:
    """How many words each text has; 1 for what is none."""
    if isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _words(item)
    else:
        yield len(value.split()) if isinstance(value, str) else 1
