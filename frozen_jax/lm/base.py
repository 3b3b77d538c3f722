"""The seam: the few calls through which everything reaches a frozen LM.

A method never looks into a language model. It stands in front of it (`read`), between two passes of it
(`hidden_states`, `prefill`, `decode_step`), and is itself a `LanguageModel`: what can be done with a frozen LM
(`logits`, `score`, `generate`) can be done with an LM that has a method around it, by the same code.

    tokens ──read──▶ embeddings ──hidden_states──▶ hidden ──unembed──▶ logits          all targets at once
    tokens ──read──▶ embeddings ──prefill──▶ hidden, cache ──decode_step──▶ hidden, cache ...   token by token
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float, Int, Shaped

from frozen_jax.errors import UserError
from frozen_jax.lm import decoding
from frozen_jax.lm.layers import Dropout
from frozen_jax.partitioning import spread_rows
from frozen_jax.types import Array, EncoderInputs, Segments


class Cache(Protocol):
    """What token-by-token decoding keeps. Rows are hypotheses: `rows_per_input` consecutive ones for each input."""

    def select_rows(self, rows: Int[Array, " R"]) -> Cache:
        """Returns the cache whose row i is row rows[i] of this one; rows stay with their input."""
        ...


class LanguageModel(nnx.Module):
    """The seam, abstract, and what is written once over it.

    The six abstract calls are traced inside compiled functions; `logits`, `score` and `generate` compile themselves,
    once for each shape.

    Attributes:
        eos_id: the token that ends a text.
        pad_id: the token that fills up rows when no lengths are given; T5's is 0.
    """

    eos_id: int
    pad_id: int

    @abc.abstractmethod
    def embed(self, tokens: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
        """Returns the embeddings of tokens, in the compute dtype."""

    @abc.abstractmethod
    def encode(self, inputs: Float[Array, "B S D"], inputs_mask: Bool[Array, "B S"]) -> Float[Array, "B S D"]:
        """Returns the hidden states of all inputs, for methods that read what the LM makes of them."""

    @abc.abstractmethod
    def hidden_states(
        self,
        inputs: Float[Array, "B S D"],
        inputs_mask: Bool[Array, "B S"],
        targets: Float[Array, "R T D"],
        dropout: Dropout | None = None,
        segments: Segments | None = None,
    ) -> Float[Array, "R T D"]:
        """Runs the stacks: the hidden state at t predicts target t from the inputs and the targets before t.

        Args:
            inputs: embeddings of the inputs.
            inputs_mask: True where an input is real.
            targets: embeddings of the targets, not shifted; the shift is done inside. R is a multiple of B: so many
                consecutive rows (answer choices) share one input, which is read once.
            dropout: for training the LM itself; frozen LMs have none.
            segments: where several examples share a row: tokens see those of their own example alone.
        """

    @abc.abstractmethod
    def prefill(
        self,
        inputs: Float[Array, "B S D"],
        inputs_mask: Bool[Array, "B S"],
        *,
        max_length: int,
        rows_per_input: int = 1,
    ) -> tuple[Float[Array, "R D"], Any]:
        """Reads the inputs once and returns the hidden state that predicts the first target, and the cache.

        Args:
            inputs: embeddings of the inputs.
            inputs_mask: True where an input is real.
            max_length: the most tokens that will be decoded.
            rows_per_input: hypotheses an input; R = B * rows_per_input.
        """

    @abc.abstractmethod
    def decode_step(self, embeddings: Float[Array, "R D"], cache: Any) -> tuple[Float[Array, "R D"], Any]:
        """Takes one more token's embeddings and returns the hidden state that predicts the next, and the cache."""

    @abc.abstractmethod
    def unembed(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Returns logits in float32."""

    def read(
        self, inputs: Int[Array, "B S"], inputs_mask: Bool[Array, "B S"], encoder_inputs: EncoderInputs | None = None
    ) -> tuple[Float[Array, "B S2 D"], Bool[Array, "B S2"]]:
        """Returns the embeddings that the LM reads and their mask. What stands *before* a frozen LM overrides this.

        Args:
            inputs: token ids, padded on the right.
            inputs_mask: True where an input is real.
            encoder_inputs: the same for a method whose encoder has another vocabulary; an LM itself has no use for it.
        """
        del encoder_inputs
        return self.embed(inputs), inputs_mask

    def target_logits(
        self,
        inputs: Int[Array, "B S"],
        inputs_mask: Bool[Array, "B S"],
        targets: Int[Array, "R T"],
        dropout: Dropout | None = None,
        segments: Segments | None = None,
        encoder_inputs: EncoderInputs | None = None,
    ) -> Float[Array, "R T V"]:
        """The whole differentiable path, tokens to float32 logits: what training and scoring are made of."""
        embeddings, mask = self.read(inputs, inputs_mask, encoder_inputs)
        return self.unembed(self.hidden_states(embeddings, mask, self.embed(targets), dropout, segments))

    def logits(
        self,
        inputs: Int[Array, "B S"],
        targets: Int[Array, "R T"],
        *,
        inputs_lengths: Int[Array, " B"] | None = None,
        encoder_inputs: EncoderInputs | None = None,
    ) -> Float[Array, "R T V"]:
        """Returns the logits of every target token, given the inputs and the targets before it.

        Args:
            inputs: token ids, padded on the right.
            targets: token ids, not shifted; one row an input, or as many consecutive ones for each.
            inputs_lengths: how many tokens of each row are real; without it, `pad_id` is padding.
            encoder_inputs: see `read`.
        """
        mask = _mask(inputs, inputs_lengths, self.pad_id)
        return _call(_logits, self, jnp.asarray(inputs), mask, jnp.asarray(targets), encoder_inputs)

    def score(
        self,
        inputs: Int[Array, "B S"],
        targets: Int[Array, "R T"],
        *,
        inputs_lengths: Int[Array, " B"] | None = None,
        targets_lengths: Int[Array, " R"] | None = None,
        encoder_inputs: EncoderInputs | None = None,
    ) -> Float[Array, " R"]:
        """Returns the log-likelihood of each row's targets in nats, summed over its real tokens.

        Args:
            inputs: token ids, padded on the right.
            targets: token ids, padded on the right, not shifted; one row an input, or as many consecutive ones (answer
                choices) for each: the input is then read once.
            inputs_lengths: how many input tokens of each row are real; without it, `pad_id` is padding.
            targets_lengths: the same for the targets.
            encoder_inputs: see `read`.
        """
        mask = _mask(inputs, inputs_lengths, self.pad_id)
        weights = _mask(targets, targets_lengths, self.pad_id)
        return _call(_score, self, jnp.asarray(inputs), mask, jnp.asarray(targets), weights, encoder_inputs)

    def generate(
        self,
        inputs: Int[Array, "B S"],
        *,
        max_length: int,
        num_beams: int = 1,
        length_penalty: float = 0.6,
        inputs_lengths: Int[Array, " B"] | None = None,
        encoder_inputs: EncoderInputs | None = None,
    ) -> Int[Array, "B T"]:
        """Writes at most `max_length` tokens for each row: greedily, or the best of a beam search.

        Args:
            inputs: token ids, padded on the right.
            max_length: T, the most tokens to write.
            num_beams: 1 is greedy.
            length_penalty: beams are ranked by log-likelihood / ((5 + length) / 6) ** length_penalty (T5X's alpha).
            inputs_lengths: how many tokens of each row are real; without it, `pad_id` is padding.
            encoder_inputs: see `read`.

        Returns:
            The tokens, the end-of-sequence token included, `pad_id` after it.

        Raises:
            UserError: if max_length or num_beams is less than one.
        """
        if max_length < 1 or num_beams < 1:
            raise UserError(f"generate: max_length is {max_length} and num_beams {num_beams}; both must be at least 1")
        search = functools.partial(_generate, max_length=max_length, num_beams=num_beams, length_penalty=length_penalty)
        mask = _mask(inputs, inputs_lengths, self.pad_id)
        return _call(_Static(search), self, jnp.asarray(inputs), mask, encoder_inputs)


class _Static:
    """A partial function that compares by what it binds, so that compiled functions are found again."""

    def __init__(self, partial: functools.partial) -> None:
        self.partial = partial
        self.identity = (partial.func, tuple(sorted(partial.keywords.items())))

    def __call__(self, *args: Any) -> Any:
        return self.partial(*args)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Static) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)


def _call(
    function: Callable[..., Any], model: LanguageModel, *arrays: Shaped[Array, "..."] | EncoderInputs | None
) -> Any:
    """Calls `function(model, *arrays)` compiled, rows spread over the mesh on which the model lives."""
    graphdef, state = nnx.split(model)
    return _run(function, graphdef, state, *spread_rows(arrays, like=jax.tree.leaves(state)[0]))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(function: Callable[..., Any], graphdef: Any, state: Any, *arrays: Any) -> Any:
    return function(nnx.merge(graphdef, state), *arrays)


def _mask(tokens: Int[Array, "B S"], lengths: Int[Array, " B"] | None, pad_id: int) -> Bool[Array, "B S"]:
    if lengths is None:
        return jnp.asarray(tokens) != pad_id
    return jnp.arange(tokens.shape[1])[None, :] < jnp.asarray(lengths)[:, None]


def _logits(
    model: LanguageModel,
    inputs: Int[Array, "B S"],
    mask: Bool[Array, "B S"],
    targets: Int[Array, "R T"],
    encoder_inputs: EncoderInputs | None,
) -> Float[Array, "R T V"]:
    return model.target_logits(inputs, mask, targets, encoder_inputs=encoder_inputs)


def _score(
    model: LanguageModel,
    inputs: Int[Array, "B S"],
    mask: Bool[Array, "B S"],
    targets: Int[Array, "R T"],
    weights: Bool[Array, "R T"],
    encoder_inputs: EncoderInputs | None,
) -> Float[Array, " R"]:
    logits = model.target_logits(inputs, mask, targets, encoder_inputs=encoder_inputs)
    logprobs = target_log_probs(logits, targets)
    return jnp.sum(jnp.where(weights, logprobs, 0.0), axis=1)


def target_log_probs(logits: Float[Array, "B T V"], targets: Int[Array, "B T"]) -> Float[Array, "B T"]:
    """Returns log p of each target token, without forming the [B, T, V] array of all of them."""
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def _generate(
    model: LanguageModel,
    inputs: Int[Array, "B S"],
    mask: Bool[Array, "B S"],
    encoder_inputs: EncoderInputs | None,
    *,
    max_length: int,
    num_beams: int,
    length_penalty: float,
) -> Int[Array, "B T"]:
    def step(tokens: Int[Array, " R"], cache: Any) -> tuple[Float[Array, "R V"], Any]:
        hidden, cache = model.decode_step(model.embed(tokens), cache)
        return model.unembed(hidden), cache

    embeddings, mask = model.read(inputs, mask, encoder_inputs)
    hidden, cache = model.prefill(embeddings, mask, max_length=max_length, rows_per_input=num_beams)
    first = model.unembed(hidden)
    if num_beams == 1:
        return decoding.greedy(step, first, cache, max_length=max_length, eos_id=model.eos_id, pad_id=model.pad_id)
    return decoding.beam_search(
        step,
        first,
        cache,
        num_beams=num_beams,
        max_length=max_length,
        length_penalty=length_penalty,
        eos_id=model.eos_id,
        pad_id=model.pad_id,
    )[0][:, 0]
