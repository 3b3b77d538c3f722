"""Which samples say the same, and what is chosen among them without training."""

import numpy as np
import pytest

from frozen_jax.candidates.grouping import Candidate, grouped, likeliest, oracle, vote

TEXTS = ["the Beatles", "Abba", "Beatles", "", "beatles!", "Beatles", "Queen", "The.", "Abba"]
NATS = np.log([0.1, 0.3, 0.2, 0.9, 0.05, 0.2, 0.02, 0.9, 0.25]).astype(np.float32)


def test_equal_answers_are_one_candidate():
    found = grouped(TEXTS, NATS)
    assert [(one.text, one.count) for one in found] == [("Beatles", 4), ("Abba", 2), ("Queen", 1)]
    # Three spellings of 0.1, 0.2 and 0.05; one text in other tokens counts as its likelier spelling.
    np.testing.assert_allclose(np.exp([one.log_prob for one in found]), [0.35, 0.3, 0.02], rtol=1e-5)


def test_the_first_of_the_most_frequent_spellings_stands_for_all():
    [one] = grouped(["a Fox", "fox", "Fox", "fox.", "Fox", "fox"], np.zeros(6, np.float32))
    assert one.text == "fox"


def test_of_as_many_samples_the_likelier_comes_first():
    found = grouped(["b", "c", "d"], np.array([-3.0, -1.0, -2.0], np.float32))
    assert [one.text for one in found] == ["c", "d", "b"]


def test_empty_samples_are_no_candidates():
    assert grouped(["", "the", " "], np.zeros(3, np.float32)) == []


@pytest.mark.parametrize(("choose", "chosen"), [(vote, "Paris"), (likeliest, "Rome"), (oracle, "Lyon in France")])
def test_choosers(choose, chosen):
    candidates = [Candidate("Paris", 3, -2.0), Candidate("Rome", 2, -1.0), Candidate("Lyon in France", 1, -9.0)]
    assert choose(candidates, ["Lyon"]) == chosen
    assert choose([], ["Lyon"]) == ""
