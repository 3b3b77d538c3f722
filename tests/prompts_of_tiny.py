"""A method whose prompt depends on the input in a way that can be worked out by hand."""

from __future__ import annotations

import jax.numpy as jnp

from frozen_jax.methods.base import Method


class Echo(Method):
    """p(x) is twice the embedding of the first input token, then three times that of the last real one.

    Or of the last that an encoder reads, where it reads tokens of its own.
    """

    def read(self, inputs, inputs_mask, encoder_inputs=None):
        embeddings, mask = self.lm.read(inputs, inputs_mask, encoder_inputs)
        tokens, real = encoder_inputs or (inputs, inputs_mask)
        last = jnp.take_along_axis(tokens, real.sum(1, keepdims=True) - 1, axis=1)
        prompt = jnp.concatenate([2 * embeddings[:, :1], 3 * self.embed(last)], axis=1)
        ones = jnp.ones((len(inputs), 2), bool)
        return jnp.concatenate([prompt, embeddings], axis=1), jnp.concatenate([ones, mask], axis=1)
