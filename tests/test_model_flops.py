"""Model FLOPs against formulas written by hand."""

import jax
import jax.numpy as jnp
import pytest

from frozen_jax.model_flops import training_flops

N = 2 * 8 * 16 * 16  # of one product [8, 16] x [16, 16]


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def chain(prompt, kernels, x):
    """Products one behind the other, each computed again for the backward pass."""

    def body(x, kernel):
        return jnp.tanh(x @ kernel), None

    return jnp.sum(jax.lax.scan(jax.checkpoint(body), x + prompt, kernels)[0])


@pytest.mark.parametrize("depth", [3, 6])
def test_recomputation_does_not_count(depth):
    prompt, kernels, x = shape(1, 16), shape(depth, 16, 16), shape(8, 16)
    assert training_flops(lambda p, k, x: chain(p, k, x), prompt, kernels, x) == depth * 2 * N  # frozen behind a prompt
    assert training_flops(lambda k, p, x: chain(p, k, x), kernels, prompt, x) == depth * 3 * N
    assert training_flops(lambda t, k, p, x: chain(p, k, x) + t, shape(), kernels, prompt, x) == depth * N  # nothing


def test_stopped_gradients_and_choices_have_no_backward_pass():
    def loss(w, x):
        stopped = jax.lax.stop_gradient(x @ w) @ w
        return jnp.sum(jnp.take_along_axis(stopped, jnp.argmax(stopped, axis=1)[:, None], axis=1))

    assert training_flops(loss, shape(16, 16), shape(8, 16)) == N * 2 + N * 2


def test_bfloat16_is_differentiated_too():
    w = jax.ShapeDtypeStruct((16, 16), jnp.bfloat16)
    assert training_flops(lambda w, x: jnp.sum(x @ w), w, jax.ShapeDtypeStruct((8, 16), jnp.bfloat16)) == 2 * N
