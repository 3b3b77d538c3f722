"""The T5 behind the seam: cache, padding, lengths, layer variants, dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from frozen_jax.lm.layers import Dropout, relative_position_bucket
from tests import tiny

VARIANTS = {
    "1.1": {},
    "1.0": {"mlp_activations": ("relu",), "logits_via_embedding": True},
    "ul2": {"mlp_activations": ("silu", "linear")},
    "umt5": {"relative_position_bias_per_layer": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_cached_steps_equal_the_uncached_forward(variant):
    lm = tiny.t5(**VARIANTS[variant])
    batch = tiny.batch(rows=3, targets=6)
    whole = lm.logits(batch.inputs, batch.targets, inputs_lengths=batch.inputs_mask.sum(1))
    embeddings, mask = lm.read(jnp.asarray(batch.inputs), jnp.asarray(batch.inputs_mask))
    hidden, cache = lm.prefill(embeddings, mask, max_length=6)
    for position in range(6):
        np.testing.assert_allclose(lm.unembed(hidden), whole[:, position], atol=2e-5)
        hidden, cache = lm.decode_step(lm.embed(jnp.asarray(batch.targets[:, position])), cache)


def test_greedy_is_the_argmax_of_the_uncached_forward():
    lm = tiny.t5(3)
    batch = tiny.batch(rows=4)
    written = lm.generate(batch.inputs, max_length=7, inputs_lengths=batch.inputs_mask.sum(1)).tokens
    best = np.asarray(lm.logits(batch.inputs, written, inputs_lengths=batch.inputs_mask.sum(1))).argmax(-1)
    for row, argmax in zip(written, best, strict=True):
        length = list(row).index(1) + 1 if 1 in row else len(row)
        np.testing.assert_array_equal(row[:length], argmax[:length])
        assert not row[length:].any()


def test_a_row_does_not_depend_on_padding_or_on_its_batch():
    lm = tiny.t5()
    batch = tiny.batch(rows=4)
    lengths = batch.inputs_mask.sum(1)
    together = lm.logits(batch.inputs, batch.targets, inputs_lengths=lengths)
    for row, length in enumerate(lengths):
        alone = lm.logits(batch.inputs[row : row + 1, :length], batch.targets[row : row + 1])
        np.testing.assert_allclose(together[row], alone[0], atol=2e-5)


def test_token_zero_is_real_when_lengths_are_given():
    lm = tiny.t5()
    inputs = np.zeros((2, 5), np.int32)
    targets = np.array([[0, 0, 1], [0, 1, 0]], np.int32)
    score = lm.score(inputs, targets, inputs_lengths=np.array([5, 5]), targets_lengths=np.array([3, 2]))
    logprobs = jax.nn.log_softmax(lm.logits(inputs, targets, inputs_lengths=np.array([5, 5])))
    expected = [sum(logprobs[row, t, targets[row, t]] for t in range(n)) for row, n in enumerate((3, 2))]
    np.testing.assert_allclose(score, expected, rtol=1e-5)
    assert not np.allclose(score, lm.score(inputs, targets)), "without lengths, token 0 pads"


def test_targets_that_share_an_input_score_as_they_do_alone():
    lm = tiny.t5()
    batch = tiny.batch(rows=3)
    choices = np.random.default_rng(0).integers(2, 90, (6, 4)).astype(np.int32)
    lengths = batch.inputs_mask.sum(1)
    shared = lm.score(batch.inputs, choices, inputs_lengths=lengths)
    alone = lm.score(np.repeat(batch.inputs, 2, axis=0), choices, inputs_lengths=np.repeat(lengths, 2))
    np.testing.assert_allclose(shared, alone, rtol=1e-5)


def test_a_row_without_any_real_token_is_finite():
    lm = tiny.t5()
    zeros = np.zeros((1, 4), np.int32)
    assert np.isfinite(lm.logits(zeros, zeros)).all()


def test_unembedding_is_float32_in_bfloat16():
    lm = tiny.t5(dtype="bfloat16")
    batch = tiny.batch(rows=2)
    logits = lm.logits(batch.inputs, batch.targets)
    assert logits.dtype == jnp.float32
    assert lm.embed(jnp.array([1])).dtype == jnp.bfloat16


def test_dropout_depends_on_its_key_and_keeps_the_mean():
    x = jnp.ones((100, 100))
    dropped = Dropout(jax.random.key(0), 0.25)(x, site=0)
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.75)}
    assert abs(dropped.mean() - 1) < 0.02
    assert not np.array_equal(dropped, Dropout(jax.random.key(0), 0.25)(x, site=1))
    lm = tiny.t5()
    batch = jax.tree.map(jnp.asarray, tiny.batch(rows=2))
    calls = [
        lm.target_logits(batch.inputs, batch.inputs_mask, batch.targets, dropout)
        for dropout in (None, Dropout(jax.random.key(0), 0.5), Dropout(jax.random.key(1), 0.5))
    ]
    assert not np.allclose(calls[0], calls[1])
    assert not np.allclose(calls[1], calls[2])


def test_relative_positions_fall_into_the_published_buckets():
    # 32 buckets, both directions: 8 exact ones a side, then logarithmic up to 128.
    distance = jnp.array([[0, -1, -7, -8, -15, -16, -127, -128, -1000, 1, 8, 1000]])
    buckets = relative_position_bucket(distance, 32, 128, bidirectional=True)
    np.testing.assert_array_equal(buckets, [[0, 1, 7, 8, 9, 10, 15, 15, 15, 17, 24, 31]])
    causal = relative_position_bucket(jnp.array([[0, -15, -16, -127, -128, 5]]), 32, 128, bidirectional=False)
    np.testing.assert_array_equal(causal, [[0, 15, 16, 31, 31, 0]])


def test_parameters_carry_t5x_names():
    paths = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(tiny.t5()))}
    assert "encoder/layers/attention/query/kernel" in paths
    assert "decoder/layers/encoder_decoder_attention/out/kernel" in paths
    assert "decoder/logits_dense/kernel" in paths
