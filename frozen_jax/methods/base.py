"""What a method is: a frozen LM with something trained around it, and itself a language model.

    text x ──prepare──▶ text x' ──tokens──▶ [before] ──▶ frozen LM ──[between]──▶ frozen LM ──▶ y
             on hosts                        on device, differentiable

A method overrides `prepare`, or the calls of the seam that it changes, or both; what it does not override goes straight
to the LM. What stands before the LM overrides `read`; what stands between two passes overrides `hidden_states`,
`prefill` and `decode_step`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import jax
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from frozen_jax.freezing import Rules
from frozen_jax.lm.base import LanguageModel
from frozen_jax.lm.layers import Dropout
from frozen_jax.types import Array, EncoderInputs, Segments


class Method(LanguageModel):
    """A frozen LM and what is trained around it.

    Attributes:
        lm: the frozen LM, under the path `lm/`.
        rules: which parameters are trained, see `freezing.trainable_mask`; gin may set others for a run.
        settings: names and values of arguments that the shapes of what is trained do not tell; a checkpoint holds them,
            and is refused where they are others. A tuple, since it is part of what compiled functions are found by.
        packs: whether several examples may share a row; not where something stands in front of every example.
    """

    rules: ClassVar[Rules] = (("lm/.*", "freeze"), (".*", "train"))
    packs: ClassVar[bool] = False
    settings: tuple[tuple[str, Any], ...] = ()

    def __init__(self, lm: LanguageModel) -> None:
        """Holds the LM."""
        self.lm = lm
        self.name, self.eos_id, self.pad_id, self.vocab_size = lm.name, lm.eos_id, lm.pad_id, lm.vocab_size
        self.context_length, self.prompt_length = lm.context_length, lm.prompt_length
        self.stop_ids, self.first_token, self.reads_on = lm.stop_ids, lm.first_token, lm.reads_on

    def prepare(self, examples: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
        """Turns examples as text into examples as text, on the hosts; by default they stay as they are."""
        return examples

    def dropout(self, key: PRNGKeyArray) -> Dropout | None:
        """Returns the dropout of one training step; frozen weights have none."""
        del key
        return None

    def read(
        self, inputs: Int[Array, "B S"], inputs_mask: Bool[Array, "B S"], encoder_inputs: EncoderInputs | None = None
    ) -> tuple[Float[Array, "B S2 D"], Bool[Array, "B S2"]]:
        """Returns what the LM reads: here, the inputs alone."""
        return self.lm.read(inputs, inputs_mask, encoder_inputs)

    def embed(self, tokens: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
        """Returns the LM's embeddings of tokens."""
        return self.lm.embed(tokens)

    def encode(self, inputs: Float[Array, "B S D"], inputs_mask: Bool[Array, "B S"]) -> Float[Array, "B S D"]:
        """Returns what the LM makes of its inputs."""
        return self.lm.encode(inputs, inputs_mask)

    def hidden_states(
        self,
        inputs: Float[Array, "B S D"],
        inputs_mask: Bool[Array, "B S"],
        targets: Float[Array, "R T D"],
        dropout: Dropout | None = None,
        segments: Segments | None = None,
    ) -> Float[Array, "R T D"]:
        """Runs the LM's stacks."""
        return self.lm.hidden_states(inputs, inputs_mask, targets, dropout, segments)

    def prefill(
        self,
        inputs: Float[Array, "B S D"],
        inputs_mask: Bool[Array, "B S"],
        *,
        max_length: int,
        rows_per_input: int = 1,
        prompt: Any = None,
    ) -> tuple[Float[Array, "R D"], Any]:
        """Lets the LM read the inputs."""
        how: dict[str, Any] = {"max_length": max_length, "rows_per_input": rows_per_input, "prompt": prompt}
        return self.lm.prefill(inputs, inputs_mask, **how)

    def read_prompt(self, prompt: Float[Array, "P D"]) -> Any:
        """Lets the LM read a prompt."""
        return self.lm.read_prompt(prompt)

    def decode_step(self, embeddings: Float[Array, "R D"], cache: Any) -> tuple[Float[Array, "R D"], Any]:
        """Lets the LM take one more token."""
        return self.lm.decode_step(embeddings, cache)

    def unembed(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Returns the LM's logits."""
        return self.lm.unembed(hidden)


def parameter_count(parameters: Mapping[str, jax.Array | jax.ShapeDtypeStruct]) -> int:
    """Returns how many numbers a dictionary of parameters holds."""
    return sum(array.size for array in parameters.values())
