"""How well passages were found: recall of answers and of gold passages, among the first k or within a budget of tokens.

    questions, Hits, corpus ──▶ Ranks: where each question's answer and gold passages stand ──▶ recall at any cut

`has_answer` is DPR's test (Karpukhin et al. 2020): the answer's words stand in a row in the passage's text, both in
Unicode NFD and in lower case; the title does not count. The words "yes" and "no" stand in passages by chance, so
questions that are answered so are LEFT OUT of the recall of answers, and counted; in that of gold passages they stay.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from frozen_jax.errors import UserError
from frozen_jax.retrieval.base import NONE, Corpus, Hits
from frozen_jax.text_metrics import is_yes_or_no

NOWHERE = np.iinfo(np.int64).max  # the rank of what is not among the hits


class Question(NamedTuple):
    """A question, and what makes a passage a good one for it.

    Attributes:
        text: the question.
        answers: all right ones.
        gold: ids of the passages that hold what it takes; empty where the source names none.
    """

    text: str
    answers: Sequence[str] = ()
    gold: Sequence[str] = ()


class Ranks(NamedTuple):
    """Where in the hits of B questions the right passages stand: ranks from 0 on, or `NOWHERE`.

    Attributes:
        answer: of the first passage that has an answer.
        first_gold: of the best gold passage.
        last_gold: of the worst: `NOWHERE` unless all of them were found.
        has_answer: whether the question counts in the recall of answers.
        has_gold: whether it counts in that of gold passages.
    """

    answer: Int[ndarray, " B"]
    first_gold: Int[ndarray, " B"]
    last_gold: Int[ndarray, " B"]
    has_answer: Bool[ndarray, " B"]
    has_gold: Bool[ndarray, " B"]


def recall(found: Ranks, kept: int | Int[ndarray, " B"]) -> dict[str, float]:
    """The shares of questions whose right passages are among the first.

    Args:
        found: of `ranks`.
        kept: how many passages are kept, of all questions or of each.

    Returns:
        `{"answer": ..., "any_gold": ..., "all_gold": ...}`, each over the questions that have such a thing, and left
        out where none has.
    """
    measured = {
        "answer": (found.answer, found.has_answer),
        "any_gold": (found.first_gold, found.has_gold),
        "all_gold": (found.last_gold, found.has_gold),
    }
    return {name: float((rank < kept)[has].mean()) for name, (rank, has) in measured.items() if has.any()}


def ranks(questions: Sequence[Question], hits: Hits, corpus: Corpus) -> Ranks:
    """Looks for answers and gold passages among hits. Reads every hit.

    Args:
        questions: B of them.
        hits: of each.
        corpus: that they are from.

    Returns:
        Where they stand.

    Raises:
        UserError: for a question that has neither answers nor gold passages.
    """
    for number, question in enumerate(questions):
        check(question, number)
    rows = [_ranks(question, row, corpus) for question, row in zip(questions, hits.passages.tolist(), strict=True)]
    answer, first, last = np.array(rows, np.int64).reshape(-1, 3).T
    has_answer = [bool(question.answers) and not is_yes_or_no(question.answers) for question in questions]
    return Ranks(answer, first, last, np.array(has_answer, bool), np.array([bool(q.gold) for q in questions], bool))


def check(question: Question, number: int) -> None:
    """Looks whether a question says what is right.

    Args:
        question: to look at.
        number: its place, for the message.

    Raises:
        UserError: if it has neither answers nor gold passages.
    """
    if not question.gold and not any(answer.strip() for answer in question.answers):
        raise UserError(f"question {number}, {question.text!r}, has neither answers nor gold passages; give it some")


def has_answer(answers: Sequence[str], text: str) -> bool:
    """DPR's test of whether a passage holds an answer.

    Args:
        answers: right ones; one without any letter, digit or sign is never found.
        text: of the passage, without its title.

    Returns:
        Whether the words of one of them stand in it in a row.
    """
    text = _folded(text)
    wanted = [words for words in map(_answer_words, answers) if words and all(word in text for word in words)]
    if not wanted:
        return False
    found = _words(text)
    return any(tuple(found[i : i + len(words)]) == words for words in wanted for i in range(len(found)))


def _ranks(question: Question, row: Sequence[int], corpus: Corpus) -> tuple[int, int, int]:
    passages = [corpus[number] for number in row if number != NONE]
    texts = enumerate(passage.text for passage in passages)
    answer = next((rank for rank, text in texts if has_answer(question.answers, text)), NOWHERE)
    gold = [rank for rank, passage in enumerate(passages) if passage.id in question.gold]
    found_all = gold and len(gold) == len(set(question.gold))
    return answer, gold[0] if gold else NOWHERE, gold[-1] if found_all else NOWHERE


@functools.lru_cache(maxsize=4096)  # the answers of a question are looked for in a hundred passages
def _answer_words(answer: str) -> tuple[str, ...]:
    return tuple(_words(_folded(answer)))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFD", text).lower()


def _words(text: str) -> list[str]:
    """Runs of letters, digits and the marks on them; any other visible character is a word of its own."""
    found = _pattern().findall(text.replace("_", " _ "))  # Python takes it for a letter
    return [word for word in found if len(word) > 1 or unicodedata.category(word)[0] not in "CZ"]


@functools.cache
def _pattern() -> re.Pattern[str]:
    """Python's `re` has no class of its own for marks: 0.2 s, when first asked."""
    marks = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c)[0] == "M")
    return re.compile(rf"[\w{marks}]+|\S")
