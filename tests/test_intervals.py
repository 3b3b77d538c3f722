"""Intervals against published values and against what they promise: to hold the true figure 95 times in 100."""

import numpy as np
import pytest

from frozen_jax import intervals


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3 (Wilson's score without continuity correction).
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_newcombes_table(hits, count, low, high):
    assert intervals.wilson(hits, count) == pytest.approx((low, high), abs=5e-5)


def test_right_and_wrong_may_count_a_hundred():
    ones = np.array([1.0, 0.0, 1.0, 1.0])
    low, high = intervals.of_mean(ones)
    assert (low, high) == intervals.wilson(3, 4)
    assert intervals.of_mean(ones * 100) == pytest.approx((low * 100, high * 100))


def test_all_right_is_not_sure_to_be_perfect():
    low, high = intervals.of_mean(np.ones(100))
    assert low == pytest.approx(0.963, abs=1e-3)
    assert high == 1.0


def test_bootstrap_of_a_mean_agrees_with_the_normal_one():
    values = np.random.default_rng(0).uniform(size=400)
    low, high = intervals.of_mean(values)
    half = intervals.Z * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=half * 0.15)
    assert intervals.of_mean(values) == (low, high)


def test_bootstrap_measures_each_figure():
    found = intervals.bootstrap(lambda rows: {"largest": float(rows.max()), "one": 1.0}, 50)
    assert found["one"] == (1.0, 1.0)
    assert 40 < found["largest"][0] <= found["largest"][1] == 49


def test_of_a_ratio_long_examples_count_more():
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 9, 300)
    nats = -tokens * rng.uniform(1, 2, 300)
    low, high = intervals.of_ratio(nats, tokens)
    # The delta method: the spread of a ratio is that of nats - ratio * tokens.
    ratio = nats.sum() / tokens.sum()
    half = intervals.Z * (nats - ratio * tokens).std() / (tokens.mean() * np.sqrt(300))
    assert (low, high) == pytest.approx((ratio - half, ratio + half), abs=half * 0.15)
    assert intervals.of_ratio(3.0 * tokens, tokens) == (3.0, 3.0)
