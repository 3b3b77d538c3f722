"""How the backward pass of a layer is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frozen_jax.lm.backward import KEPT, apart, kept_heads, softmax

GIVEN = np.random.default_rng(0).normal(size=(1, 2, 3, 5)).astype(np.float32)


def test_heads_are_kept_as_attention_reads_them_and_not_twice():
    def body(x, kernel):
        heads = kept_heads((x @ kernel).swapaxes(2, 3))  # [1, 2, 6, 5]
        return jnp.einsum("bhqs,bhks->bhqk", jnp.exp(jnp.einsum("bhqk,bhks->bhqs", x, heads)), heads), None

    def loss(x):
        step = jax.checkpoint(body, policy=KEPT, prevent_cse=False)
        return jnp.sum(jax.lax.scan(step, x, jnp.ones((4, 6, 6)))[0] ** 2)

    jaxpr = jax.make_jaxpr(jax.grad(loss))(jnp.ones((1, 2, 5, 6)))
    forward = next(equation for equation in jaxpr.eqns if equation.primitive.name == "scan")
    kept = [var.aval.shape for var in forward.outvars if var.aval.shape[0] == 4]
    assert sorted(kept) == [(4, 1, 2, 5, 6), (4, 1, 2, 6, 5)]  # the layer's input, and its heads


def both(function):
    """Value and gradient, compiled."""
    return jax.jit(jax.value_and_grad(lambda x: jnp.sum(jnp.sin(function(x)))))(GIVEN)


@pytest.mark.parametrize(
    ("ours", "plain"),
    [
        (lambda x: softmax(x, x.dtype), lambda x: jax.nn.softmax(x, axis=-1)),
        (lambda x: sum(apart([x, 2 * x])), lambda x: 3 * x),
    ],
)
def test_in_float32_values_and_gradients_are_as_without(ours, plain):
    for one, other in zip(both(ours), both(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_in_bfloat16_softmax_is_rounded_and_its_gradient_reads_what_was_rounded():
    weights = softmax(GIVEN, jnp.bfloat16)
    np.testing.assert_array_equal(weights, jax.nn.softmax(GIVEN, axis=-1).astype(jnp.bfloat16))
    gradient = jax.grad(lambda x: softmax(x, jnp.bfloat16)[0, 0, 0, 0].astype(jnp.float32))(GIVEN)[0, 0, 0]
    used = np.asarray(weights[0, 0, 0], np.float32)
    np.testing.assert_allclose(gradient, used * (np.eye(5)[0] - used[0]), rtol=1e-6)


@pytest.mark.parametrize(("platform", "barriers"), [("tpu", 1), ("cpu", 0)])
def test_gradients_are_written_down_on_tpus_alone(platform, barriers):
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(jnp.tanh(apart(2 * x)))))
    lowered = gradient.trace(GIVEN).lower(lowering_platforms=(platform,))
    assert lowered.as_text().count("optimization_barrier") == barriers
