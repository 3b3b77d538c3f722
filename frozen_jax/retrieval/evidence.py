"""Evidence for questions: retrieve, then re-rank. Every stage is on disk as it is made, under a key of what made it.

    questions ──retriever──▶ "retrieved": Hits ──reranker──▶ "reranked": Hits

Levine et al. 2022, figure 4. The last stage is what a reader is shown; the others are there to be measured.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import gin
import numpy as np
from etils import epath

from frozen_jax.errors import UserError
from frozen_jax.retrieval.base import NONE, Corpus, Hits, Passage, Retriever
from frozen_jax.retrieval.chunks import Chunks, Rows

_QUESTIONS = 512  # a chunk of what is retrieved: a few seconds
_RERANKED = 8  # and of what is re-ranked: 800 pairs, a minute on two cores


@runtime_checkable
class Reranks(Protocol):
    """What orders hits anew; see `reranking.Reranker`."""

    @property
    def made(self) -> Mapping[str, Any]:
        """Everything that decides its scores, as JSON."""
        ...

    def rerank(self, questions: Sequence[str], hits: Hits, corpus: Corpus) -> Hits:
        """The same hits in another order, with other scores."""
        ...


@runtime_checkable
class Finds(Protocol):
    """What finds evidence: `Evidence`, or `GoldEvidence` for an upper bound.

    Attributes:
        corpus: where the passages are.
        directory: where stages are kept.
    """

    corpus: Any
    directory: epath.PathLike

    @property
    def made(self) -> Mapping[str, Any]:
        """Everything that decides what is found, as JSON."""
        ...

    def find(self, examples: Sequence[Mapping[str, Any]], split: str = "") -> dict[str, Hits]:
        """Finds passages for the questions that are the examples' inputs; see `Evidence.find`."""
        ...


@gin.configurable
class Evidence:
    """A retriever and, behind it, a re-ranker.

    Attributes:
        corpus: where the passages are.
        directory: where the stages are kept.
    """

    def __init__(
        self,
        retriever: Retriever,
        directory: epath.PathLike,
        reranker: Reranks | None = None,
        hits: int = 100,
        train_hits: int | None = None,
    ) -> None:
        """Holds the stages; reads nothing yet.

        Args:
            retriever: finds passages.
            directory: where the stages are kept, local or gs://.
            reranker: orders them anew; None leaves them in the retriever's order.
            hits: N, how many passages are retrieved and re-ranked; 100 as in the paper.
            train_hits: N for the questions that a reader learns from, which may be many; None is `hits`.

        Raises:
            UserError: for less than one hit.
        """
        self._hits, self._train_hits = hits, hits if train_hits is None else train_hits
        for name, count in (("hits", self._hits), ("train_hits", self._train_hits)):
            if count < 1:
                raise UserError(f"Evidence.{name} is {count}; retrieve at least one passage")
        self.corpus, self.directory = retriever.corpus, directory
        self._retriever, self._reranker = retriever, reranker

    @property
    def made(self) -> Mapping[str, Any]:
        """Everything that decides what is found, as JSON."""
        reranked = {} if self._reranker is None else {"reranker": dict(self._reranker.made)}
        hits = {"hits": self._hits, "train_hits": self._train_hits}
        return {"retriever": dict(self._retriever.made), **hits, **reranked}

    def find(self, examples: Sequence[Mapping[str, Any]], split: str = "") -> dict[str, Hits]:
        """Finds passages for questions, going on where an earlier run stopped.

        Args:
            examples: their "inputs" are the questions.
            split: where they are from. For "train" `train_hits` are found; of "infer" nothing is kept on disk.

        Returns:
            What each stage found, "retrieved" and, where there is a re-ranker, "reranked".
        """
        questions, kept = [example["inputs"] for example in examples], split != "infer"
        count = self._train_hits if split == "train" else self._hits

        def search(rows: range) -> Hits:
            return self._retriever.search(questions[rows.start : rows.stop], count)

        made = {"retriever": dict(self._retriever.made), "hits": count, "questions": digest(questions)}
        found = {"retrieved": self._stage("retrieved", made, len(questions), _QUESTIONS, search, kept)}
        first = found["retrieved"]
        _tell_of_questions_without(questions, first)
        if (reranker := self._reranker) is None:
            return found

        def rerank(rows: range) -> Hits:
            hits = Hits(*(array[rows.start : rows.stop] for array in first))
            return reranker.rerank(questions[rows.start : rows.stop], hits, self.corpus)

        made |= {"reranker": dict(reranker.made)}
        return found | {"reranked": self._stage("reranked", made, len(questions), _RERANKED, rerank, kept)}

    def _stage(
        self, name: str, made: Mapping[str, Any], total: int, size: int, compute: Callable[[range], Hits], kept: bool
    ) -> Hits:
        if not kept:
            return compute(range(total))
        chunks = Chunks(self.directory, name, made, total, size)
        chunks.fill(lambda rows: _rows(compute(rows)), "question")
        return Hits(**chunks.whole())


