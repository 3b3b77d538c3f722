"""The parts that frozen transformers are made of.

All of them keep parameters in whatever dtype they were loaded in and compute in the dtype of their input; norms and
softmax are computed in float32.

Parameter names and shapes are T5X's (`kernel` is [in, out], attention heads are joined: [D, H*K]).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from frozen_jax.lm.backward import KEPT, apart, einsum, kept_heads, product, softmax
from frozen_jax.types import Array

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=True),
    "silu": jax.nn.silu,
    "linear": lambda x: x,
}
_MASKED = -1e10  # added to attention scores: as T5X; far below any score, finite, so that fully masked rows stay finite


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dropout:
    """Drops activations at `rate`; every site of a layer has its own number, every layer its own key.

    Attributes:
        key: PRNG key of this step (or of this layer in this step).
        rate: probability of dropping an element.
    """

    key: Any
    rate: float = dataclasses.field(metadata={"static": True})

    def __call__(self, x: Float[Array, "..."], site: int) -> Float[Array, "..."]:
        """Drops elements of x and scales the others by 1 / (1 - rate)."""
        keep = jax.random.bernoulli(jax.random.fold_in(self.key, site), 1 - self.rate, x.shape)
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)

    def split(self, count: int) -> Dropout:
        """Returns a Dropout whose key has a leading axis of `count`: one key a layer, to scan over."""
        return dataclasses.replace(self, key=jax.random.split(self.key, count))


def apply_dropout(dropout: Dropout | None, x: Float[Array, "..."], site: int) -> Float[Array, "..."]:
    """Returns x, dropped if there is a `dropout`; frozen stacks have none."""
    return x if dropout is None else dropout(x, site)


class Dense(nnx.Module):
    """A linear map: x [..., in] @ kernel [in, out], and a bias [out] where there is one."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs, use_bias: bool = False) -> None:
        """Initialises the kernel from a normal of standard deviation inputs**-0.5, as T5X, and the bias to zeros."""
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (inputs, outputs)) * inputs**-0.5)
        if use_bias:
            self.bias = nnx.Param(jnp.zeros((outputs,)))

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """Applies the map in the dtype of x."""
        y = product(x, self.kernel[...].astype(x.dtype))
        if hasattr(self, "bias"):
            y = y + jnp.expand_dims(self.bias[...].astype(x.dtype), range(x.ndim - 1))
        return y


class RMSNorm(nnx.Module):
    """T5's layer norm: scales by the root mean square, no mean subtracted, no bias."""

    def __init__(self, width: int, *, epsilon: float) -> None:
        """Initialises the scale to ones."""
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones((width,)))

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """Normalises the last axis in float32 and returns the dtype of x."""
        x32 = x.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(x32**2, axis=-1, keepdims=True) + self.epsilon)
        scale = jnp.expand_dims(self.scale[...], range(x.ndim - 1))
        return apart(x32.astype(x.dtype) * scale.astype(x.dtype))


class GatedMLP(nnx.Module):
    """The transformer's MLP: a product of activations of linear maps, then a linear map back to the width.

    One activation is the plain MLP of T5 1.0 (parameter `wi`), two the gated one of T5 1.1 (`wi_0`, `wi_1`).
    """

    def __init__(self, width: int, hidden: int, activations: tuple[str, ...], *, rngs: nnx.Rngs) -> None:
        """Makes the maps D → F, one an activation, and F → D."""
        self.activations = activations
        for name in self.input_names:
            setattr(self, name, Dense(width, hidden, rngs=rngs))
        self.wo = Dense(hidden, width, rngs=rngs)

    @property
    def input_names(self) -> tuple[str, ...]:
        """T5X's names of the input maps."""
        return ("wi",) if len(self.activations) == 1 else tuple(f"wi_{i}" for i in range(len(self.activations)))

    def __call__(
        self, x: Float[Array, "B length D"], dropout: Dropout | None = None, site: int = 0
    ) -> Float[Array, "B length D"]:
        """Applies the MLP; dropout, if any, stands on the inner activations."""
        maps = apart([getattr(self, name)(x) for name in self.input_names])
        inner = [ACTIVATIONS[activation](y) for activation, y in zip(self.activations, maps, strict=True)]
        product = inner[0]
        for factor in inner[1:]:
            product = product * factor
        return self.wo(apply_dropout(dropout, product, site))


