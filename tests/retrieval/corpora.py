"""Small corpora for tests, and a bucket to put them into."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import pytest

from frozen_jax import cloud_storage
from frozen_jax.retrieval.base import Passage
from tests.emulated_cloud import CloudStorage, serving


class Listed:
    """Passages in a list: what a corpus must offer, and no more."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._passages = [Passage(str(number), "", text) for number, text in enumerate(texts)]
        self.sha256 = hashlib.sha256(json.dumps(texts).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._passages)

    def __getitem__(self, number: int, /) -> Passage:
        return self._passages[number]


def write_lines(path: pathlib.Path, *records: Mapping[str, object]) -> pathlib.Path:
    """Writes JSON lines."""
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return path


@contextlib.contextmanager
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudStorage]:
    """Serves gs://bucket."""
    with serving() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        cloud_storage._ask.cache_clear()
        cloud_storage._client.cache_clear()
        yield server
