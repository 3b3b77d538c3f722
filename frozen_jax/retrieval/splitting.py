"""Documents to passages of a hundred words, DPR's way: end to end, none overlaps, the last may be shorter.

    {"id": "7", "title": "Anna Dupont", "text": 230 words}
    ──▶ {"id": "7#0", "title": "Anna Dupont", "text": the first 100}, "7#1" with the next 100, "7#2" with the last 30

A word is what stands between white space (our choice; Karpukhin et al. 2020, section 4.1, do not say).
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import IO

import gin
from etils import epath

from frozen_jax import cloud_storage, progress
from frozen_jax.errors import UserError
from frozen_jax.retrieval.base import Passage
from frozen_jax.retrieval.passage_lines import PassageLines


@gin.configurable
def split_documents(documents: str, passages: str, words: int = 100) -> int:
    """Splits the documents of a file, one at a time.

    Args:
        documents: a JSON-lines file of documents with id, title (optional) and text; local or gs://.
        passages: the JSON-lines file that is written, whole or not at all; one that is there is replaced.
        words: of a passage.

    Returns:
        How many passages were written.

    Raises:
        UserError: if a file is of another kind, holds no documents or something that is none.
    """
    _check(documents, passages, words)
    lines, source, count = PassageLines(documents), cloud_storage.open_path(documents), 0
    if not source.exists():
        raise UserError(f"there is no file {documents}")
    with source.open("rb") as stream, _written(cloud_storage.open_path(passages)) as target:
        for number, line in enumerate(progress.bar(stream, desc=source.name, unit="documents")):
            for passage in split(lines.passage(line, number), words):
                target.write(json.dumps(passage._asdict(), ensure_ascii=False) + "\n")
                count += 1
        if not count:
            raise UserError(f"{documents} holds no documents")
    return count


def split(document: Passage, words: int) -> list[Passage]:
    """Splits one document.

    Args:
        document: with its whole text.
        words: of a passage.

    Returns:
        Its passages, in order.
    """
    found = document.text.split()
    texts = [" ".join(found[start : start + words]) for start in range(0, len(found), words)]
    return [Passage(f"{document.id}#{n}", document.title, text) for n, text in enumerate(texts)]


def _check(documents: str, passages: str, words: int) -> None:
    for name, path in {"documents": documents, "passages": passages}.items():
        if not path.endswith(".jsonl"):
            raise UserError(f"split_documents.{name}: {path} must be a .jsonl file")
    if documents == passages:
        raise UserError(f"split_documents: {documents} would be replaced by its own passages; name another file")
    if words < 1:
        raise UserError(f"split_documents.words is {words}; a passage has at least one word")


@contextlib.contextmanager
def _written(path: epath.Path) -> Iterator[IO[str]]:
    """A text file that is there, whole, if nothing went wrong before the end."""
    if not (is_cloud := cloud_storage.is_cloud(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() if is_cloud else cloud_storage.scratch_beside(path) as scratch:
        file = pathlib.Path(scratch, path.name)
        with open(file, "w", encoding="utf-8") as stream:
            yield stream
        if is_cloud:
            epath.Path(file).copy(path, overwrite=True)
        else:
            os.replace(file, path)
