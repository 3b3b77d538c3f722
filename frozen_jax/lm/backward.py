"""How a layer multiplies, and how its backward pass is cut: what it keeps, computes again, and writes down between.

In float32 it changes no number. docs/pods.md has what each part brings, by the estimate of the compiler for TPUs.
"""

from __future__ import annotations

import functools
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
    """Returns x @ kernel, both of one dtype, in that dtype.

    CPUs multiply bfloat16 into float32 alone. Asked for bfloat16, XLA would convert both to float32 first, and be
    slower than float32 is (benchmarks/README.md); so on CPUs products are asked for in float32, then rounded.
    """
    return x @ kernel if x.dtype != jnp.bfloat16 else checkpoint_name(_product(x, kernel), _PRODUCTS)


@jax.custom_vjp
def _product(
    x: Float[Array, "*batch inputs"], kernel: Float[Array, "inputs outputs"]
) -> Float[Array, "*batch outputs"]:
    return _contracted(x, kernel, [x.ndim - 1], [0])


def _product_backward(kept: tuple[Any, Any], gradient: Any) -> tuple[Any, Any]:
    x, kernel = kept
    rows = list(range(x.ndim - 1))
    return _contracted(gradient, kernel, [x.ndim - 1], [1]), _contracted(x, gradient, rows, rows)


_product.defvjp(lambda x, kernel: (_product(x, kernel), (x, kernel)), _product_backward)


def _contracted(
    x: Float[Array, "..."], y: Float[Array, "..."], of_x: list[int], of_y: list[int]
) -> Float[Array, "..."]:
    """Sums over these axes of both."""

    def contract(x: Any, y: Any, summed: Any) -> Any:
        return jnp.tensordot(x, y, (of_x, of_y), preferred_element_type=summed).astype(x.dtype)

    cpu, default = (functools.partial(contract, summed=dtype) for dtype in (jnp.float32, x.dtype))
    return jax.lax.platform_dependent(x, y, cpu=cpu, default=default)
