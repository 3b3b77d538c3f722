"""Figures and pictures of a split, on lengths and examples that can be counted by hand."""

import numpy as np
import pytest

from frozen_jax import inspection
from tests import fake_model
from tests.fake_model import example, task

HUNDRED = np.arange(1, 101)


def test_percentiles_are_lengths_that_occur():
    assert inspection.percentiles(HUNDRED[::-1]) == [50, 90, 95, 99, 100]
    assert inspection.percentiles(np.array([3, 7, 7])) == [7, 7, 7, 7, 7]
    assert inspection.percentiles(np.array([4])) == [4] * 5


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.5, 0.999])
@pytest.mark.parametrize("count", [1, 7, 100, 333])
def test_the_smallest_length_that_cuts_no_more_than_a_share(share, count):
    lengths = np.random.default_rng(count).integers(1, 40, count)
    found = inspection.length_that_cuts(lengths, share)
    assert (lengths > found).mean() <= share
    assert (lengths > found - 1).mean() > share


@pytest.mark.parametrize(
    ("at", "said"), [(100, "none"), (99, "1%"), (90, "10%"), (0, "100%"), (1, "99%"), (1000, "none")]
)
def test_share_cut(at, said):
    assert inspection.share_cut(HUNDRED, at) == said


def test_few_are_not_none():
    assert inspection.share_cut(np.array([1] * 999 + [5]), 4) == "0.1%"


def test_histogram_counts_every_example_and_marks_what_is_cut():
    assert inspection.histogram(np.array([3] * 2 + [16, 17, 40] + [70] * 5), at=40, bar=10) == [
        "      0 -    16  30.0% ######",
        "     17 -    32  10.0% ##",
        "     33 -    40  10.0% ##",
        "     41 -    64   0.0%  cut",
        "     65 -    70  50.0% ########## cut",
    ]
    assert inspection.histogram(np.array([5]), at=40) == ["      0 -     5 100.0% " + "#" * 50]


def answered(*pairs):
    return task([example(i, "5", target, choices) for i, (target, choices) in enumerate(pairs)])


def test_answers_in_words():
    yes_no = ("7", "8")
    said = inspection.targets_in_words(answered(("7", yes_no), ("7", yes_no), ("8", yes_no)))
    assert said == ['chosen among "7", "8"', 'most frequent: "7", 0.667']
    said = inspection.targets_in_words(answered(("7", ()), ("8", ()), ("8", ())))
    assert said == ["written, 2 different targets", 'most frequent: "8", 0.667']


def test_choices_of_each_example_s_own():
    said = inspection.targets_in_words(answered(("7", ("7", "8")), ("9", ("6", "9", "5")), ("5", ("5", "4"))))
    assert said[0] == ("chosen among 2 to 3 of each example's own; the right one stands first, second, ... in 67%, 33%")


def test_what_is_odd_about_answers_is_marked():
    said = inspection.targets_in_words(answered(("7", ("8", "9")), ("", ()), ("8", ("8", "9"))))
    assert said[0] == "! only 2 of 3 examples have choices"
    assert said[2:] == ["! 1 targets are not among their choices", "! 1 targets are empty"]


def percent(targets, predictions):
    return {"percent": 100 * fake_model.accuracy(targets, predictions)["accuracy"]}


def generous(targets, predictions):
    return {"generous": 0.5}


def picky(targets, predictions):
    if "" in predictions:
        raise ValueError("say something")
    return {"picky": 1.0}


def test_ends_of_metrics():
    metrics = [fake_model.accuracy, percent, generous, picky]
    given = task(
        [example(0, "5", "7"), example(1, "5", "8 8")],
        predict_metrics=metrics,
        score_metrics=[fake_model.mean_score],
    )
    found, failures = inspection.ends(given)
    assert {end.metric: (end.perfect, end.remark) for end in found} == {
        "accuracy": (1.0, ""),
        "percent": (100.0, ""),
        "generous": (0.5, "! perfect ones earn neither 1 nor 100; empty ones earn more than nothing"),
        "picky": (1.0, "! fails on empty predictions"),
    }
    assert [end.empty for end in found[:3]] == [0.0, 0.0, 0.5]
    assert failures == ["metric picky of task fake failed on test: ValueError: say something"]


def test_long_texts_lose_their_middle():
    assert inspection.shortened('say "a"') == '"say \\"a\\""'
    assert inspection.shortened("a\nb") == '"a\\nb"'
    text = "b" * 300 + "m" * 1000 + "e" * 100
    assert inspection.shortened(text, 400) == f'"{"b" * 300}" ... 1,000 characters ... "{"e" * 100}"'


def test_gloss_stands_in_columns():
    pieces, ids = ["▁A", "▁longer", "one", "</s>"], [71, 1, 12345, 1]
    assert inspection.gloss(pieces, ids, first=9, last=9) == ["▁A ▁longer one   </s>", "71 1       12345 1"]
    assert inspection.gloss(pieces, ids, first=9, last=9, width=12) == ["▁A ▁longer", "71 1", "one   </s>", "12345 1"]
    assert inspection.gloss(pieces, ids, first=1, last=1) == ["▁A ... 2 tokens ... </s>", "71                  1"]
