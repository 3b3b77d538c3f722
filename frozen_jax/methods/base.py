"""What a method is: a frozen LM with something trained around it, and itself a language model.

    text x ──prepare──▶ text x' ──tokens──▶ [before] ──▶ frozen LM ──[between]──▶ frozen LM ──▶ y
             on hosts                        on device, differentiable

A method overrides `prepare`, or the calls of the seam that it changes, or both; what it does not override goes straight
to the LM. What stands before the LM overrides `read`; what stands between two passes overrides `hidden_states`,
`prefill` and `decode_step`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from frozen_jax.errors import UserError
from frozen_jax.freezing import Rules
from frozen_jax.lm.base import LanguageModel
from frozen_jax.lm.layers import Dropout
from frozen_jax.types import Array, Batch, EncoderInputs, Segments

Example = Mapping[str, Any]  # "inputs" as text, and whatever else belongs to it


class Method(LanguageModel):
    """A frozen LM and what is trained around it.

    Attributes:
        lm: the frozen LM, under the path `lm/`.
        rules: which parameters are trained, see `freezing.trainable_mask`; gin may set others for a run.
        settings: names and values of arguments that the shapes of what is trained do not tell; a checkpoint holds them,
            and is refused where they are others. A tuple, since it is part of what compiled functions are found by.
        packs: whether several examples may share a row; not where something stands in front of every example.
        prepares: whether `prepare` does anything, so that examples are wanted as text first.
    """

    rules: Rules = (("lm/.*", "freeze"), (".*", "train"))
    packs: ClassVar[bool] = False
    prepares: bool = False
    settings: tuple[tuple[str, Any], ...] = ()

    def __init__(self, lm: LanguageModel) -> None:
        """Holds the LM."""
        self.lm = lm
        self.name, self.eos_id, self.pad_id, self.vocab_size = lm.name, lm.eos_id, lm.pad_id, lm.vocab_size
        self.context_length, self.prompt_length = lm.context_length, lm.prompt_length
        self.stop_ids, self.first_token, self.reads_on = lm.stop_ids, lm.first_token, lm.reads_on

    @property
    def wrapped(self) -> LanguageModel:
        """What the calls of the seam go to."""
        return self.lm

    def prepare(self, examples: Sequence[Example], split: str, length: int) -> Mapping[str, Sequence[Example]]:
        """Turns examples as text into examples as text, on the hosts; by default they stay as they are.

        Args:
            examples: "inputs" and whatever else the task gives them.
            split: where they are from; "infer" for questions of users.
            length: the most tokens of inputs.

        Returns:
            One set or several, by what is put behind the task's name: "" for the only one. Each has as many examples as
            were given, in their order; their "inputs" are what the LM is to read.
        """
        del split, length
        return {"": examples}

    def dropout(self, key: PRNGKeyArray) -> Dropout | None:
        """Returns the dropout of one training step; frozen weights have none."""
        del key
        return None

    def loss(
        self, batch: Batch, key: PRNGKeyArray, z_loss: float
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Returns what training lowers, summed over a batch, and sums for the metrics.

        Here it is the cross entropy of the targets in nats, plus z-loss. The loss, `accuracy` and the gradient are
        divided by `weight`, which here counts real target tokens.

        Args:
            batch: the examples; tokens of weight 0 count nowhere.
            key: for dropout, if the method has any.
            z_loss: weight of log(Z)**2, which keeps logits from drifting (T5X's default is 1e-4).
        """
        logits = self.batch_logits(batch, self.dropout(key))
        log_z = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.take_along_axis(logits, batch.targets[..., None], axis=-1)[..., 0]
        weights = batch.targets_weights
        loss = jnp.sum(weights * (log_z - chosen + z_loss * log_z**2))
        correct = jnp.sum(jnp.where(jnp.argmax(logits, axis=-1) == batch.targets, weights, 0.0))
        real = jnp.sum(batch.inputs_mask, dtype=jnp.float32) + jnp.sum(weights > 0, dtype=jnp.float32)
        return loss, {"loss": loss, "accuracy": correct, "weight": jnp.sum(weights), "real_tokens": real}

    def batch_logits(self, batch: Batch, dropout: Dropout | None) -> Float[Array, "B T V"]:
        """Returns the logits of a batch's targets."""
        return self.target_logits(
            batch.inputs, batch.inputs_mask, batch.targets, dropout, batch.segments, batch.encoder_inputs
        )

    def read(
        self, inputs: Int[Array, "B S"], inputs_mask: Bool[Array, "B S"], encoder_inputs: EncoderInputs | None = None
    ) -> tuple[Float[Array, "B S2 D"], Bool[Array, "B S2"]]:
        """Returns what the LM reads: here, the inputs alone."""
        return self.wrapped.read(inputs, inputs_mask, encoder_inputs)

    def embed(self, tokens: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
        """Returns the LM's embeddings of tokens."""
        return self.wrapped.embed(tokens)

    def encode(self, inputs: Float[Array, "B S D"], inputs_mask: Bool[Array, "B S"]) -> Float[Array, "B S D"]:
        """Returns what the LM makes of its inputs."""
        return self.wrapped.encode(inputs, inputs_mask)

    def hidden_states(
        self,
        inputs: Float[Array, "B S D"],
        inputs_mask: Bool[Array, "B S"],
        targets: Float[Array, "R T D"],
        dropout: Dropout | None = None,
        segments: Segments | None = None,
    ) -> Float[Array, "R T D"]:
        """Runs the LM's stacks."""
        return self.wrapped.hidden_states(inputs, inputs_mask, targets, dropout, segments)

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
        return self.wrapped.prefill(inputs, inputs_mask, **how)

    def read_prompt(self, prompt: Float[Array, "P D"]) -> Any:
        """Lets the LM read a prompt."""
        return self.wrapped.read_prompt(prompt)

    def decode_step(self, embeddings: Float[Array, "R D"], cache: Any) -> tuple[Float[Array, "R D"], Any]:
        """Lets the LM take one more token."""
        return self.wrapped.decode_step(embeddings, cache)

    def unembed(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Returns the LM's logits."""
        return self.wrapped.unembed(hidden)


class TextMethod(Method):
    """A method that only prepares text, for another method around the frozen LM; it has no parameters of its own.

    What is trained is the other's, under its name here: `reader/prompt`. The LM inside both is the same object.
    """

    prepares = True

    def __init__(self, name: str, inner: LanguageModel) -> None:
        """Holds the other method.

        Args:
            name: of the attribute under which it is held.
            inner: the other method.

        Raises:
            UserError: if it is none.
        """
        if not isinstance(inner, Method):
            what = f"{type(self).__name__}.{name} is {type(inner).__name__}"
            raise UserError(f"{what}; give it a method, such as @PromptTuning()")
        super().__init__(inner)
        setattr(self, name, inner)
        self._inner, self.lm = name, inner.lm
        self.rules = tuple((f"{name}/{pattern}", decision) for pattern, decision in inner.rules)
        self.settings = inner.settings

    @property
    def wrapped(self) -> Method:
        """The other method."""
        return getattr(self, self._inner)

    def dropout(self, key: PRNGKeyArray) -> Dropout | None:
        """Returns the other's."""
        return self.wrapped.dropout(key)

    def shared_prompt(self) -> Float[Array, "P D"] | None:
        """Returns the other's."""
        return self.wrapped.shared_prompt()


def parameter_count(parameters: Mapping[str, jax.Array | jax.ShapeDtypeStruct]) -> int:
    """Returns how many numbers a dictionary of parameters holds."""
    return sum(array.size for array in parameters.values())
