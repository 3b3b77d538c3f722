"""Passages in memory, and stages that can be counted: what the tests of everything behind retrieval have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from frozen_jax.retrieval.base import NONE, Corpus, Hits, Passage, Retriever

WORDS = ("river", "city", "king", "song", "war", "ship")


class ListCorpus:
    """Passage n says what number n is about: `w<n> <word> ...`."""

    def __init__(self, count: int = 12, length: int = 3) -> None:
        self.sha256 = f"sum of {count} passages"
        self._passages = [
            Passage(f"p{n}", f"w{n}", " ".join(f"w{40 + (n * length + i) % 50}" for i in range(length)))
            for n in range(count)
        ]

    def __len__(self) -> int:
        return len(self._passages)

    def __getitem__(self, number: int, /) -> Passage:
        return self._passages[number]

    def number(self, name: str) -> int:
        return [passage.id for passage in self._passages].index(name)


class NearNumbers(Retriever):
    """Finds passages whose numbers are near that of the question, `w7 ...`; counts what it is asked."""

    def __init__(self, corpus: Corpus | None = None) -> None:
        self.corpus = ListCorpus() if corpus is None else corpus
        self.asked: list[str] = []

    @property
    def made(self) -> Mapping[str, Any]:
        return {"corpus": self.corpus.sha256}

    def search(self, questions: Sequence[str], count: int) -> Hits:
        self.asked += questions
        numbers = np.arange(len(self.corpus))
        distance = np.abs(numbers[None] - np.array([[int(question.split()[0][1:])] for question in questions]))
        order = np.argsort(distance, axis=1, kind="stable")[:, :count]
        scores = -np.take_along_axis(distance, order, axis=1).astype(np.float32)
        room = ((0, 0), (0, max(0, count - order.shape[1])))
        return Hits(np.pad(order, room, constant_values=NONE), np.pad(scores, room, constant_values=-np.inf))


class Reversed:
    """Turns the order of hits round; counts what it is asked, and can be killed."""

    def __init__(self, killed_at: int = -1) -> None:
        self.asked: list[str] = []
        self.killed_at = killed_at

    @property
    def made(self) -> Mapping[str, Any]:
        return {"order": "reversed"}

    def rerank(self, questions: Sequence[str], hits: Hits, corpus: Corpus) -> Hits:
        del corpus
        self.asked += questions
        if 0 <= self.killed_at <= len(self.asked):
            raise KeyboardInterrupt
        return Hits(hits.passages[:, ::-1].copy(), -hits.scores[:, ::-1].copy())