class Attention(nnx.Module):
    """Multi-head attention without biases and, as in T5, without the 1/sqrt(K) scale (it is in the initialisation)."""

    def __init__(
        self, width: int, heads: int, head_dim: int, *, rngs: nnx.Rngs, context_width: int | None = None
    ) -> None:
        """Makes the maps query: D → H*K, key and value: context width (D unless given) → H*K, and out: H*K → D."""
        self.heads = heads
        self.query = Dense(width, heads * head_dim, rngs=rngs)
        self.key = Dense(context_width or width, heads * head_dim, rngs=rngs)
        self.value = Dense(context_width or width, heads * head_dim, rngs=rngs)
        self.out = Dense(heads * head_dim, width, rngs=rngs)
        self.query.kernel[...] = self.query.kernel[...] * head_dim**-0.5

    def keys_values(self, x: Float[Array, "B S context"]) -> tuple[Float[Array, "B H K S"], Float[Array, "B H S K"]]:
        """Returns what `attend` reads: computed once for an encoder's output, grown step by step in self-attention."""
        keys, values = (split_heads(part(x), self.heads) for part in (self.key, self.value))
        return kept_heads(keys.swapaxes(2, 3)), kept_heads(values)

    def attend(
        self,
        x: Float[Array, "B Q D"],
        keys: Float[Array, "B H K S"],
        values: Float[Array, "B H S K"],
        bias: Float[Array, "#B #H #Q S"],
        dropout: Dropout | None = None,
        site: int = 0,
    ) -> Float[Array, "B Q D"]:
        """Attends from x to the keys. `bias` is added to the scores: positions and mask together, float32."""
        queries = kept_heads(split_heads(self.query(x), self.heads))
        scores = jnp.einsum("bhqk,bhks->bhqs", queries, keys, preferred_element_type=jnp.float32)
        weights = apply_dropout(dropout, softmax(scores + bias, x.dtype), site)
        context = einsum("bhqs,bhsk->bhqk", weights, values).swapaxes(1, 2)
        return self.out(context.reshape(*x.shape[:-1], -1))


def split_heads(x: Float[Array, "B length HK"], heads: int) -> Float[Array, "B H length K"]:
    """Puts heads next to the batch: on CPU attention then takes 0.6 of the time, transposing included."""
    return x.reshape(*x.shape[:-1], heads, -1).swapaxes(1, 2)


class TokenEmbedder(nnx.Module):
    """The table of token embeddings."""

    def __init__(self, vocab_size: int, width: int, *, rngs: nnx.Rngs) -> None:
        """Initialises the table [V, D] from a standard normal, as T5X."""
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (vocab_size, width)))

    def __call__(self, tokens: Int[Array, "*batch"], dtype: str) -> Float[Array, "*batch D"]:
        """Looks tokens up (a gather, not a one-hot product: no FLOPs)."""
        return self.embedding[...][tokens].astype(dtype)


class RelativePositionBias(nnx.Module):
    """T5's learned bias of attention scores by bucket of relative position."""

    def __init__(self, heads: int, buckets: int, max_distance: int, *, bidirectional: bool, rngs: nnx.Rngs) -> None:
        """Makes the table [H, buckets]."""
        self.max_distance, self.bidirectional = max_distance, bidirectional
        self.rel_embedding = nnx.Param(jax.random.normal(rngs.params(), (heads, buckets)))

    def __call__(self, query_positions: Int[Array, " Q"], key_positions: Int[Array, " S"]) -> Float[Array, "1 H Q S"]:
        """Returns the bias in float32."""
        table = self.rel_embedding[...]
        distance = jnp.asarray(key_positions)[None, :] - jnp.asarray(query_positions)[:, None]
        buckets = relative_position_bucket(distance, table.shape[1], self.max_distance, self.bidirectional)
        return table.astype(jnp.float32)[:, buckets][None]


