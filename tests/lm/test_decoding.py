"""Strategies on a model small enough to work everything out: beams, draws, ends."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frozen_jax.errors import UserError
from frozen_jax.lm.decoding import Beam, Greedy, Limits, Sample, no_texts

VOCABULARY, LENGTH, EOS = 4, 4, 1
LIMITS = Limits(LENGTH, (EOS,), 0)


def random_table(seed):
    """Logits of the next token, by the last two."""
    return jnp.asarray(np.random.default_rng(seed).normal(0, 2, (VOCABULARY,) * 3), jnp.float32)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def written(strategy, table, limits=LIMITS, ids=(0,)):
    """Runs a strategy on the table's model, whose cache is the last two tokens of each row."""
    state = strategy.begin(jnp.array(ids), limits)
    past = jnp.zeros((len(ids) * strategy.rows, 2), jnp.int32)
    for _ in range(limits.max_length):
        step = strategy.write(state, table[past[:, 0], past[:, 1]], limits)
        past = past if step.rows is None else past[step.rows]
        state, past = step.state, jnp.stack([past[:, 1], step.feed], axis=1)
    return strategy.texts(state)


def all_hypotheses(table, alpha):
    """Every text that ends, with its score."""
    log_probs = np.asarray(jax.nn.log_softmax(table))
    for length in range(1, LENGTH + 1):
        for words in itertools.product([t for t in range(VOCABULARY) if t != EOS], repeat=length - 1):
            tokens, before, nats = (*words, EOS), (0, 0), []
            for token in tokens:
                nats.append(float(log_probs[(*before, token)]))
                before = (before[1], token)
            yield sum(nats) / ((5 + length) / 6) ** alpha, tokens, nats


@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_finds_the_exhaustive_optimum(seed):
    table = random_table(seed)
    texts = written(Beam(VOCABULARY**LENGTH, length_penalty=0.6, n=3), table)
    best = sorted(all_hypotheses(table, 0.6), reverse=True)[:3]
    for row, (_, tokens, nats) in enumerate(best):
        assert texts.lengths[0, row] == len(tokens)
        assert texts.tokens[0, row].tolist() == [*tokens, *[0] * (LENGTH - len(tokens))]
        np.testing.assert_allclose(texts.log_probs[0, row, : len(tokens)], nats, atol=1e-5)
        assert not texts.log_probs[0, row, len(tokens) :].any()


def test_a_beam_where_nothing_ends_gives_the_best_that_were_cut():
    table = random_table(0).at[..., EOS].set(-1e9)
    texts = written(Beam(VOCABULARY**LENGTH, length_penalty=0.0), table)
    likelihoods, log_probs = {}, np.asarray(jax.nn.log_softmax(table))
    for words in itertools.product([0, 2, 3], repeat=LENGTH):
        past = [0, 0, *words]
        likelihoods[words] = sum(float(log_probs[tuple(past[i : i + 3])]) for i in range(LENGTH))
    assert tuple(texts.tokens[0, 0].tolist()) == max(likelihoods, key=likelihoods.__getitem__)


def test_greedy_takes_the_likeliest_and_stops_at_any_of_its_stop_tokens():
    table = random_table(3)
    free = written(Greedy(), table, Limits(LENGTH, (-1,), 0)).tokens[0, 0].tolist()
    past = [0, 0]
    for token in free:
        assert token == int(jnp.argmax(table[past[-2], past[-1]]))
        past.append(token)
    stop = free[1]
    stopped = written(Greedy(), table, Limits(LENGTH, (-1, stop), 0))
    assert stopped.tokens[0, 0].tolist() == [*free[: free.index(stop) + 1], *[0] * (LENGTH - free.index(stop) - 1)]


@functools.partial(jax.jit, static_argnums=(0, 2))
def _first_tokens(strategy, logits, count):
    limits = Limits(1, (-1,), 0)
    state = strategy.begin(jnp.arange(count), limits)
    return strategy.write(state, jnp.broadcast_to(logits, (count * strategy.rows, len(logits))), limits).state.tokens


def draws(strategy, logits, count=4000):
    """The frequency of each token among the first tokens of many examples."""
    tokens = np.asarray(_first_tokens(strategy, logits, count))
    return np.bincount(tokens.ravel(), minlength=len(logits)), tokens.size


def chi_squared(counts, probabilities, total):
    expected = np.asarray(probabilities, np.float64) * total
    some = expected > 0
    assert not counts[~some].any(), "drawn, though its probability is 0"
    return float(((counts[some] - expected[some]) ** 2 / expected[some]).sum()), int(some.sum()) - 1


