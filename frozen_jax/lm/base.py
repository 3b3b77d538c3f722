"""The seam: the few calls through which everything reaches a frozen LM.

A method never looks into a language model. It stands in front of it (`read`), between two passes of it, and is itself
a `LanguageModel`: what can be done with a frozen LM (`logits`, `score`, `generate`) can be done with an LM that has a
method around it, by the same code. An LM proper has in addition what passes are chained by, see `passes`.

    tokens ──read──▶ embeddings ──hidden_states──▶ hidden ──unembed──▶ logits          all targets at once
    tokens ──read──▶ embeddings ──prefill──▶ hidden, cache ──decode_step──▶ hidden, cache ...   token by token
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int, Shaped

from frozen_jax.batching import Tokens
from frozen_jax.errors import UserError
from frozen_jax.lm.decoding import Greedy, Strategy
from frozen_jax.lm.generation import Generated, Stop, Writer, generate_many
from frozen_jax.lm.layers import Dropout
from frozen_jax.partitioning import spread_rows
from frozen_jax.types import Array, EncoderInputs, Segments

GREEDY, NO_STOP = Greedy(), Stop()


class LanguageModel(nnx.Module):
    """The seam, abstract, and what is written once over it.

    The six abstract calls are traced inside compiled functions; `logits`, `score` and `generate` compile themselves,
    once for each shape.

    Attributes:
        name: where it came from, for messages.
        eos_id: the token that ends a text.
        stop_ids: others that do, of LMs that know several.
        pad_id: the token that fills up rows when no lengths are given; T5's is 0.
        vocab_size: V, rows of the embedding table.
        first_token: what the LM itself puts in front of all that is read; None where it puts nothing there.
        reads_on: whether the first target is predicted by the last input, so that there has to be one.
        context_length: the most tokens that can be read and written together; None where nothing bounds them.
        prompt_length: P, how many vectors `read` puts in front of every input.
    """

    name: str
    eos_id: int
    pad_id: int
    vocab_size: int
    stop_ids: tuple[int, ...] = ()
    first_token: int | None = None
    reads_on: bool = False
    context_length: int | None = None
    prompt_length: int = 0

    def check_context(
        self,
        inputs_lengths: Int[Array, " B"] | Sequence[int],
        targets_length: int,
        ids: Int[Array, " B"] | Sequence[int] | None = None,
    ) -> None:
        """Looks whether there are inputs to read on from, and whether they fit into the LM's context with the targets.

        Args:
            inputs_lengths: tokens of each input.
            targets_length: the most tokens that stand behind.
            ids: the inputs' numbers, for messages; None is their places.

        Raises:
            UserError: if not; nothing is ever cut silently.
        """
        lengths = np.asarray(inputs_lengths)
        if not len(lengths):
            raise UserError("there are no inputs: give at least one row")
        numbers = range(len(lengths)) if ids is None else ids
        if self.reads_on and not self.prompt_length and self.first_token is None and not lengths.min():
            raise UserError(
                f"input {numbers[int(lengths.argmin())]} is empty, and nothing stands before it; give it a token, a "
                "template, or load_lm.bos_first = True"
            )
        if self.context_length is None:
            return
        row = int(lengths.argmax())
        if (over := int(lengths[row]) + self.prompt_length + targets_length - self.context_length) > 0:
            prompt = f" and a prompt of {self.prompt_length}" if self.prompt_length else ""
            raise UserError(
                f"input {numbers[row]} has {lengths[row]} tokens; with {targets_length} to write{prompt} that is "
                f"{over} more than the LM's context of {self.context_length}"
            )

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
        prompt: Any = None,
    ) -> tuple[Float[Array, "R D"], Any]:
        """Reads the inputs once and returns the hidden state that predicts the first target, and the cache.

        Args:
            inputs: embeddings of the inputs.
            inputs_mask: True where an input is real.
            max_length: the most tokens that will be decoded.
            rows_per_input: hypotheses an input; R = B * rows_per_input.
            prompt: what `read_prompt` gave for the vectors that stand before all inputs, and are not among them.
        """

    @abc.abstractmethod
    def decode_step(self, embeddings: Float[Array, "R D"], cache: Any) -> tuple[Float[Array, "R D"], Any]:
        """Takes one more token's embeddings and returns the hidden state that predicts the next, and the cache."""

    @abc.abstractmethod
    def unembed(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Returns logits in float32."""

    def shared_prompt(self) -> Float[Array, "P D"] | None:
        """Returns what `read` puts in front of every input alike; None if there is nothing of the kind."""
        return None

    def read_prompt(self, prompt: Float[Array, "P D"]) -> Any:
        """Reads a prompt once for all inputs, for `prefill`; None where inputs and prompt can only be read together."""
        del prompt

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
        self.check_context(mask.sum(axis=1), targets.shape[1])
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
        self.check_context(mask.sum(axis=1), int(weights.sum(axis=1).max()))
        return _call(score_rows, self, jnp.asarray(inputs), mask, jnp.asarray(targets), weights, encoder_inputs)

    def generate(
        self,
        inputs: Int[Array, "B S"],
        *,
        max_length: int,
        strategy: Strategy = GREEDY,
        stop: Stop = NO_STOP,
        inputs_lengths: Int[Array, " B"] | None = None,
        encoder_inputs: EncoderInputs | None = None,
        ids: Int[Array, " B"] | None = None,
    ) -> Generated:
        """Writes at most `max_length` tokens for each row, all rows at once.

        Args:
            inputs: token ids, padded on the right.
            max_length: T, the most tokens to write.
            strategy: `Greedy()`, `Sample(...)` or `Beam(...)` of `lm.decoding`.
            stop: what ends a text besides the end-of-sequence token.
            inputs_lengths: how many tokens of each row are real; without it, `pad_id` is padding.
            encoder_inputs: see `read`.
            ids: numbers of the examples, by which samples are drawn; by default those of the rows.

        Raises:
            UserError: if max_length is less than one, inputs and texts do not fit into the LM's context, or logits are
                not numbers.
        """
        mask = _mask(inputs, inputs_lengths, self.pad_id)
        self.check_context(mask.sum(axis=1), max_length, ids)
        return Writer(self, strategy, max_length, stop).write(np.asarray(inputs), mask, encoder_inputs, ids)

    def generate_many(
        self,
        inputs: Sequence[Tokens],
        *,
        max_length: int,
        slots: int,
        strategy: Strategy = GREEDY,
        stop: Stop = NO_STOP,
        encoder_inputs: Sequence[Tokens] | None = None,
        ids: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Generated]]:
        """Writes texts for any number of inputs: where one has ended, another begins.

        Args:
            inputs: token ids of each.
            max_length: T, the most tokens to write.
            slots: inputs that are worked on at once.
            strategy: see `generate`.
            stop: see `generate`.
            encoder_inputs: see `read`.
            ids: see `generate`.

        Yields:
            The number of an input and what was written for it, as soon as its texts have ended; in no order.

        Raises:
            UserError: as `generate`.
        """
        if len(inputs):
            self.check_context([len(row) for row in inputs], max_length, ids)
        writer = Writer(self, strategy, max_length, stop)
        return generate_many(writer, inputs, slots, encoder_inputs=encoder_inputs, ids=ids)


def _call(
    function: Callable[..., Any], model: LanguageModel, *arrays: Shaped[Array, "..."] | EncoderInputs | None
) -> Any:
    """Calls `function(model, *arrays)` compiled, rows spread over the mesh on which the model lives."""
    graphdef, state = nnx.split(model)
    return run_compiled(function, graphdef, state, *spread_rows(arrays, like=jax.tree.leaves(state)[0]))


@functools.partial(jax.jit, static_argnums=(0, 1))
def run_compiled(function: Callable[..., Any], graphdef: Any, state: Any, *arrays: Any) -> Any:
    """Calls `function(model, *arrays)` of a model that is split."""
    return function(nnx.merge(graphdef, state), *arrays)


def _mask(tokens: Int[Array, "B S"], lengths: Int[Array, " B"] | None, pad_id: int) -> Bool[np.ndarray, "B S"]:
    """On the host, where it is looked at first: `check_context` shall not wait for the device."""
    if lengths is None:
        return np.asarray(tokens) != pad_id
    return np.arange(tokens.shape[1])[None, :] < np.asarray(lengths)[:, None]


def _logits(
    model: LanguageModel,
    inputs: Int[Array, "B S"],
    mask: Bool[Array, "B S"],
    targets: Int[Array, "R T"],
    encoder_inputs: EncoderInputs | None,
) -> Float[Array, "R T V"]:
    return model.target_logits(inputs, mask, targets, encoder_inputs=encoder_inputs)


def score_rows(
    model: LanguageModel,
    inputs: Int[Array, "B S"],
    mask: Bool[Array, "B S"],
    targets: Int[Array, "R T"],
    weights: Bool[Array, "R T"],
    encoder_inputs: EncoderInputs | None,
) -> Float[Array, " R"]:
    """Returns the log-likelihood of each row's targets, see `LanguageModel.score`."""
    logits = model.target_logits(inputs, mask, targets, encoder_inputs=encoder_inputs)
    logprobs = target_log_probs(logits, targets)
    return jnp.sum(jnp.where(weights, logprobs, 0.0), axis=1)


def target_log_probs(logits: Float[Array, "B T V"], targets: Int[Array, "B T"]) -> Float[Array, "B T"]:
    """Returns log p of each target token, without forming the [B, T, V] array of all of them."""
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)
