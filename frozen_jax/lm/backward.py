"""How a layer multiplies, and how its backward pass is cut: what it keeps, computes again, and writes down between.

In float32 it changes no number. docs/pods.md has what each part brings, by the estimate of the compiler for TPUs.
"""

from __future__ import annotations

import functools
import string
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

from frozen_jax.types import Array

_HEADS, _PRODUCTS = "heads", "products"
KEPT = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(_HEADS, _PRODUCTS),
)
"""For `jax.checkpoint`: a layer keeps what its linear maps gave, split into heads where attention reads it so."""


def kept_heads(x: Float[Array, "B H X Y"]) -> Float[Array, "B H X Y"]:
    """Returns x, which the backward pass then finds as it is, and need not split into heads again."""
    return checkpoint_name(x, _HEADS)


@jax.custom_vjp
def apart(x: Any) -> Any:
    """Returns x; on TPUs its gradient is written down before anything reads it.

    Their compiler would rather compute what is cheap (activations, norms) within the matrix product that reads it, and
    again for every tile of the result, so that the matrix units wait.
    """
    return x


def _apart_backward(_: None, gradient: Any) -> tuple[Any]:
    return (jax.lax.platform_dependent(gradient, tpu=jax.lax.optimization_barrier, default=lambda x: x),)


apart.defvjp(lambda x: (x, None), _apart_backward)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def softmax(x: Float[Array, "*batch S"], dtype: Any) -> Float[Array, "*batch S"]:
    """Returns attention weights, computed in float32, in `dtype`; its gradient reads them as they were used.

    That of `jax.nn.softmax` reads them in float32, so that they are computed once more.
    """
    return jax.nn.softmax(x, axis=-1).astype(dtype)


@softmax.defjvp
def _softmax_jvp(dtype: Any, primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    weights = softmax(primals[0], dtype)
    used, change = weights.astype(jnp.float32), tangents[0]
    return weights, (used * (change - jnp.sum(used * change, axis=-1, keepdims=True))).astype(dtype)


def product(x: Float[Array, "*batch inputs"], kernel: Float[Array, "inputs outputs"]) -> Float[Array, "*batch outputs"]:
    """Returns x @ kernel, both of one dtype, in that dtype; see `einsum`."""
    if x.dtype != jnp.bfloat16:
        return x @ kernel
    rows = string.ascii_letters[: x.ndim - 1]
    return checkpoint_name(einsum(f"{rows}y,yz->{rows}z", x, kernel), _PRODUCTS)


def einsum(spec: str, x: Float[Array, "..."], y: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns `jnp.einsum` of two arrays of one dtype, in that dtype, and its gradient likewise.

    CPUs multiply bfloat16 into float32 alone. Asked for bfloat16, XLA would convert both to float32 first, and be
    slower than float32 is (benchmarks/README.md); so on CPUs products are asked for in float32, then rounded.

    Args:
        spec: letters as "ab,bc->ac": each stands in two of the three, and in none twice.
        x: one.
        y: the other.
    """
    return _einsum(spec, x, y)


def _summed(spec: str, x: Float[Array, "..."], y: Float[Array, "..."]) -> Float[Array, "..."]:
    def into(dtype: Any) -> Callable[[Any, Any], Any]:
        return lambda x, y: jnp.einsum(spec, x, y, preferred_element_type=dtype).astype(x.dtype)

    return jax.lax.platform_dependent(x, y, cpu=into(jnp.float32), default=into(x.dtype))


_einsum = jax.custom_vjp(_summed, nondiff_argnums=(0,))


def _einsum_backward(spec: str, kept: tuple[Any, Any], gradient: Any) -> tuple[Any, Any]:
    (of_x, of_y), of_z = spec.split("->")[0].split(","), spec.split("->")[1]
    x, y = kept
    return einsum(f"{of_z},{of_y}->{of_x}", gradient, y), einsum(f"{of_x},{of_z}->{of_y}", x, gradient)


_einsum.defvjp(lambda spec, x, y: (_summed(spec, x, y), (x, y)), _einsum_backward)
