"""Several retrievers in one: reciprocal rank fusion (Cormack, Clarke and Büttcher 2009).

    score of a passage = Σ over retrievers of 1 / (60 + its rank there, from 1 on); nothing where it was not found

Only ranks count, so that scores of different kinds need not be made comparable.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np

from frozen_jax.errors import UserError
from frozen_jax.retrieval.base import NONE, Hits, Retriever

K = 60  # Cormack et al.'s; the larger, the less the first ranks stand out
DEPTH = 100  # ranks of each retriever that count at least: asking for fewer passages gives the first of the same list


@gin.configurable
class Hybrid(Retriever):
    """The fused ranks of several retrievers.

    Attributes:
        corpus: where the passages are.
        retrievers: those that are fused.
    """

    def __init__(self, retrievers: Sequence[Retriever]) -> None:
        """Takes retrievers together.

        Args:
            retrievers: of one corpus.

        Raises:
            UserError: if there are none, or they are of several corpora.
        """
        if not retrievers:
            raise UserError("Hybrid.retrievers is empty; name at least one, such as [@BM25(), @Dense()]")
        sums = [retriever.corpus.sha256[:12] for retriever in retrievers]
        if len(set(sums)) > 1:
            raise UserError(
                f"Hybrid.retrievers are of several corpora (sha256 {', '.join(sums)}); give all the same one"
            )
        self.corpus, self.retrievers = retrievers[0].corpus, retrievers

    @property
    def made(self) -> Mapping[str, Any]:
        """Everything that decides what is found."""
        of = [dict(retriever.made) for retriever in self.retrievers]
        return {"retriever": "hybrid", "k": K, "depth": DEPTH, "corpus": self.corpus.sha256, "of": of}

    def search(self, questions: Sequence[str], count: int) -> Hits:
        """Finds passages; equal scores stand in the order of the passages' numbers.

        Args:
            questions: B of them.
            count: N, how many passages for each.

        Returns:
            The best passages of each question.
        """
        found = [retriever.search(questions, max(count, DEPTH)).passages for retriever in self.retrievers]
        passages = np.full((len(questions), count), NONE, np.int64)
        scores = np.full((len(questions), count), -np.inf, np.float32)
        for row in range(len(questions)):
            for column, (number, score) in enumerate(_fused([numbers[row].tolist() for numbers in found])[:count]):
                passages[row, column], scores[row, column] = number, score
        return Hits(passages, scores)


def _fused(rankings: Sequence[Sequence[int]]) -> list[tuple[int, float]]:
    """The passages of one question and their scores, best first."""
    scores: collections.defaultdict[int, float] = collections.defaultdict(float)
    for ranking in rankings:
        for rank, number in enumerate(ranking, 1):
            if number != NONE:
                scores[number] += 1 / (K + rank)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))
