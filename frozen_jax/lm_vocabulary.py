"""The frozen LM's tokenizer as a seqio vocabulary. Like `data`, imported only where examples are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from jaxtyping import Int

from frozen_jax.batching import Tokens
from frozen_jax.tokenizer import lm_tokenizer

_RaggedTensor: Any = tf.RaggedTensor  # TensorFlow's type stubs leave out how one is made


class LMVocabulary(seqio.Vocabulary):
    """The frozen LM's vocabulary, for the features of a task. Nothing is loaded before a text is tokenized.

    All of them are equal: which tokenizer stands behind them is said in one place, `lm_tokenizer`.
    """

    @property
    def eos_id(self) -> int:
        """The token that ends a text."""
        return lm_tokenizer().eos_id

    @property
    def pad_id(self) -> int:
        """The token that fills up rows."""
        return lm_tokenizer().pad_id

    @property
    def unk_id(self) -> None:
        """None: the tokenizer itself knows what to do with ids that it does not have."""
        return

    @property
    def _base_vocab_size(self) -> int:
        return lm_tokenizer().vocab_size

    def _encode(self, s: str) -> list[int]:
        return lm_tokenizer().encode(s)

    def _decode(self, ids: Iterable[int]) -> str:
        return lm_tokenizer().decode(list(ids))

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
        """Tokens of one text, [length], or of many, [N, (length)]."""
        tokens, lengths = tf.numpy_function(_encode_texts, [s], [tf.int32, tf.int64])
        tokens.set_shape([None])
        if not s.shape.rank:
            return tokens
        lengths.set_shape([None])
        return _RaggedTensor.from_row_lengths(tokens, lengths)

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        text = tf.numpy_function(lambda row: self._decode(row.tolist()).encode(), [ids], tf.string)
        text.set_shape([])
        return text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LMVocabulary)

    def __hash__(self) -> int:
        return hash(LMVocabulary)


def _encode_texts(texts: bytes | np.ndarray) -> tuple[Tokens, Int[np.ndarray, " texts"]]:
    """Tokens of all texts end to end, and how many each has; called by TensorFlow."""
    tokenizer = lm_tokenizer()
    rows = [tokenizer.encode(text.decode()) for text in np.atleast_1d(np.asarray(texts, object))]
    return np.concatenate([np.zeros(0, np.int32), *rows]).astype(np.int32), np.array([len(r) for r in rows], np.int64)
