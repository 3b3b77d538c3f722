"""Reciprocal rank fusion, against an example worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from frozen_jax.errors import UserError
from frozen_jax.retrieval.base import NONE, Hits, Retriever
from frozen_jax.retrieval.hybrid import DEPTH, Hybrid
from tests.retrieval.corpora import Listed

CORPUS = Listed(["a", "b", "c", "d"])


class Fixed(Retriever):
    """Answers every question with the same passages."""

    def __init__(self, rankings, corpus=CORPUS):
        self.corpus, self._rankings = corpus, rankings

    @property
    def made(self):
        return {"corpus": self.corpus.sha256, "rankings": self._rankings}

    def search(self, questions, count):
        assert len(questions) == len(self._rankings)
        rows = [(ranking + [NONE] * count)[:count] for ranking in self._rankings]
        return Hits(np.array(rows, np.int64), np.zeros((len(rows), count), np.float32))


FIRST, SECOND = Fixed([[2, 0, 1], []]), Fixed([[0, 3], []])


def test_ranks_are_fused_as_by_hand():
    hits = Hybrid([FIRST, SECOND]).search(["one", "without a hit"], 5)
    # 0: second and first; 2: first once; 3: second once; 1: third once
    assert hits.passages.tolist() == [[0, 2, 3, 1, NONE], [NONE] * 5]
    wanted = [1 / 62 + 1 / 61, 1 / 61, 1 / 62, 1 / 63, -np.inf]
    np.testing.assert_allclose(hits.scores, [wanted, [-np.inf] * 5], rtol=1e-6)


def test_equal_scores_stand_by_number():
    hits = Hybrid([Fixed([[3, 1]]), Fixed([[1, 3]]), Fixed([[2]]), Fixed([[0]])]).search(["one"], 4)
    assert hits.passages.tolist() == [[1, 3, 0, 2]]


def test_fewer_passages_are_the_first_of_more():
    hybrid = Hybrid([Fixed([[2, 0, 1]]), Fixed([[3, 1]])])
    assert hybrid.search(["one"], 1).passages.tolist() == [[1]]  # third and second: more than a first rank alone
    assert hybrid.search(["one"], DEPTH + 1).passages[0, :4].tolist() == [1, 2, 3, 0]


def test_what_decides_is_told():
    made = Hybrid([FIRST, SECOND]).made
    assert made["corpus"] == CORPUS.sha256
    assert made["of"] == [FIRST.made, SECOND.made]
    assert made != Hybrid([FIRST]).made


def test_what_cannot_be_fused():
    with pytest.raises(UserError, match=r"Hybrid\.retrievers is empty; name at least one"):
        Hybrid([])
    with pytest.raises(UserError, match=r"Hybrid\.retrievers are of several corpora \(sha256 \w{12}, \w{12}\)"):
        Hybrid([FIRST, Fixed([[]], Listed(["another"]))])
