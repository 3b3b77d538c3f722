"""A corpus in memory and a retriever that counts words in common, for tests of what stands behind them."""

from __future__ import annotations

import numpy as np

from frozen_jax.retrieval.base import NONE, Hits, Passage, Retriever


class FakeCorpus(list[Passage]):
    sha256 = "0f"


class FakeRetriever(Retriever):
    """Remembers what it was asked."""

    def __init__(self, corpus: FakeCorpus) -> None:
        self.corpus, self.asked = corpus, []

    @property
    def made(self) -> dict[str, str]:
        return {"fake": self.corpus.sha256}

    def search(self, questions, count):
        self.asked.append(list(questions))
        shared = np.array([[len(set(q.split()) & set(p.whole.split())) for p in self.corpus] for q in questions])
        order = np.argsort(-shared, axis=1, kind="stable")[:, :count]
        scores = np.take_along_axis(shared, order, axis=1).astype(np.float32)
        return Hits(np.where(scores > 0, order, NONE), np.where(scores > 0, scores, -np.inf))