def relative_position_bucket(
    distance: Int[Array, "Q S"], buckets: int, max_distance: int, bidirectional: bool
) -> Int[Array, "Q S"]:
    """Maps key position minus query position to T5's buckets: exact when near, logarithmic up to `max_distance`.

    Source: Raffel et al. 2020, section 2.1; the rounding is that of T5X and of `transformers`.

    Args:
        distance: key position minus query position.
        buckets: how many buckets there are; bidirectional attention spends half of them on each side.
        max_distance: distances from here on share the last bucket.
        bidirectional: whether a query may see keys after it.
    """
    side = jnp.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        side = jnp.where(distance > 0, buckets, 0)
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(-distance, 0)
    exact = buckets // 2
    ratio = distance.astype(jnp.float32) / exact + np.finfo(np.float32).eps
    far = exact + (jnp.log(ratio) / np.log(max_distance / exact) * (buckets - exact)).astype(jnp.int32)
    return side + jnp.where(distance < exact, distance, jnp.minimum(far, buckets - 1))


def mask_bias(mask: Bool[Array, "..."]) -> Float[Array, "..."]:
    """Turns a mask (True: may be attended to) into what is added to attention scores."""
    return jnp.where(mask, 0.0, _MASKED).astype(jnp.float32)


def same_segment(queries: Int[Array, "B Q"], keys: Int[Array, "B S"]) -> Bool[Array, "B Q S"]:
    """Returns which keys are of the query's example, where several share a row."""
    return queries[:, :, None] == keys[:, None, :]


def stack_layers(make: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs) -> Any:
    """Makes `count` layers as one module whose parameters have a leading axis L."""

    @nnx.split_rngs(splits=count)
    @nnx.vmap(in_axes=0, out_axes=0)
    def make_all(rngs: nnx.Rngs) -> nnx.Module:
        return make(rngs)

    return make_all(rngs)


def take_apart(model: nnx.Module) -> nnx.Module:
    """Returns the model with the layers of its decoders as a list, their parameters copied: L modules without axis L.

    A loop over them is L times the program to compile, and on CPU nearly twice as fast where rows are few, since slices
    of stacked parameters are copied before they are multiplied (benchmarks/README.md).
    """
    graphdef, state = nnx.split(model)
    model = nnx.merge(graphdef, state)
    decoders: list[Any] = [node for path, node in nnx.iter_graph(model) if path[-1:] == ("decoder",)]
    for decoder in decoders:
        graphdef, state = nnx.split(decoder.layers)
        each = [jax.tree.map(lambda leaf, i=i: leaf[i], state) for i in range(len_layers(decoder.layers))]
        decoder.layers = nnx.List([nnx.merge(graphdef, one) for one in each])
    return model


def stand_apart(layers: Any) -> bool:
    """Returns whether layers are a list, and not stacked."""
    return isinstance(layers, nnx.List)


def len_layers(layers: Any) -> int:
    """Returns L of stacked layers, or of a list of them."""
    return len(layers) if stand_apart(layers) else jax.tree.leaves(nnx.state(layers))[0].shape[0]


def number(layers: Any) -> Int[np.ndarray, " L"]:
    """Returns the layers' numbers, to scan over."""
    return np.arange(len_layers(layers))


def scan_layers(layers: Any, body: Callable[[Any, Any, Any], Any], carry: Any, xs: Any = None) -> Any:
    """Runs `carry = body(layer, carry, x)` over layers and returns the last carry.

    Layers are merged from pure state inside the loop, so NNX never sees two trace levels, and weights that are not
    differentiated get no gradient. For the backward pass a layer keeps what its linear maps gave, and computes the rest
    again (norms, activations, attention weights): 1% more FLOPs, less than half the memory, and on CPU faster for it
    (benchmarks/README.md).

    Args:
        layers: a module made by `stack_layers`; or a list made by `take_apart`, which is looped over in Python.
        body: one layer's work.
        carry: pytree that goes from layer to layer.
        xs: pytree with a leading axis L, one slice a layer.
    """
    if stand_apart(layers):
        for index, layer in enumerate(layers):
            carry = body(layer, carry, jax.tree.map(lambda leaf, index=index: leaf[index], xs))
        return carry
    graphdef, state = nnx.split(layers)

    def step(carry: Any, slices: Any) -> tuple[Any, None]:
        layer_state, x = slices
        return body(nnx.merge(graphdef, layer_state), carry, x), None

    step = jax.checkpoint(step, policy=KEPT, prevent_cse=False)  # a loop cannot undo it, so no barrier
    return jax.lax.scan(step, carry, (state, xs))[0]
