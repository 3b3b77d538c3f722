"""Beam search against the exhaustive optimum, and what a batch may not change."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frozen_jax.lm import decoding
from tests import tiny

VOCABULARY, LENGTH, EOS = 4, 4, 1


def _random_model(seed):
    """A model whose next-token logits depend on the last two tokens; the cache is the last token."""
    table = jnp.asarray(np.random.default_rng(seed).normal(0, 2, (VOCABULARY, VOCABULARY, VOCABULARY)), jnp.float32)

    class Last:
        def __init__(self, tokens):
            self.tokens = tokens

        def select_rows(self, rows):
            return Last(self.tokens[rows])

    jax.tree_util.register_pytree_node(Last, lambda c: ((c.tokens,), None), lambda _, x: Last(*x))
    return table, Last, lambda tokens, cache: (table[cache.tokens, tokens], Last(tokens))


def _all_hypotheses(table, alpha):
    """Every ended hypothesis with its score."""
    for length in range(1, LENGTH + 1):
        for words in itertools.product([t for t in range(VOCABULARY) if t != EOS], repeat=length - 1):
            tokens, before, score = (*words, EOS), (0, 0), 0.0
            for token in tokens:
                score += float(jax.nn.log_softmax(table[before])[token])
                before = (before[1], token)
            yield score / ((5 + length) / 6) ** alpha, tokens


@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_finds_the_exhaustive_optimum(seed):
    table, last, step = _random_model(seed)
    beams = VOCABULARY**LENGTH
    tokens, scores = decoding.beam_search(
        step,
        jnp.broadcast_to(table[0, 0], (beams, VOCABULARY)),
        last(jnp.zeros(beams, jnp.int32)),
        num_beams=beams,
        max_length=LENGTH,
        length_penalty=0.6,
        eos_id=EOS,
        pad_id=0,
    )
    score, best = max(_all_hypotheses(table, 0.6))
    assert abs(float(scores[0, 0]) - score) < 1e-5
    assert tuple(tokens[0, 0, : len(best)].tolist()) == best
    assert not tokens[0, 0, len(best) :].any()


def test_one_beam_of_beam_search_is_greedy_where_greedy_ends():
    lm = tiny.t5(5)
    inputs = tiny.batch(rows=6).inputs
    greedy = np.asarray(lm.generate(inputs, max_length=6))
    beams = np.asarray(lm.generate(inputs, max_length=6, num_beams=3))
    better = np.asarray(lm.score(inputs, beams)) - np.asarray(lm.score(inputs, greedy))
    same_length = (beams != 0).sum(1) == (greedy != 0).sum(1)
    assert (better[same_length] > -1e-4).all()


def test_beams_do_not_depend_on_batch_mates():
    lm = tiny.t5(2)
    inputs = tiny.batch(rows=5, seed=4).inputs
    together = np.asarray(lm.generate(inputs, max_length=6, num_beams=4))
    order = np.array([3, 1, 4, 0, 2])
    np.testing.assert_array_equal(np.asarray(lm.generate(inputs[order], max_length=6, num_beams=4)), together[order])
    np.testing.assert_array_equal(np.asarray(lm.generate(inputs[:1], max_length=6, num_beams=4)), together[:1])
