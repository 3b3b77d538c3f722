"""What re-rankers and dual encoders learn from: good passages of a question, and bad ones that its retriever took.

    questions ──retriever──▶ Hits, kept on disk ──▶ Judged: positives, negatives ──▶ examples as text

A passage is positive if it is gold. Where the source names no gold passages, as NQ and TriviaQA do not, it is the best
hit that contains an answer (`recall.has_answer`), as in DPR; a good passage further down often has it by chance. The
other hits are negatives, but for those that contain an answer where nothing else says what is right. Negatives are
drawn: which ones depends on the seed and the question alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import gin
from etils import epath

from frozen_jax import wheels
from frozen_jax.errors import UserError
from frozen_jax.ordering import permutation
from frozen_jax.retrieval.base import NONE, Corpus, Hits, Retriever
from frozen_jax.retrieval.evidence import Evidence
from frozen_jax.retrieval.recall import Question, check, has_answer

Example = dict[str, str | Sequence[str]]

CHOICES = ("false", "true")
TEMPLATE = "Query: {question} Document: {passage} Relevant:"  # monoT5's, so that castorini's checkpoints know it


class Judged(NamedTuple):
    """A question with passages, by their numbers.

    Attributes:
        question: the question.
        positives: good passages.
        negatives: bad ones among its hits, best first.
    """

    question: Question
    positives: Sequence[int]
    negatives: Sequence[int]


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TrainingPairs:
    """How training pairs are made; for gin.

    Attributes:
        retriever: whose hits the negatives are drawn from; None is the task's own.
        hits: of each question, among which negatives are looked for. 100 is the paper's number of passages.
        negatives: of each question, for a re-ranker; a dual encoder has one a positive. Our choice.
        seed: of the draws.
        directory: where hits are kept, local or gs://; None is a folder in the cache.
    """

    retriever: Retriever | None = None
    hits: int = 100
    negatives: int = 4
    seed: int = 0
    directory: epath.PathLike | None = None

    def __post_init__(self) -> None:
        for name in ("hits", "negatives"):
            if getattr(self, name) < 1:
                raise UserError(f"TrainingPairs.{name} is {getattr(self, name)}; give a number of passages, at least 1")

    def reranking(self, questions: Sequence[Question], default: Callable[[], Retriever]) -> list[Example]:
        """What a re-ranker learns from, see `reranking_examples`.

        Args:
            questions: of one split.
            default: makes the retriever, where gin names none.

        Returns:
            The examples.

        Raises:
            UserError: as `judge`.
        """
        return self._made(questions, default, functools.partial(reranking_examples, negatives=self.negatives))

    def dual_encoder(self, questions: Sequence[Question], default: Callable[[], Retriever]) -> list[Example]:
        """What a dual encoder learns from, see `dual_encoder_examples`.

        Args:
            questions: of one split.
            default: makes the retriever, where gin names none.

        Returns:
            The examples.

        Raises:
            UserError: as `judge`.
        """
        return self._made(questions, default, dual_encoder_examples)

    def _made(
        self, questions: Sequence[Question], default: Callable[[], Retriever], make: Callable[..., Iterator[Example]]
    ) -> list[Example]:
        retriever = self.retriever or default()
        directory = self.directory or wheels.cache_folder() / "retrieval"
        hits = kept_hits(retriever, [question.text for question in questions], self.hits, directory)
        return list(make(judge(questions, hits, retriever.corpus), retriever.corpus, seed=self.seed))


def kept_hits(retriever: Retriever, questions: Sequence[str], count: int, directory: epath.PathLike) -> Hits:
    """Retrieves once; the next time, hits are read.

    Args:
        retriever: finds them.
        questions: B of them.
        count: N, how many passages for each.
        directory: where hits are kept, local or gs://.

    Returns:
        The best passages of each question.

    Raises:
        UserError: as `Evidence.find`.
    """
    evidence = Evidence(retriever, directory, reranker=None, hits=count)  # gin's re-ranker may learn from these hits
    return evidence.find([{"inputs": text} for text in questions])["retrieved"]


def judge(questions: Sequence[Question], hits: Hits, corpus: Corpus) -> list[Judged]:
    """Tells good passages from bad ones.

    Args:
        questions: B of them.
        hits: of each.
        corpus: that they are from.

    Returns:
        The questions, each with its passages; a gold one need not be among its hits.

    Raises:
        UserError: for a question that has neither answers nor gold passages, or a gold passage that the corpus lacks.
    """
    for number, question in enumerate(questions):
        check(question, number)
    numbers = _numbers(corpus, {gold: question for question in questions for gold in question.gold})
    rows = ([number for number in row if number != NONE] for row in hits.passages.tolist())
    return [
        _by_gold(question, row, numbers) if question.gold else _by_answer(question, row, corpus)
        for question, row in zip(questions, rows, strict=True)
    ]


def reranking_examples(judged: Iterable[Judged], corpus: Corpus, *, negatives: int, seed: int) -> Iterator[Example]:
    """Examples for a T5 that says whether a passage is relevant, in monoT5's words (Nogueira et al. 2020).

    Args:
        judged: of `judge`.
        corpus: that the passages are from.
        negatives: how many of a question, at most.
        seed: of the draws.

    Yields:
        `inputs`, `targets`, `choices`: one for each positive, then one for each negative of a question. A question
        without positives gives none.
    """
    for question, positives, others in judged:
        drawn = draw(others, negatives, seed, question) if positives else []
        for target, numbers in {"true": positives, "false": drawn}.items():
            for number in numbers:
                inputs = TEMPLATE.format(question=question.text, passage=corpus[number].whole)
                yield {"inputs": inputs, "targets": target, "choices": list(CHOICES)}


def dual_encoder_examples(judged: Iterable[Judged], corpus: Corpus, *, seed: int) -> Iterator[Example]:
    """Examples for an encoder of questions and passages.

    Args:
        judged: of `judge`.
        corpus: that the passages are from.
        seed: of the draws.

    Yields:
        `inputs`, the question; `targets`, a good passage; `negatives`, a bad one: an example for each positive, with a
        negative of its own. A question with several positives stands in several examples, any two of which may meet in
        a batch.
    """
    for question, positives, others in judged:
        for positive, negative in zip(positives, draw(others, len(positives), seed, question), strict=False):
            yield {"inputs": question.text, "targets": corpus[positive].whole, "negatives": corpus[negative].whole}


def draw(candidates: Sequence[int], count: int, seed: int, question: Question) -> list[int]:
    """Draws passages without replacement.

    Args:
        candidates: their numbers.
        count: how many, at most.
        seed: of the draw.
        question: the draw is the same wherever it stands.

    Returns:
        Numbers of passages.
    """
    return [candidates[i] for i in permutation(len(candidates), seed, "negatives", question.text)[:count]]


def _by_gold(question: Question, row: Sequence[int], numbers: Mapping[str, int]) -> Judged:
    gold = [numbers[name] for name in dict.fromkeys(question.gold)]
    return Judged(question, gold, [number for number in row if number not in gold])


def _by_answer(question: Question, row: Sequence[int], corpus: Corpus) -> Judged:
    good = {number for number in row if has_answer(question.answers, corpus[number].text)}
    return Judged(question, [n for n in row if n in good][:1], [n for n in row if n not in good])


def _numbers(corpus: Corpus, wanted: Mapping[str, Question]) -> dict[str, int]:
    """One reading of the corpus, as far as need be: a hundred hits of each question would be more."""
    found: dict[str, int] = {}
    for number in range(len(corpus)):
        if len(found) == len(wanted):
            break
        if (name := corpus[number].id) in wanted:
            found[name] = number
    if missing := next((name for name in wanted if name not in found), None):
        asked = wanted[missing].text
        raise UserError(
            f"the corpus has no passage {missing!r}, gold for {asked!r}; take the corpus of these questions"
        )
    return found
