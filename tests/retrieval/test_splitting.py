"""Documents become passages: every word once, in order, with ids that say where it stood."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies

from frozen_jax.errors import UserError
from frozen_jax.retrieval.base import Passage
from frozen_jax.retrieval.passages import Passages
from frozen_jax.retrieval.splitting import split, split_documents
from tests.retrieval.corpora import cloud, write_lines

LONG = {"id": "7", "title": "Anna", "text": " ".join(f"w{n}" for n in range(230))}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FROZEN_JAX_CACHE", str(tmp_path / "cache"))


def test_a_hundred_words_a_passage(tmp_path):
    documents = write_lines(tmp_path / "documents.jsonl", LONG, {"id": "8", "text": "two\n words 漢"})
    path = tmp_path / "folder" / "passages.jsonl"
    assert split_documents(str(documents), str(path)) == 4
    found = list(Passages(path))
    assert [passage.id for passage in found] == ["7#0", "7#1", "7#2", "8#0"]
    assert [len(passage.text.split()) for passage in found] == [100, 100, 30, 3]
    assert found[2] == Passage("7#2", "Anna", " ".join(f"w{n}" for n in range(200, 230)))
    assert found[3] == Passage("8#0", "", "two words 漢")
    assert [file.name for file in path.parent.iterdir()] == ["passages.jsonl"]


@hypothesis.given(strategies.text(), strategies.integers(1, 5))
def test_no_word_is_lost_or_doubled(text, words):
    found = split(Passage("d", "", text), words)
    assert " ".join(passage.text for passage in found).split() == text.split()
    assert all(len(passage.text.split()) == words for passage in found[:-1])


def test_what_goes_wrong_leaves_the_old_file(tmp_path):
    documents = write_lines(tmp_path / "documents.jsonl", LONG, {"id": "8", "text": " "})
    path = tmp_path / "passages.jsonl"
    path.write_text("what was there")
    with pytest.raises(UserError, match=r"documents\.jsonl, line 2: passage '8' holds nothing but white space"):
        split_documents(str(documents), str(path))
    assert path.read_text() == "what was there"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["documents.jsonl", "passages.jsonl"]


def test_a_bucket(tmp_path, monkeypatch):
    documents = write_lines(tmp_path / "documents.jsonl", LONG)
    with cloud(monkeypatch) as server:
        assert split_documents(str(documents), "gs://bucket/passages.jsonl", words=115) == 2
        assert server.get("passages.jsonl").count(b"\n") == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"documents": "d.csv"}, r"split_documents\.documents: d\.csv must be a \.jsonl file"),
        ({"passages": "p.tsv"}, r"split_documents\.passages: p\.tsv must be a \.jsonl file"),
        ({"passages": "absent.jsonl"}, r"absent\.jsonl would be replaced by its own passages"),
        ({"words": 0}, r"split_documents\.words is 0; a passage has at least one word"),
        ({}, r"there is no file absent\.jsonl"),
    ],
)
def test_what_cannot_be_split(changes, message):
    with pytest.raises(UserError, match=message):
        split_documents(**{"documents": "absent.jsonl", "passages": "p.jsonl"} | changes)


def test_no_documents(tmp_path):
    documents = write_lines(tmp_path / "documents.jsonl")
    with pytest.raises(UserError, match=r"documents\.jsonl holds no documents"):
        split_documents(str(documents), str(tmp_path / "passages.jsonl"))
    assert not (tmp_path / "passages.jsonl").exists()
