"""What the task files share: features in the LM's vocabulary, preprocessors, and sources that read when asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from frozen_jax.data import LMVocabulary
from tasks.splits import SPLITS

Example = Mapping[str, str | Sequence[str]]  # inputs, targets, and what the metrics need, all as text

OUTPUT_FEATURES = {
    "inputs": seqio.Feature(vocabulary=LMVocabulary(), add_eos=True),
    "targets": seqio.Feature(vocabulary=LMVocabulary(), add_eos=True),
}


def tokenize(dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]) -> tf.data.Dataset:
    """Tokenizes many examples in one call: `seqio.preprocessors.tokenize`, at half the time for long texts.

    Args:
        dataset: examples as text.
        output_features: from seqio; which features become tokens, and in which vocabulary.

    Returns:
        The examples with tokens, and with the text in `inputs_pretokenized` and `targets_pretokenized`.
    """
    return seqio.preprocessors.tokenize(dataset.ragged_batch(256), output_features).unbatch()


# A text that is too long loses its last words and keeps its end-of-sequence token, as the LM knows it from pretraining.
PREPROCESSORS = [tokenize, seqio.CacheDatasetPlaceholder(), seqio.preprocessors.append_eos_after_trim]


def source(examples: Callable[[], Mapping[str, Sequence[Example]]], sizes: Mapping[str, int]) -> seqio.DataSource:
    """A seqio source over examples in memory, which are read when a split is first asked for.

    Args:
        examples: gives the examples of each split.
        sizes: how many there are, for mixing rates; the archives are pinned, so these are facts. A test counts.

    Returns:
        The source.
    """

    def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        del shuffle_files, seed  # the order of training is made behind seqio, see frozen_jax.data
        return to_dataset(examples()[split])

    return seqio.FunctionDataSource(dataset, splits=SPLITS, num_input_examples=dict(sizes))


def to_dataset(examples: Sequence[Example]) -> tf.data.Dataset:
    """Examples in memory as a dataset.

    Args:
        examples: with the same fields, each a text or a list of texts.

    Returns:
        The dataset, in the same order.
    """
    columns: Any = {name: _column([example[name] for example in examples]) for name in examples[0]}
    return tf.data.Dataset.from_tensor_slices(columns)


def _column(values: Sequence[Any]) -> tf.Tensor | tf.RaggedTensor:
    if isinstance(values[0], str) or len({len(value) for value in values}) == 1:
        return tf.constant(values)
    return tf.ragged.constant(values)
