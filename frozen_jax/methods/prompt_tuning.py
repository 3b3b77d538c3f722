"""Prompt tuning, the baseline that stands before the LM (Lester et al. 2021): one static prompt for every input.

    x ──embed──▶ [p ; x] ──▶ frozen LM ──▶ y

    prompt      [P, D]      trained, float32
    lm/**                   frozen

`frozen_jax.prompts` has what it may start from.
"""

from __future__ import annotations

import gin
import jax
from flax import nnx
from jaxtyping import Bool, Float, Int

from frozen_jax.lm.base import LanguageModel
from frozen_jax.methods.base import Method
from frozen_jax.prompts import Initializer, prepend, sampled_vocabulary
from frozen_jax.types import Array, EncoderInputs


@gin.configurable
class PromptTuning(Method):
    """A static prompt in front of the inputs of a frozen LM."""

    def __init__(
        self, lm: LanguageModel, length: int = 20, initializer: Initializer = sampled_vocabulary, seed: int = 0
    ) -> None:
        """Makes the prompt.

        Args:
            lm: the frozen LM.
            length: P; Lester et al. use 100 and find little gain beyond 20, our default.
            initializer: one of the functions of `frozen_jax.prompts`.
            seed: of the initializer.
        """
        super().__init__(lm)
        self.prompt = nnx.Param(initializer(lm, length, jax.random.key(seed)))

    def read(
        self, inputs: Int[Array, "B S"], inputs_mask: Bool[Array, "B S"], encoder_inputs: EncoderInputs | None = None
    ) -> tuple[Float[Array, "B PS D"], Bool[Array, "B PS"]]:
        """Puts the prompt in front of the inputs."""
        embeddings, mask = self.lm.read(inputs, inputs_mask, encoder_inputs)
        return prepend(self.prompt[...][None], embeddings, mask)

    def shared_prompt(self) -> Float[Array, "P D"]:
        """Returns the prompt."""
        return self.prompt[...]
