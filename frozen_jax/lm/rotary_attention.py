"""Attention of Llama's family: rotary positions (Su et al. 2021), and heads of queries that share keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from frozen_jax.lm.backward import einsum
from frozen_jax.lm.layers import Dense, split_heads
from frozen_jax.types import Array

_BLOCK = 128
"""Queries that read at once, where none sees what stands behind it. Our choice, by benchmarks/README.md."""


class RotaryAttention(nnx.Module):
    """Attention with rotary positions and the 1/sqrt(K) scale, in which H/G heads of queries share one of keys."""

    def __init__(
        self, width: int, heads: int, kv_heads: int, head_dim: int, *, rngs: nnx.Rngs, use_bias: bool = False
    ) -> None:
        """Makes the maps query: D → H*K, key and value: D → G*K, with biases or without, and out: H*K → D."""
        self.heads, self.kv_heads = heads, kv_heads
        self.query = Dense(width, heads * head_dim, rngs=rngs, use_bias=use_bias)
        self.key = Dense(width, kv_heads * head_dim, rngs=rngs, use_bias=use_bias)
        self.value = Dense(width, kv_heads * head_dim, rngs=rngs, use_bias=use_bias)
        self.out = Dense(heads * head_dim, width, rngs=rngs)

    def queries_keys_values(
        self, x: Float[Array, "B Q D"], rotation: Float[Array, "2 #B 1 Q halfK"]
    ) -> tuple[Float[Array, "B H Q K"], Float[Array, "B G K Q"], Float[Array, "B G Q K"]]:
        """Returns what `attend` reads; queries and keys are rotated."""
        queries, keys = split_heads(self.query(x), self.heads), split_heads(self.key(x), self.kv_heads)
        keys = _rotated(keys, rotation).swapaxes(2, 3)
        return _rotated(queries, rotation), keys, split_heads(self.value(x), self.kv_heads)

    def attend(
        self,
        queries: Float[Array, "R H Q K"],
        keys: Sequence[Float[Array, "_B G K _S"]],
        values: Sequence[Float[Array, "_B G _S K"]],
        bias: Float[Array, "#R #Q S"],
    ) -> Float[Array, "R Q D"]:
        """Attends to one or several parts, each with a batch of its own: one of its rows serves R / batch of queries.

        Args:
            queries: rotated.
            keys: of each part, rotated.
            values: of each part.
            bias: added to the scores of all parts, which stand side by side. Where the last part has as many keys as
                there are queries, these are the same tokens: it hides from each what stands behind it, and in blocks
                of queries that is left out.
        """
        length, own = queries.shape[2], keys[-1].shape[3]
        size, contexts = _BLOCK if own == length else length, []
        for start in range(0, length, size):
            block, unseen = slice(start, start + size), max(0, length - start - size)
            last_keys, last_values = keys[-1][..., : own - unseen], values[-1][:, :, : own - unseen]
            parts = [*keys[:-1], last_keys], [*values[:-1], last_values]
            contexts.append(self._context(queries[:, :, block], *parts, bias[:, block, : bias.shape[2] - unseen]))
        return self.out(jnp.concatenate(contexts, axis=1))

    def _context(
        self,
        queries: Float[Array, "R H Q K"],
        keys: Sequence[Float[Array, "_B G K _S"]],
        values: Sequence[Float[Array, "_B G _S K"]],
        bias: Float[Array, "#R #Q S"],
    ) -> Float[Array, "R Q HK"]:
        """What `attend` takes from the values."""
        rows, _, length, width = queries.shape
        # Queries that share keys stand side by side in one product, so that the keys are read once.
        queries = queries.reshape(rows, keys[0].shape[1], -1, width) * width**-0.5
        scores = [
            _apart(einsum("bgqk,bgks->bgqs", _side_by_side(queries, len(part)), part).astype(jnp.float32), rows, length)
            for part in keys
        ]
        weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1) + bias[:, None, None], axis=-1)
        weights = weights.astype(queries.dtype).reshape(*queries.shape[:3], -1)
        ends = np.cumsum([part.shape[2] for part in values])[:-1]
        context = sum(
            _apart(einsum("bgqs,bgsk->bgqk", _side_by_side(weight, len(part)), part), rows, length)
            for weight, part in zip(jnp.split(weights, ends, axis=-1), values, strict=True)
        )
        context = jnp.moveaxis(context, 3, 1)  # [R, G, H/G, Q, K] to [R, Q, G, H/G, K]
        return context.reshape(rows, length, -1)


def _side_by_side(x: Float[Array, "R G X Y"], batch: int) -> Float[Array, "B G nX Y"]:
    """Puts the rows of one input side by side."""
    rows, groups, _, width = x.shape
    if rows != batch:
        x = x.reshape(batch, rows // batch, groups, -1, width).swapaxes(1, 2).reshape(batch, groups, -1, width)
    return x


def _apart(x: Float[Array, "B G nX Y"], rows: int, length: int) -> Float[Array, "R G h Q Y"]:
    """Undoes `_side_by_side`, and splits X into heads and positions."""
    batch, groups, _, width = x.shape
    if rows != batch:
        x = x.reshape(batch, groups, rows // batch, -1, width).swapaxes(1, 2)
    return x.reshape(rows, groups, -1, length, width)


def _rotated(x: Float[Array, "B H Q K"], rotation: Float[Array, "2 #B 1 Q halfK"]) -> Float[Array, "B H Q K"]:
    """Rotates the first half of the width against the second, by rotary positions (Su et al. 2021)."""
    cosine, sine = rotation.astype(x.dtype)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)


def rotation(
    positions: Int[Array, "B Q"], width: int, theta: float, factors: Sequence[float] = ()
) -> Float[Array, "2 #B 1 Q halfK"]:
    """Returns cosines and sines of the angles by which queries and keys are rotated, in float32 (Su et al. 2021).

    Args:
        positions: of the tokens.
        width: K of a head.
        theta: base of the frequencies.
        factors: divide them, one each; () is none.
    """
    frequencies = theta ** (-np.arange(0, width, 2, dtype=np.float64) / width) / np.array(factors or 1.0)
    angles = positions[:, None, :, None].astype(jnp.float32) * jnp.asarray(frequencies, jnp.float32)[None, None, None]
    return jnp.stack([jnp.cos(angles), jnp.sin(angles)])
