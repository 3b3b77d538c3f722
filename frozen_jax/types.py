"""The glossary: what the letters of array dimensions mean, the array aliases, and `Batch`.

Used in every docstring, annotation and variable suffix (`embeddings_BSD`):

    B batch            S source length    T target length    P prompt length
    D model width      V vocabulary       H heads            K head width
    F MLP width        L layers           N passages         C candidates
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

Array = jax.Array | np.ndarray


class Segments(NamedTuple):
    """Which of several examples in a row each token belongs to: 1, 2, ..., and 0 at padding.

    Attributes:
        inputs: [B, S].
        targets: [B, T].
    """

    inputs: Int[Array, "B S"]
    targets: Int[Array, "B T"]


class EncoderInputs(NamedTuple):
    """The inputs once more, for an encoder with a vocabulary of its own; S2 is their length in it.

    Attributes:
        tokens: [B, S2] token ids, padded on the right.
        mask: [B, S2] True at real tokens.
    """

    tokens: Int[Array, "B S2"]
    mask: Bool[Array, "B S2"]


class Negatives(NamedTuple):
    """One wrong answer for each row, which what is trained shall tell from the right one; N is their length.

    Attributes:
        tokens: [B, N] token ids, padded on the right.
        mask: [B, N] True at real tokens.
    """

    tokens: Int[Array, "B N"]
    mask: Bool[Array, "B N"]


class FirstPass(NamedTuple):
    """What the first pass of a frozen LM has made of a batch; Q is as many positions as its decoder reads.

    Attributes:
        encoder: [B, S, D] hidden states; None for an LM that only decodes.
        decoder: [B, Q, D] hidden states.
    """

    encoder: Float[Array, "B S D"] | None
    decoder: Float[Array, "B Q D"]


class Batch(NamedTuple):
    """One batch of examples, padded on the right.

    Masks and weights say what is real, never the token ids: token 0 is a real token in some vocabularies. A row that
    only fills up the last batch of a split has an all-False mask and all-zero weights.

    Attributes:
        inputs: [B, S] token ids, end-of-sequence token included.
        inputs_mask: [B, S] True at real input tokens.
        targets: [B, T] token ids to predict, end-of-sequence token included, not yet shifted.
        targets_weights: [B, T] weight of each target token in the loss; 0 at padding.
        segments: of packed rows; None where every row is one example.
        encoder_inputs: what the encoder of a prompt generator reads instead of the inputs; None where it reads them.
        negatives: passages that do not answer the inputs, for a retriever to learn from; None without any.
        first_pass: see `first_pass`; None where it is to be computed.
    """

    inputs: Int[Array, "B S"]
    inputs_mask: Bool[Array, "B S"]
    targets: Int[Array, "B T"]
    targets_weights: Float[Array, "B T"]
    segments: Segments | None = None
    encoder_inputs: EncoderInputs | None = None
    negatives: Negatives | None = None
    first_pass: FirstPass | None = None
