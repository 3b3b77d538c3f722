"""Recall of answers and gold passages, on hits that can be judged by hand."""

import numpy as np
import pytest

from frozen_jax.errors import UserError
from frozen_jax.retrieval import recall
from frozen_jax.retrieval.base import NONE, Hits, Passage
from frozen_jax.retrieval.recall import NOWHERE, Question, has_answer
from tests.retrieval.fake_retriever import FakeCorpus

CORPUS = FakeCorpus(
    [
        Passage("aln", "Aln", "The Aln is a river."),
        Passage("bridge", "Lantern Bridge", "It spans the river Aln."),
        Passage("smith", "John Smith", "He built a bridge."),
    ]
)
QUESTIONS = [
    Question("What does it span?", ["the river Aln"], ["bridge"]),
    Question("Is it a river?", ["Yes."], ["aln", "smith"]),
    Question("Who built it?", ["nobody", "He"], ["smith", "bridge"]),
    Question("Is it there?", ["Loch Ness"]),
]
HITS = Hits(np.array([[0, 1, 2], [2, 1, 0], [2, NONE, NONE], [1, 0, NONE]]), np.zeros((4, 3)))


@pytest.mark.parametrize(
    ("answer", "text", "found"),
    [
        ("River Aln", "It spans the river  Aln.", True),
        ("river Aln", "It spans the river, Aln", False),  # the comma is a word between
        ("aln", "Alnwick", False),
        ("Zürich", "in ZÜRICH, 1920", True),  # one of them composed, the other not
        ("Zurich", "in Zürich", False),
        ("AC/DC", "Who are AC/DC?", True),
        ("ac dc", "Who are AC/DC?", False),
        ("snake_case", "of snake_case.", True),
        ("snake", "of snake_case.", True),
        ("naïve\u200b", "so naïve", True),  # what is not seen is no word
        ("नमस्ते", "वह नमस्ते कहता", True),
        ("नमस", "वह नमस्ते कहता", False),  # a vowel sign belongs to its letter
        ("", "anything", False),
        ("  ", "anything", False),
        ("long answer indeed", "long answer", False),
        ("the the end", "the the the end", True),
    ],
)
def test_has_answer(answer, text, found):
    assert has_answer([answer], text) == found
    assert has_answer(["not there", answer], text) == found


def test_no_answers_are_never_found():
    assert not has_answer([], "anything")


def test_ranks():
    found = recall.ranks(QUESTIONS, HITS, CORPUS)
    assert found.answer.tolist() == [1, NOWHERE, 0, NOWHERE]
    assert found.first_gold.tolist() == [1, 0, 0, NOWHERE]
    assert found.last_gold.tolist() == [1, 2, NOWHERE, NOWHERE]
    assert found.has_answer.tolist() == [True, False, True, True]
    assert found.has_gold.tolist() == [True, True, True, False]


def test_what_no_question_has_is_left_out():
    assert recall.recall(recall.ranks(QUESTIONS[3:], Hits(HITS.passages[3:], HITS.scores[3:]), CORPUS), 5) == {
        "answer": 0.0
    }


@pytest.mark.parametrize("answers", [[], [" "]])
def test_a_question_without_answers_is_refused(answers):
    with pytest.raises(UserError, match=r"question 1, 'Why\?', has neither answers nor gold passages; give it some"):
        recall.ranks([QUESTIONS[0], Question("Why?", answers)], HITS, CORPUS)
