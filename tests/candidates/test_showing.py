"""Candidates beside a question: as many as fit, and what is said of those that do not."""

import pytest

from frozen_jax.candidates.grouping import Candidate
from frozen_jax.candidates.showing import Template, fitting, tell
from frozen_jax.errors import UserError

TEMPLATE = Template("{candidates} ? {question}", "{candidate} x{count}", " or ")
GROUP = [Candidate("a b", 3, -1.0), Candidate("c", 2, -1.0), Candidate("d e f g", 1, -1.0)]


def words(text):
    return len(text.split())


def test_the_template():
    assert TEMPLATE.fill(" who \n", GROUP[:2]) == "a b x3 or c x2 ? who"


@pytest.mark.parametrize(("length", "fit"), [(14, 3), (13, 2), (8, 2), (7, 1), (5, 1)])
def test_those_of_the_fewest_samples_are_left_out_first(length, fit):
    assert fitting("who", GROUP, length, words, TEMPLATE) == GROUP[:fit]


def test_a_candidate_without_room():
    message = r"the candidate 'a b' of the question 'who' has no room: inputs would have 5 tokens, .* allows 4; allow"
    with pytest.raises(UserError, match=message):
        fitting("who", GROUP, 4, words, TEMPLATE)
    with pytest.raises(UserError, match="the question 'who is' has no room: inputs would have 3 tokens"):
        fitting("who is", [], 2, words, TEMPLATE)


def test_what_is_missing_is_told(capsys):
    tell(["one", "two", "three"], [GROUP, [], []], [GROUP[:1], [], []])
    assert capsys.readouterr().err.splitlines() == [
        "no sample says anything for the question 'two', and for 1 others of 3",
        "2 of 3 candidates had no room and are not shown",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": "{question}"}, r"TextualRecursion\.template, .*\{candidates\} is missing"),
        ({"candidate": "{text}"}, r"TextualRecursion\.candidate_template, .*\{text\} is unknown"),
    ],
)
def test_names_in_braces(changes, message):
    with pytest.raises(UserError, match=message):
        Template(**changes).check()
