"""The seam between two passes: an LM proper, whose stacks can be run again on what they have made.

    embeddings ──begin──▶ streams ──run──▶ streams ──...──run──▶ streams ──end──▶ hidden        all targets at once
    embeddings ──read_pass──▶ hidden of all, cache ──...──▶ hidden of all, cache                 the inputs

A stream is what one stack reads: an encoder-decoder has two, an LM that only decodes has one, in which the targets
stand behind the inputs. Between two passes a method may put other vectors in the same places.
"""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from frozen_jax.lm.base import LanguageModel
from frozen_jax.lm.layers import Dropout
from frozen_jax.types import Array, Segments


class Stream(NamedTuple):
    """What one stack reads, or has made of it.

    Attributes:
        vectors: one at each position.
        seen: True where a position (second axis) sees another (third).
        positions: of each vector in its text.
    """

    vectors: Float[Array, "R Q D"]
    seen: Bool[Array, "#R #Q Q"]
    positions: Int[Array, "#R Q"]


class Streams(NamedTuple):
    """What all stacks of an LM read, or have made of it.

    Attributes:
        encoder: None for an LM that only decodes.
        decoder: of an LM that only decodes the inputs and the targets, of another the targets.
        others: what the LM needs at a pass or at the end.
    """

    encoder: Any  # Stream | None: each LM knows which
    decoder: Stream
    others: Any = None

    def of(self, encoder: Float[Array, "B S D"] | None, decoder: Float[Array, "R Q D"]) -> Streams:
        """Returns other vectors in the same places."""
        read = self.encoder and self.encoder._replace(vectors=encoder)
        return self._replace(encoder=read, decoder=self.decoder._replace(vectors=decoder))


class Stacks(LanguageModel):
    """An LM proper, abstract: its stacks can be run again on what they have made.

    Attributes:
        config: its shape: at least `emb_dim`, `num_heads`, `head_dim`, `mlp_dim`, `layer_norm_epsilon`, `dtype`.
        decoder: the stack that writes, with its `layers` and `decoder_norm`.
        fingerprint: hash of the source's parameters; "" for one that was not loaded.
        start_id: the token with which its decoder begins to write; None where it reads on.
    """

    config: Any
    decoder: Any
    fingerprint: str
    start_id: int | None = None

    @abc.abstractmethod
    def begin(
        self,
        inputs: Float[Array, "B S D"],
        inputs_mask: Bool[Array, "B S"],
        targets: Float[Array, "R T D"],
        segments: Segments | None = None,
    ) -> Streams:
        """Returns what the stacks read at the first pass; the arguments are those of `hidden_states`."""

    @abc.abstractmethod
    def run(self, streams: Streams, dropout: Dropout | None = None) -> Streams:
        """Runs every stack once: in place of what it read comes the hidden state of each position."""

    @abc.abstractmethod
    def end(self, streams: Streams) -> Float[Array, "R T D"]:
        """Returns the hidden states that predict the targets."""

    def hidden_states(
        self,
        inputs: Float[Array, "B S D"],
        inputs_mask: Bool[Array, "B S"],
        targets: Float[Array, "R T D"],
        dropout: Dropout | None = None,
        segments: Segments | None = None,
    ) -> Float[Array, "R T D"]:
        """Runs the stacks once; see `LanguageModel.hidden_states`."""
        return self.end(self.run(self.begin(inputs, inputs_mask, targets, segments), dropout))

    def opened(
        self, inputs: Float[Array, "B S D"], inputs_mask: Bool[Array, "B S"]
    ) -> tuple[Float[Array, "B S1 D"], Bool[Array, "B S1"]]:
        """Returns inputs as the first pass reads them, with what the LM itself puts in front."""
        return inputs, inputs_mask

    @abc.abstractmethod
    def read_pass(
        self, vectors: Float[Array, "B S D"], mask: Bool[Array, "B S"], *, max_length: int, rows_per_input: int
    ) -> tuple[Float[Array, "B S D"], Any]:
        """Reads inputs, which `opened` gave or another pass made, and returns their hidden states and the cache.

        Args:
            vectors: one at each position.
            mask: True at real ones.
            max_length: the most tokens that will be decoded.
            rows_per_input: see `prefill`.
        """


def last_real(hidden: Float[Array, "B S D"], mask: Bool[Array, "B S"]) -> Float[Array, "B D"]:
    """Returns the hidden state of each row's last real position."""
    last = jnp.max(jnp.where(mask, jnp.arange(mask.shape[1])[None], 0), axis=1)
    return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
