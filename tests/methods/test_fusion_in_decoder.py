"""Fusion-in-Decoder: passages are encoded alone and read together."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from frozen_jax import partitioning, training
from frozen_jax.errors import UserError
from frozen_jax.lm.decoding import Beam
from frozen_jax.methods.fusion_in_decoder import FusionInDecoder
from frozen_jax.types import Batch
from tests import tiny

LENGTH = 6
PASSAGES = [[11, 12, 13, 1], [21, 22, 1], [31, 32, 33, 34, 35, 1]]
TARGETS = np.array([[41, 42, 43, 1]], np.int32)


def row(*passages, length=18):
    tokens = [token for passage in passages for token in passage]
    return np.array([tokens + [0] * (length - len(tokens))], np.int32)


@pytest.fixture(scope="module")
def method():
    return FusionInDecoder(tiny.t5(), passages=3, passage_length=LENGTH)


def encoded(method, inputs):
    return np.asarray(method.encode(*method.read(inputs, inputs != 0)))


def test_every_passage_gets_a_block(method):
    inputs = np.concatenate([row(*PASSAGES), row(PASSAGES[2], PASSAGES[1])])
    embeddings, mask = method.read(inputs, inputs != 0)
    blocks = [[[*passage, *[0] * (LENGTH - len(passage))] for passage in PASSAGES]]
    blocks += [[blocks[0][2], blocks[0][1], [0] * LENGTH]]
    wanted = np.array(blocks).reshape(2, -1)
    np.testing.assert_array_equal(mask, wanted != 0)
    np.testing.assert_array_equal(embeddings[mask], method.lm.embed(wanted)[mask])


def test_what_finds_no_place_is_not_read(method):
    """A fourth passage, and of the second all behind its sixth token; the third is what it was."""
    long = [21, 22, 23, 24, 25, 26, 27, 28, 29, 20, 1]  # its end would reach beyond the third passage
    inputs = row(PASSAGES[0], long, PASSAGES[1], [51, 1], length=24)
    embeddings, mask = method.read(inputs, inputs != 0)
    wanted = np.array([*PASSAGES[0], 0, 0, *long[:6], *PASSAGES[1], 0, 0, 0])
    np.testing.assert_array_equal(mask[0], wanted != 0)
    np.testing.assert_array_equal(embeddings[mask], method.lm.embed(wanted[wanted != 0]))


def test_one_passage_is_read_as_the_lm_reads_it():
    batch, lm = tiny.batch(rows=3), tiny.t5()
    one = FusionInDecoder(lm, passages=1, passage_length=14)
    lengths = batch.inputs_mask.sum(1)
    for call in ("logits", "score"):
        found, wanted = (
            getattr(model, call)(batch.inputs, batch.targets, inputs_lengths=lengths) for model in (one, lm)
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_passages_do_not_see_each_other(method):
    one, other = (encoded(method, row(PASSAGES[0], second, PASSAGES[2])) for second in (PASSAGES[1], [51, 52, 53, 1]))
    for block, same in enumerate([True, False, True]):
        part = slice(block * LENGTH, block * LENGTH + 3)
        assert np.array_equal(one[:, part], other[:, part]) == same
    alone = np.asarray(method.lm.encode(method.embed(np.array([PASSAGES[2]])), np.ones((1, LENGTH), bool)))
    np.testing.assert_allclose(one[:, 2 * LENGTH :], alone, rtol=1e-5, atol=1e-5)


def test_their_order_says_nothing(method):
    one = method.logits(row(*PASSAGES), TARGETS)
    np.testing.assert_allclose(one, method.logits(row(*PASSAGES[::-1]), TARGETS), rtol=1e-4, atol=1e-5)
    assert not np.allclose(one, method.logits(row(*PASSAGES[:2]), TARGETS), atol=1e-2)


def test_cached_decoding_is_the_same(method):
    inputs = np.concatenate([row(*PASSAGES), row(*PASSAGES[1:])])
    targets = np.array([[41, 42, 43], [51, 52, 53]] * 2, np.int32)  # two texts an input
    embeddings, mask = method.read(inputs, inputs != 0)
    hidden, cache = method.prefill(embeddings, mask, max_length=3, rows_per_input=2)
    found = [hidden]
    for token in targets[:, :-1].T:
        hidden, cache = method.decode_step(method.embed(token), cache)
        found.append(hidden)
    wanted = method.hidden_states(embeddings, mask, method.embed(targets))
    np.testing.assert_allclose(np.stack(found, axis=1), wanted, rtol=1e-4, atol=1e-5)


def test_it_writes_and_scores_its_own_texts(method):
    inputs = np.concatenate([row(*PASSAGES), row(*PASSAGES[1:])])
    written = method.generate(inputs, max_length=4, strategy=Beam(2))
    found = method.score(inputs, written.tokens, targets_lengths=written.lengths)
    np.testing.assert_allclose(found, written.log_probs.sum(1), rtol=1e-4)


@pytest.mark.loose_promotion
def test_it_learns_a_batch_by_heart_from_its_second_passages():
    """All first passages are alike; the second's first token decides the answer."""
    rng = np.random.default_rng(0)
    inputs = np.concatenate([row(PASSAGES[0], [*rng.integers(2, 90, 3), 1], length=8) for _ in range(8)])
    targets = np.stack([2 + inputs[:, 4] % 4, np.ones(8, np.int32)], axis=1).astype(np.int32)
    batch = Batch(inputs, inputs != 0, targets, np.ones((8, 2), np.float32))
    optimizer = optax.adam(1e-2)
    start = FusionInDecoder(tiny.t5(), passages=2, passage_length=5, dropout_rate=0.01)
    state, split = training.start(start, optimizer, tiny.mesh(1, 1))
    assert not split.frozen
    step = training.make_train_step(split, state, optimizer)
    batch = partitioning.put_batch(batch, split.mesh)
    for _ in range(80):
        state, metrics = step(state, split.frozen, batch)
    assert metrics["accuracy"] == metrics["weight"], float(metrics["loss"])


def test_it_is_refused_where_it_cannot_be():
    with pytest.raises(UserError, match="tiny-llama-0 has no encoder to read passages with; give a T5"):
        FusionInDecoder(tiny.llama())
    with pytest.raises(UserError, match="0 passages of 5 tokens; give at least one of each"):
        FusionInDecoder(tiny.t5(), passages=0, passage_length=5)


def test_inputs_that_cannot_be_so_few_passages_are_refused(method):
    with pytest.raises(UserError, match="an input has 19 tokens; 3 passages of 6 are 18"):
        method.logits(jnp.full((1, 19), 5), TARGETS)
