"""A dual encoder: questions and passages become vectors, near each other where a passage answers a question.

    question ──embed──▶ encoder ──mean over tokens──▶ projection ──to length 1──▶ vector ─┐
                                                                                         ├─ cosine
    passage ───embed──▶ encoder ──mean over tokens──▶ projection ──to length 1──▶ vector ─┘

    projection/kernel    [D, W]    trained
    lm/**                          trained

One tower for both, a T5's encoder: GTR (Ni et al. 2021), whose checkpoints load. It learns as DPR does (Karpukhin et
al. 2020): of all passages in a batch, the positive ones of other questions and the hard negatives of all, the right one
shall be the nearest. An example's inputs are the question, its targets the passage that answers it, its negatives a
passage that does not but looks as if, found by BM25. Not of GTR: its second loss, from passages to questions.
"""

from __future__ import annotations

import gin
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from frozen_jax.errors import UserError
from frozen_jax.freezing import Rules
from frozen_jax.lm.base import LanguageModel
from frozen_jax.lm.layers import Dense
from frozen_jax.lm.pretrained.sentence_folders import open_projection
from frozen_jax.methods.base import Method
from frozen_jax.prompts import width_of
from frozen_jax.types import Array, Batch

_NEVER = -1e9  # the score of what is no answer to choose from


@gin.configurable
class DualEncoder(Method):
    """One tower that makes vectors of questions and passages; it writes nothing."""

    rules: Rules = ((".*", "train"),)

    def __init__(
        self,
        lm: LanguageModel,
        *,
        width: int | None = None,
        temperature: float = 0.05,
        projection: str | None = None,
        seed: int = 0,
    ) -> None:
        """Makes the projection.

        Args:
            lm: whose encoder is the tower; best loaded with `num_decoder_layers=0`, or a decoder is kept for nothing.
            width: W of the vectors; None is D. GTR has 768 at every size.
            temperature: by which cosines are divided in the loss; our choice.
            projection: where it starts: a sentence-transformers folder or hub id, such as GTR's, for `lm` as well. None
                is at random.
            seed: of that.

        Raises:
            UserError: for a temperature that is not positive, or a projection of another width.
        """
        super().__init__(lm)
        if temperature <= 0:
            raise UserError(f"DualEncoder.temperature is {temperature}; give a positive number")
        self.temperature = temperature
        inputs = width_of(lm)
        if projection is None:
            self.projection = Dense(inputs, width or inputs, rngs=nnx.Rngs(seed))
            return
        kernel = open_projection(projection).read_all()
        if kernel.shape != (inputs, width or kernel.shape[1]):
            wanted = f"{inputs} to {width or 'any'}"
            raise UserError(
                f"{projection}: its projection goes from {kernel.shape[0]} to {kernel.shape[1]}, not {wanted}"
            )
        self.projection = Dense(*kernel.shape, rngs=nnx.Rngs(seed))
        self.projection.kernel[...] = jnp.asarray(kernel, jnp.float32)

    def vectors(self, tokens: Int[Array, "B S"], mask: Bool[Array, "B S"]) -> Float[Array, "B W"]:
        """Returns the vectors of texts, of length 1, in float32.

        Args:
            tokens: of questions or passages, end-of-sequence token included, padded on the right.
            mask: True where a token is real; a row without any gets the zero vector.
        """
        hidden = self.lm.encode(self.lm.embed(tokens), mask).astype(jnp.float32)
        weights = mask.astype(jnp.float32)[..., None]
        mean = jnp.sum(hidden * weights, axis=1) / jnp.maximum(jnp.sum(weights, axis=1), 1)
        projected = self.projection(mean)
        return projected * jax.lax.rsqrt(jnp.maximum(jnp.sum(projected**2, axis=1, keepdims=True), 1e-24))

    def loss(
        self, batch: Batch, key: PRNGKeyArray, z_loss: float
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Returns the cross entropy in nats of choosing each question's passage among all of the batch, and sums.

        A passage that stands in the batch twice is nobody's wrong answer. With accumulation a question chooses among
        the passages of its microbatch alone: fewer microbatches are a harder choice, and another loss.

        Args:
            batch: questions as inputs, passages as targets, and negatives if there are any.
            key: of no use: there is no dropout.
            z_loss: see `Method.loss`.
        """
        del key
        real, passages = batch.targets_weights > 0, [(batch.targets, batch.targets_weights > 0)]
        if batch.negatives is not None:
            passages.append((batch.negatives.tokens, batch.negatives.mask))
        questions = self.vectors(batch.inputs, batch.inputs_mask)
        scores = jnp.concatenate([questions @ self.vectors(*texts).T for texts in passages], axis=1) / self.temperature
        wrong = jnp.concatenate([_others(batch.targets, real, *texts) for texts in passages], axis=1)
        rows = jnp.arange(len(questions))
        right = scores[rows, rows]
        scores = jnp.where(wrong, scores, _NEVER).at[rows, rows].set(right)
        weights = jnp.any(real, axis=1).astype(jnp.float32)
        log_z = jax.nn.logsumexp(scores, axis=1)
        loss = jnp.sum(weights * (log_z - right + z_loss * log_z**2))
        first = jnp.sum(jnp.where(jnp.argmax(scores, axis=1) == rows, weights, 0.0))
        tokens = sum(jnp.sum(mask, dtype=jnp.float32) for _, mask in [*passages, (None, batch.inputs_mask)])
        return loss, {"loss": loss, "accuracy": first, "weight": jnp.sum(weights), "real_tokens": jnp.asarray(tokens)}


def _others(
    targets: Int[Array, "B T"], real: Bool[Array, "B T"], tokens: Int[Array, "C N"], mask: Bool[Array, "C N"]
) -> Bool[Array, "B C"]:
    """Returns which passages of a batch are not the row's own, told by their tokens, nor padding."""
    width = max(targets.shape[1], tokens.shape[1])
    own, other = (
        jnp.pad(jnp.where(there, text, -1), ((0, 0), (0, width - text.shape[1])), constant_values=-1)
        for text, there in ((targets, real), (tokens, mask))
    )
    return jnp.any(own[:, None] != other[None], axis=2) & jnp.any(mask, axis=1)[None]
