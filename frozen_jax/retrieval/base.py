"""What retrievers have in common: numbered passages go in, and for every question the best of them come out.

    questions ──search──▶ Hits: numbers and scores of passages, best first

A corpus is anything that gives passages by number; `passages.Passages` reads them from a file. Nothing but numbers and
scores moves between stages; the text of a passage is read when a stage needs it.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from numpy import ndarray

NONE = -1  # stands in `Hits.passages` behind the last hit


class Passage(NamedTuple):
    """A piece of text that a reader may be shown.

    Attributes:
        id: of the source, one of its kind.
        title: of the article that it is from; may be empty.
        text: the piece itself.
    """

    id: str
    title: str
    text: str

    @property
    def whole(self) -> str:
        """Title and text in one, as retrievers index them."""
        return f"{self.title} {self.text}".strip()


@runtime_checkable
class Corpus(Protocol):
    """Passages by number, from 0 on.

    Attributes:
        sha256: of the file that they stand in; what is made of them is known by it.
    """

    sha256: str

    def __len__(self) -> int:
        """How many passages there are."""
        ...

    def __getitem__(self, number: int, /) -> Passage:
        """One passage."""
        ...


class Hits(NamedTuple):
    """The best passages for each question, best first.

    Attributes:
        passages: [B, N] their numbers in the corpus; `NONE` behind a question's last hit.
        scores: [B, N] the more, the better; minus infinity behind a question's last hit.
    """

    passages: Int[ndarray, "B N"]
    scores: Float[ndarray, "B N"]


class Retriever(abc.ABC):
    """Finds passages for questions.

    Attributes:
        corpus: where the passages are.
    """

    corpus: Corpus

    @property
    @abc.abstractmethod
    def made(self) -> Mapping[str, Any]:
        """Everything that decides what is found, the corpus' sum among it, as JSON: keys of what is kept on disk."""

    @abc.abstractmethod
    def search(self, questions: Sequence[str], count: int) -> Hits:
        """Finds passages.

        Args:
            questions: B of them.
            count: N, how many passages for each.

        Returns:
            The best passages of each question.
        """
