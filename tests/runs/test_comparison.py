"""Paired differences against closed forms: the normal interval of means, the delta method of ratios."""

import math

import numpy as np
import pytest

from frozen_jax.evaluation import PerExample, TaskResult
from frozen_jax.intervals import Z
from frozen_jax.runs import comparison
from frozen_jax.runs.comparison import NATS_PER_TARGET, NATS_PER_TOKEN, paired

ACCURACY = comparison.metric("accuracy")


def result(task, nats, *, tokens=None, hits=None, index=None):
    count = len(nats)
    figures = PerExample(
        index=[int(i) for i in (range(count) if index is None else index)],
        nats=[float(n) for n in nats],
        tokens=[int(t) for t in (np.ones(count) if tokens is None else tokens)],
        metrics={} if hits is None else {"accuracy": [float(h) for h in hits]},
    )
    return TaskResult(task, "test", count, count, {}, {}, 0.0, 0.0, None, per_example=figures)


def seed(*results):
    return {r.task: r for r in results}


def normal(value, deviation):
    return (value - Z * deviation, value + Z * deviation)


def test_of_a_mean_it_is_the_normal_interval_of_the_paired_differences():
    rng = np.random.default_rng(0)
    hard, gain = 5 * rng.standard_normal(400), 0.3 + rng.standard_normal(400)
    found = paired([seed(result("a.t", hard + gain))], [seed(result("a.t", hard))], ["a.t"], NATS_PER_TARGET)
    assert found.value == pytest.approx(gain.mean())
    deviation = gain.std() / 20  # what both rows find hard is not in it
    assert found.interval == pytest.approx(normal(gain.mean(), deviation), abs=0.25 * deviation)


def test_rows_are_means_over_their_seeds():
    rng = np.random.default_rng(1)
    first = [rng.standard_normal(300) for _ in range(3)]
    second = [rng.standard_normal(300) for _ in range(2)]
    found = paired(
        [seed(result("t", n)) for n in first], [seed(result("t", n)) for n in second], ["t"], NATS_PER_TARGET
    )
    gains = np.mean(first, axis=0) - np.mean(second, axis=0)
    assert found.value == pytest.approx(gains.mean())
    deviation = gains.std() / math.sqrt(300)
    assert found.interval == pytest.approx(normal(gains.mean(), deviation), abs=0.25 * deviation)


def test_per_token_long_targets_count_more():
    rng = np.random.default_rng(2)
    tokens = rng.integers(1, 9, 400)
    nats, gain = -tokens * rng.uniform(1, 2, 400), rng.uniform(0, 1, 400) * tokens
    first, second = result("a.t", nats + gain, tokens=tokens), result("a.t", nats, tokens=tokens)
    found = paired([seed(first)], [seed(second)], ["a.t"], NATS_PER_TOKEN)
    ratio = gain.sum() / tokens.sum()
    assert found.value == pytest.approx(ratio)
    deviation = (gain - ratio * tokens).std() / (tokens.mean() * 20)
    assert found.interval == pytest.approx(normal(ratio, deviation), abs=0.25 * deviation)


@pytest.mark.parametrize("shared", [True, False])
def test_templates_that_show_the_same_examples_are_no_new_examples(shared):
    """Four templates that say the same: of the same examples they know no more than one, of others twice as much."""
    rng = np.random.default_rng(3)
    gain = rng.standard_normal(300)
    orders = [rng.permutation(300) for _ in range(4)]  # what counts is which example it is, not its place
    rows = [
        [
            seed(
                *(
                    result(f"a.t{number}", sign * gain[order], index=order if shared else order + 300 * number)
                    for number, order in enumerate(orders)
                )
            )
        ]
        for sign in (1, 0)
    ]
    found = paired(*rows, [f"a.t{number}" for number in range(4)], NATS_PER_TARGET)
    deviation = gain.std() / math.sqrt(300 if shared else 1200)
    assert found.value == pytest.approx(gain.mean())
    assert found.interval == pytest.approx(normal(gain.mean(), deviation), abs=0.25 * deviation)


def test_of_a_metric_it_is_the_median_over_templates():
    def row(*rates):
        return [seed(*(result(f"a.{i}", [0.0] * 10, hits=[1] * r + [0] * (10 - r)) for i, r in enumerate(rates)))]

    found = paired(row(1, 9, 4), row(3, 3, 0), ["a.0", "a.1", "a.2"], ACCURACY)
    assert found.value == pytest.approx(0.4 - 0.3)


def test_equal_rows_differ_by_nothing_for_sure():
    row = [seed(result("a.t", [-1.0, -5.0, -2.0], hits=[1, 0, 1]))]
    for measure in (NATS_PER_TARGET, NATS_PER_TOKEN, ACCURACY):
        found = paired(row, row, ["a.t"], measure)
        assert (found.value, found.interval) == (0.0, (0.0, 0.0))


def test_the_average_over_data_sets_draws_each_on_its_own():
    gains = [np.random.default_rng(4).standard_normal(200)] * 2  # drawn together, two would be as unsure as one
    differences = [
        paired([seed(result(f"{name}.t", gain))], [seed(result(f"{name}.t", 0 * gain))], [f"{name}.t"], NATS_PER_TARGET)
        for name, gain in zip("ab", gains, strict=True)
    ]
    found = comparison.average(differences)
    deviation = math.sqrt(sum(gain.var() / 200 for gain in gains)) / 2
    assert found.value == pytest.approx(np.mean([gain.mean() for gain in gains]))
    assert found.interval == pytest.approx(normal(found.value, deviation), abs=0.25 * deviation)


def test_it_is_the_same_every_time_and_in_any_pieces(monkeypatch):
    row, other = ([seed(result("a.t", np.arange(9) ** power))] for power in (2, 1))
    once = paired(row, other, ["a.t"], NATS_PER_TARGET)
    monkeypatch.setattr(comparison, "_AT_ONCE", 50)
    again = paired(row, other, ["a.t"], NATS_PER_TARGET)
    np.testing.assert_array_equal(once.resampled, again.resampled)
    assert once.text() == f"+18.667 [{once.interval[0]:+.3f}, {once.interval[1]:+.3f}]"


def test_a_template_that_is_not_drawn_counts_as_it_is():
    """Beside 20 other examples the one of a tiny template is left out of a third of the samples."""
    row = [seed(result("a.big", np.zeros(20)), result("a.tiny", [4.0], index=[99]))]
    other = [seed(result("a.big", np.zeros(20)), result("a.tiny", [0.0], index=[99]))]
    found = paired(row, other, ["a.big", "a.tiny"], NATS_PER_TARGET)
    assert found.interval == (2.0, 2.0)


def test_where_a_metric_is_none_of_single_examples_there_is_no_difference():
    row = [seed(result("a.t", [0.0], hits=[1]), result("a.u", [0.0]))]
    assert paired(row, row, ["a.t", "a.u"], ACCURACY) is None
