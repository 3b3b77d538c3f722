"""What the task files share: features in the LM's vocabulary, preprocessors, and sources that read when asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from frozen_jax.batching import ENCODER_INPUTS, NEGATIVES
from frozen_jax.data import EncoderVocabulary, LMVocabulary
from tasks.splits import SPLITS

Example = Mapping[str, str | Sequence[str]]  # inputs, targets, and what the metrics need, all as text

OUTPUT_FEATURES = {
    "inputs": seqio.Feature(vocabulary=LMVocabulary(), add_eos=True),
    "targets": seqio.Feature(vocabulary=LMVocabulary(), add_eos=True),
    ENCODER_INPUTS: seqio.Feature(vocabulary=EncoderVocabulary(), add_eos=True, required=False),
    NEGATIVES: seqio.Feature(vocabulary=LMVocabulary(), add_eos=True, required=False),
}


def tokenize(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, seqio.Feature],
    sequence_length: Mapping[str, int | None] | None = None,
) -> tf.data.Dataset:
    """As `seqio.preprocessors.tokenize`, many examples in a call, and no words that would be cut off all the same.

    A word is a token or more, so that what follows as many words as there may be tokens is never read. At 64 tokens the
    reviews of IMDB take a quarter of the time.

    Where the lengths name `encoder_inputs`, that feature is made: the text of the inputs, in its own vocabulary.

    Args:
        dataset: examples as text.
        output_features: from seqio; which features become tokens, and in which vocabulary.
        sequence_length: from seqio; the most tokens of each feature, None cuts nothing.

    Returns:
        The examples with tokens, and with their whole text in `inputs_pretokenized` and `targets_pretokenized`.
    """

    def beginnings(texts: Mapping[str, Any]) -> dict[str, Any]:
        whole = {f"{name}_pretokenized": texts[name] for name in output_features if name in texts}
        again = {ENCODER_INPUTS: texts["inputs"]} if ENCODER_INPUTS in lengths else {}
        texts = {**texts, **again}
        cut = {name: first_words(texts[name], length) for name, length in lengths.items() if length and name in texts}
        return {**texts, **whole, **cut}

    lengths = {name: length for name, length in (sequence_length or {}).items() if name in output_features}
    batches = dataset.ragged_batch(256).map(beginnings)
    return seqio.preprocessors.tokenize(batches, output_features, copy_pretokenized=False).unbatch()


def first_words(texts: tf.Tensor, count: int) -> tf.Tensor:
    """The beginnings of texts.

    Args:
        texts: [N] of them.
        count: how many words to keep; words stand between spaces.

    Returns:
        [N] texts, nothing changed in what is left of them.
    """
    beginning = re.compile(rb"(?: *+[^ ]++){%d}" % count)  # possessive: a word is never taken for two

    def cut(texts: Sequence[bytes]) -> np.ndarray:
        found = [(beginning.match(text), text) for text in texts]
        return np.array([match.group() if match else text for match, text in found], object)

    kept = tf.numpy_function(cut, [texts], tf.string)
    kept.set_shape([None])
    return kept


# The cache, where one is made, holds text, so that it serves every tokenizer. A text that is too long loses its last
# words and keeps its end-of-sequence token, as the LM knows it from pretraining.
PREPROCESSORS = [seqio.CacheDatasetPlaceholder(), tokenize, seqio.preprocessors.append_eos_after_trim]


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