@gin.configurable
class GoldEvidence:
    """The passages that a data set names as the right ones: the upper bound of every retriever.

    Attributes:
        corpus: where the passages are; finds their numbers by their ids.
        directory: where what is made of them is kept.
    """

    made: Mapping[str, Any]

    def __init__(self, corpus: Any, directory: epath.PathLike) -> None:
        """Holds the corpus.

        Args:
            corpus: `passages.Passages`.
            directory: where what is made of them is kept, local or gs://.
        """
        self.corpus, self.directory = corpus, directory
        self.made = {"gold": corpus.sha256}

    def find(self, examples: Sequence[Mapping[str, Any]], split: str = "") -> dict[str, Hits]:
        """Looks the passages up.

        Args:
            examples: their "gold" are ids of passages.
            split: nothing depends on it.

        Returns:
            {"gold": the passages in the order in which they are named}.

        Raises:
            UserError: if an example names none.
        """
        del split
        named = [[self.corpus.number(name) for name in example.get("gold", ())] for example in examples]
        for example, numbers in zip(examples, named, strict=True):
            if not numbers:
                raise UserError(f"the question {example['inputs']!r} names no gold passages; only some tasks' do")
        most = max(map(len, named))
        passages = np.array([[*row, *[NONE] * (most - len(row))] for row in named], np.int64)
        scores = np.where(passages == NONE, -np.inf, -np.arange(most, dtype=np.float32)).astype(np.float32)
        return {"gold": Hits(passages, scores)}


def digest(texts: Sequence[str]) -> str:
    """The sum of texts in their order.

    Args:
        texts: any.

    Returns:
        SHA-256 in hexadecimal.
    """
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def passages_of(hits: Hits, row: int, corpus: Corpus) -> list[Passage]:
    """The passages of one question.

    Args:
        hits: of some questions.
        row: which of them.
        corpus: where the passages are.

    Returns:
        Its passages, best first.
    """
    return [corpus[int(number)] for number in hits.passages[row] if number != NONE]


def described(stages: Mapping[str, Hits], row: int, places: Iterable[int], corpus: Corpus) -> list[dict[str, Any]]:
    """Passages of one question as they are shown to people, with what each stage thought of them.

    Args:
        stages: stage → what it found; the last is what a reader is shown.
        row: which question.
        places: which of the last stage's hits.
        corpus: where the passages are.

    Returns:
        As JSON: number, id and title, score of the last stage, rank from 1 on at each; nothing for missing hits.
    """
    *_, last = stages.values()
    found = []
    for place in places:
        if place >= last.passages.shape[1] or (number := int(last.passages[row, place])) == NONE:
            continue
        passage = corpus[number]
        ranks = {name: int(np.argmax(hits.passages[row] == number)) + 1 for name, hits in stages.items()}
        score = round(float(last.scores[row, place]), 4)
        found.append({"number": number, "id": passage.id, "title": passage.title, "score": score, "ranks": ranks})
    return found


def _tell_of_questions_without(questions: Sequence[str], hits: Hits) -> None:
    """On stderr: such a question is answered without passages, and no reason to end a run."""
    alone = [question for question, row in zip(questions, hits.passages, strict=True) if (row == NONE).all()]
    if alone:
        among = f", and {len(alone) - 1} others of {len(questions)}" if len(alone) > 1 else ""
        print(f"no passage was found for the question {alone[0]!r}{among}", file=sys.stderr)


def _rows(hits: Hits) -> Rows:
    return dict(hits._asdict())
