"""Dense retrieval: the passages whose vectors lie nearest to the question's.

    passages ──encoder──▶ vectors, on disk as they are made ──▶ mesh ─┐
                                                                     ├─ exact search ──▶ Hits
    questions ──encoder──▶ vectors ──────────────────────────────────┘

Vectors are known by the corpus and the encoder that made them, so those of others are never taken for them. Instead of
made here they may be given as a file, one row a passage, whose origin is the giver's word.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float

from frozen_jax import processes
from frozen_jax.errors import UserError
from frozen_jax.retrieval.base import Corpus, Hits, Retriever
from frozen_jax.retrieval.chunks import Chunks, Rows
from frozen_jax.retrieval.encoders import Encoder
from frozen_jax.retrieval.exact_search import ExactSearch

_CHUNK = 4096  # vectors a file: Wikipedia's 21 million are 5,000 files, and a kill costs no more than one
_ROWS = 65_536  # of a file of vectors, looked at together


@gin.configurable
class Dense(Retriever):
    """Finds passages by the inner products of vectors.

    Attributes:
        corpus: where the passages are.
    """

    def __init__(
        self,
        corpus: Corpus,
        encoder: Encoder,
        directory: epath.PathLike,
        *,
        mesh: Mesh,
        vectors: str | None = None,
        recall_target: float | None = None,
    ) -> None:
        """Says how to search; vectors are made, or gone on with, at the first search.

        Args:
            corpus: where the passages are.
            encoder: of `retrieval.encoders`; makes vectors of questions, and of passages where none are given.
            directory: where the passages' vectors lie, local or gs://.
            mesh: over all of whose devices they are split.
            vectors: a local .npy file [N, D] with those of the corpus, made by the encoder's like elsewhere.
            recall_target: see `ExactSearch`; None searches exactly.

        Raises:
            UserError: for a corpus without passages, or a file of vectors that does not fit it.
        """
        if not len(corpus):
            raise UserError("the corpus has no passages; there is nothing to search")
        self.corpus, self._encoder, self._mesh, self._recall_target = corpus, encoder, mesh, recall_target
        self._vectors, given = (None, {}) if vectors is None else _given(vectors, len(corpus))
        self._made = {"retriever": "dense", "corpus": corpus.sha256, "encoder": encoder.made, **given}
        self._chunks = Chunks(directory, "vectors", self._made, len(corpus), _CHUNK)

    @property
    def made(self) -> Mapping[str, Any]:
        """Corpus, encoder and, if it is not exact, the search."""
        return {**self._made, **({} if self._recall_target is None else {"recall_target": self._recall_target})}

    def search(self, questions: Sequence[str], count: int) -> Hits:
        """Finds passages; see `Retriever.search`.

        Args:
            questions: B of them.
            count: N, how many passages for each.

        Returns:
            The best passages of each question.

        Raises:
            UserError: if a file of vectors is of another width than the encoder's, or as `Chunks`.
        """
        if not questions:
            return Hits(np.zeros((0, count), np.int32), np.zeros((0, count), np.float32))
        queries = self._encoder.encode(questions)
        if queries.shape[1] != self._index.width:
            raise UserError(
                f"the encoder makes vectors of {queries.shape[1]} numbers, those of the passages have "
                f"{self._index.width}; give both the same encoder"
            )
        return self._index.search(queries, count)

    @functools.cached_property
    def _index(self) -> ExactSearch:
        how: dict[str, Any] = {"recall_target": self._recall_target}
        if self._vectors is not None:
            file = self._vectors
            return ExactSearch(lambda start, stop: file[start:stop], len(file), file.shape[1], self._mesh, **how)
        self._chunks.fill(self._encoded, "passage")
        width = self._chunks.part(0, 1)["vectors"].shape[1]
        return ExactSearch(self._part, len(self.corpus), width, self._mesh, **how)

    def _encoded(self, numbers: range) -> Rows:
        return {"vectors": self._encoder.encode([self.corpus[number].whole for number in numbers])}

    def _part(self, start: int, stop: int) -> Float[np.ndarray, "rows D"]:
        return self._chunks.part(start, stop)["vectors"]


def _given(path: str, passages: int) -> tuple[Float[np.ndarray, "N D"], dict[str, str]]:
    """A file of vectors, mapped into memory, and its sum."""
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no .npy file of vectors: {error}") from error
    if vectors.dtype.kind != "f" or vectors.ndim != 2 or len(vectors) != passages:
        raise UserError(
            f"{path} holds {vectors.dtype} of shape {vectors.shape}; floating-point numbers of shape ({passages}, D) "
            "are wanted, one row a passage"
        )
    return vectors, {"vectors": processes.from_first(functools.partial(_sum, path, vectors))}


def _sum(path: str, vectors: Float[np.ndarray, "N D"]) -> str:
    """Reads a file once, and sees that all are numbers."""
    total = hashlib.sha256()
    for start in range(0, len(vectors), _ROWS):
        rows = vectors[start : start + _ROWS]
        if not np.isfinite(rows).all():
            row = start + int(np.argmin(np.isfinite(rows).all(axis=1)))
            raise UserError(f"{path}: the vector of passage {row} holds what is no number; make it anew")
        total.update(np.ascontiguousarray(rows).tobytes())
    return total.hexdigest()
