"""How the backward pass of a layer is cut: what it keeps, what it computes again, and what it writes down between.

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

_HEADS = "heads"
KEPT = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable, jax.checkpoint_policies.save_only_these_names(_HEADS)
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