@pytest.mark.parametrize("size", [7, 600])  # of which the second needs several blocks
@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.6}, {"temperature": 2.0, "top_k": 5, "top_p": 0.9}]
)
def test_frequencies_match_the_softmax(settings, size):
    logits = np.random.default_rng(size).normal(0, 1.5, size).astype(np.float32)
    scaled = logits / settings.get("temperature", 1.0)
    order = np.argsort(-scaled)
    probabilities = np.exp(scaled - scaled.max())
    probabilities[order[settings.get("top_k", size) :]] = 0
    probabilities /= probabilities.sum()
    enough = int(np.searchsorted(np.cumsum(probabilities[order]), settings.get("top_p", 1.0))) + 1
    probabilities[order[enough:]] = 0
    probabilities /= probabilities.sum()
    counts, total = draws(Sample(**settings, n=5), jnp.asarray(logits))
    statistic, freedom = chi_squared(counts, probabilities, total)
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5 + 4, "four standard deviations, and some for few degrees"


def test_of_two_distributions_the_test_tells_the_wrong_one():
    logits = jnp.asarray(np.random.default_rng(7).normal(0, 1.5, 7), jnp.float32)
    counts, total = draws(Sample(temperature=0.8), logits)
    statistic, freedom = chi_squared(counts, jax.nn.softmax(logits), total)
    assert statistic > freedom + 4 * (2 * freedom) ** 0.5 + 4


def test_a_token_of_no_probability_is_never_drawn():
    logits = jnp.full(1000, -jnp.inf).at[jnp.array([255, 256, 999])].set(0.0)
    counts, _ = draws(Sample(n=3), logits)
    assert counts.nonzero()[0].tolist() == [255, 256, 999]


def test_what_is_drawn_depends_on_seed_example_sample_and_position_alone():
    table = random_table(1)

    def tokens(seed=0, ids=(0, 1, 2), n=4, first=0):
        return np.asarray(written(Sample(seed=seed, n=n, temperature=3.0, first=first), table, LIMITS, ids).tokens)

    found = tokens()
    np.testing.assert_array_equal(tokens(), found)
    np.testing.assert_array_equal(tokens(ids=(2, 0, 1)), found[[2, 0, 1]])
    np.testing.assert_array_equal(tokens(n=2), found[:, :2])
    np.testing.assert_array_equal(tokens(n=2, first=2), found[:, 2:])
    assert (tokens(seed=1) != found).any()
    assert len({tuple(row) for row in found.reshape(-1, LENGTH).tolist()}) > 6, "examples and samples differ"


def test_the_log_probability_is_that_of_the_lm_itself():
    table = random_table(2)
    texts = written(Sample(temperature=0.3, top_k=2, n=3), table)
    log_probs = np.asarray(jax.nn.log_softmax(table))
    for row in range(3):
        past = [0, 0, *texts.tokens[0, row].tolist()]
        for i in range(int(texts.lengths[0, row])):
            expected = log_probs[past[i], past[i + 1], past[i + 2]]
            np.testing.assert_allclose(texts.log_probs[0, row, i], expected, atol=1e-5)


@pytest.mark.parametrize("strategy", [Greedy(), Sample(n=2), Beam(2)])
def test_logits_that_are_not_numbers_end_their_input_and_no_other(strategy):
    def first(logits):
        return strategy.texts(strategy.write(strategy.begin(jnp.arange(2), LIMITS), logits, LIMITS).state)

    texts = jax.jit(first)(jnp.zeros((2 * strategy.rows, VOCABULARY)).at[-1, 2].set(jnp.nan))
    assert texts.failed.tolist() == [False, True]
    assert texts.all_ended().tolist()[1]
    assert not no_texts(jnp.arange(2), 1, LIMITS).failed.any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sample(temperature=0.0), "temperature is 0.0; it must be above 0"),
        (lambda: Sample(top_p=0.0), "top_p is 0.0; it must be above 0 and at most 1"),
        (lambda: Sample(top_p=1.5), "top_p is 1.5"),
        (lambda: Sample(top_k=0), "top_k 0; both must be at least 1"),
        (lambda: Sample(n=0), "n is 0"),
        (lambda: Beam(0), "num_beams 0"),
        (lambda: Beam(2, n=3), "n is 3 and num_beams 2"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_where_too_few_beams_have_ended_those_that_were_cut_stand_behind():
    limits = Limits(1, (1,), 0)
    strategy = Beam(3, n=3)
    logits = jnp.log(jnp.array([[0.05, 0.3, 0.4, 0.15, 0.1]] * 3))  # the end of text is the second best
    state = strategy.write(strategy.begin(jnp.arange(1), limits), logits, limits).state
    found = strategy.texts(state)
    assert found.tokens[0, :, 0].tolist() == [1, 2, 3]
    assert found.lengths[0].tolist() == [1, 1, 1]
    np.testing.assert_allclose(found.log_probs[0, :, 0], np.log([0.3, 0.4, 0.15]), rtol=1e-6)
