"""How a layer multiplies, and how its backward pass is cut."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from frozen_jax.lm.backward import KEPT, apart, einsum, kept_heads, product, softmax
from tests import tiny

GIVEN = np.random.default_rng(0).normal(size=(1, 2, 3, 5)).astype(np.float32)


def kept(body, x):
    """Shapes and dtypes of what the forward pass keeps of four layers."""

    def loss(x):
        step = jax.checkpoint(lambda x, _: (body(x), None), policy=KEPT, prevent_cse=False)
        return jnp.sum(jax.lax.scan(step, x, length=4)[0].astype(jnp.float32) ** 2)

    jaxpr = jax.make_jaxpr(jax.grad(loss))(x)
    forward = next(equation for equation in jaxpr.eqns if equation.primitive.name == "scan")
    return sorted(var.aval.str_short(short_dtypes=True) for var in forward.outvars if var.aval.shape[0] == 4)


def test_heads_are_kept_as_attention_reads_them_and_not_twice():
    def body(x):
        heads = kept_heads((x @ jnp.ones((6, 6))).swapaxes(2, 3))  # [1, 2, 6, 5]
        return jnp.einsum("bhqs,bhks->bhqk", jnp.exp(jnp.einsum("bhqk,bhks->bhqs", x, heads)), heads)

    layers_input, heads = "f32[4,1,2,5,6]", "f32[4,1,2,6,5]"
    assert kept(body, jnp.ones((1, 2, 5, 6))) == [layers_input, heads]


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


def of_bfloat16(x, kernel):
    return jnp.sum(jnp.sin(product(x, kernel)).astype(jnp.float32))


X, KERNEL = GIVEN[0].astype(jnp.bfloat16), GIVEN.reshape(6, 5)[:5].astype(jnp.bfloat16)


def products_of(function, *arguments, platform, summed):
    """How many products are in the program for a platform; all of them are of bfloat16, and give `summed`."""
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    found = [line for line in lowered.splitlines() if "dot_general" in line]
    assert all(re.search(rf"xbf16>, tensor<[x\d]+xbf16>\) -> tensor<[x\d]+x{summed}>", line) for line in found), found
    return len(found)


@pytest.mark.parametrize(("platform", "summed"), [("cpu", "f32"), ("tpu", "bf16"), ("cuda", "bf16")])
def test_products_of_bfloat16_are_asked_for_as_the_platform_has_them(platform, summed):
    step = jax.value_and_grad(of_bfloat16, argnums=(0, 1))
    assert products_of(step, X, KERNEL, platform=platform, summed=summed) == 3


def test_they_are_those_of_float32_rounded_and_kept_for_the_backward_pass():
    wide = [x.astype(jnp.float32) for x in (X, KERNEL)]
    np.testing.assert_array_equal(product(X, KERNEL), jnp.matmul(*wide).astype(jnp.bfloat16))
    gradients = jax.grad(of_bfloat16, argnums=(0, 1))(X, KERNEL)
    wanted = jax.grad(lambda x, kernel: jnp.sum(jnp.sin(x @ kernel)), argnums=(0, 1))(*wide)
    for one, other in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(one.astype(jnp.float32), other, rtol=2e-2, atol=2e-2)
    layers_input = products = "bf16[4,2,3,5]"
    assert kept(lambda x: jnp.sin(product(jnp.sin(x), KERNEL)), X) == [layers_input, products]


@pytest.mark.parametrize("spec", ["bgqk,bgks->bgqs", "bgqs,bgsk->bgqk", "abc,cd->abd"])
def test_einsum_and_its_gradients_are_those_of_jax(spec):
    of_x, of_y = spec.split("->")[0].split(",")
    rng = np.random.default_rng(0)
    given = [rng.normal(size=["abcdgkqs".index(axis) + 2 for axis in axes]).astype(np.float32) for axes in (of_x, of_y)]

    def both(einsum):
        return jax.value_and_grad(lambda x, y: jnp.sum(jnp.sin(einsum(spec, x, y))), argnums=(0, 1))(*given)

    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), both(einsum), both(jnp.einsum))


@pytest.mark.parametrize("lm", [tiny.llama, tiny.t5])
def test_all_products_of_an_lm_in_bfloat16_are_asked_for_so(lm):
    """Those of its attention too."""
    model, batch = lm(dtype="bfloat16"), tiny.batch(rows=2)
    nnx.update(model, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), nnx.state(model)))
    read = batch.inputs, batch.inputs_mask, batch.targets
    assert products_of(model.target_logits, *read, platform="cpu", summed="f32") > 5
