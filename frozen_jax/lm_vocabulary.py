"""The run's tokenizers as seqio vocabularies. Like `data`, imported only where examples are asked for."""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from jaxtyping import Int

from frozen_jax.batching import Tokens
from frozen_jax.tokenizer import Tokenizer, encoder_tokenizer, lm_tokenizer

_RaggedTensor: Any = tf.RaggedTensor  # TensorFlow's type stubs leave out how one is made


class _Vocabulary(seqio.Vocabulary):
    """One of the run's tokenizers. Nothing is loaded before a task's examples are asked for.

    All of a class are equal: which tokenizer stands behind them is said in one place.
    """

    @property
    @abc.abstractmethod
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that gin binds."""

    @property
    def eos_id(self) -> int:
        """The token that ends a text."""
        return self.tokenizer.eos_id

    @property
    def pad_id(self) -> int:
        """The token that fills up rows."""
        return self.tokenizer.pad_id

    @property
    def unk_id(self) -> None:
        """None: the tokenizer itself knows what to do with ids that it does not have."""
        return

    @property
    def _base_vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def _encode(self, s: str) -> list[int]:
        return self.tokenizer.encode(s)

    def _decode(self, ids: Iterable[int]) -> str:
        return self.tokenizer.decode(list(ids))

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
        """Tokens of one text, [length], or of many, [N, (length)]."""
        # Looked up here: TensorFlow's threads know nothing of gin's scopes.
        encode_texts = functools.partial(_encode_texts, self.tokenizer)
        tokens, lengths = tf.numpy_function(encode_texts, [s], [tf.int32, tf.int64])
        tokens.set_shape([None])
        if not s.shape.rank:
            return tokens
        lengths.set_shape([None])
        return _RaggedTensor.from_row_lengths(tokens, lengths)

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        decode = self.tokenizer.decode
        text = tf.numpy_function(lambda row: decode(row.tolist()).encode(), [ids], tf.string)
        text.set_shape([])
        return text

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))


def _encode_texts(tokenizer: Tokenizer, texts: bytes | np.ndarray) -> tuple[Tokens, Int[np.ndarray, " texts"]]:
    """Tokens of all texts end to end, and how many each has; called by TensorFlow."""
    rows = [np.array(tokenizer.encode(text.decode()), np.int32) for text in np.atleast_1d(np.asarray(texts, object))]
    return np.concatenate([np.zeros(0, np.int32), *rows]), np.array([len(row) for row in rows], np.int64)


class LMVocabulary(_Vocabulary):
    """The frozen LM's vocabulary, for the features of a task."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What `lm_tokenizer` gives."""
        return lm_tokenizer()


class EncoderVocabulary(_Vocabulary):
    """The vocabulary of the feature `encoder_inputs`."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What `encoder_tokenizer` gives."""
        return encoder_tokenizer()
