"""FLOPs of compiled functions."""

import jax
import jax.numpy as jnp

from frozen_jax.flops import count_flops


def _compiled(depth):
    def scanned(x, kernels):
        return jax.lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel), None), x, kernels)[0]

    return jax.jit(scanned).lower(jnp.ones((8, 16)), jnp.ones((depth, 16, 16))).compile()


def test_twice_the_depth_is_twice_the_flops():
    assert count_flops(_compiled(6)) == 6 * 2 * 8 * 16 * 16
    assert count_flops(_compiled(12)) == 2 * count_flops(_compiled(6))


def test_xla_itself_counts_a_loop_once():
    """Why this module exists; when this fails, it may go."""
    assert _compiled(12).cost_analysis()["flops"] < 1.5 * _compiled(6).cost_analysis()["flops"]


def test_batched_products_count_whole():
    compiled = jax.jit(lambda a, b: jnp.einsum("bij,bjk->bik", a, b)).lower(jnp.ones((3, 4, 5)), jnp.ones((3, 5, 6)))
    assert count_flops(compiled.compile()) == 3 * 2 * 4 * 5 * 6
