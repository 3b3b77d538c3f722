"""Passages out of files: each is what stands there, found by number and by id; what is wrong is said with its line."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os

import numpy as np
import pytest

from frozen_jax.errors import UserError
from frozen_jax.retrieval import passages as module
from frozen_jax.retrieval.base import NONE, Passage
from frozen_jax.retrieval.passages import Passages
from tests.retrieval.corpora import cloud, write_lines

ANNA = {"id": "a#0", "title": "Anna Dupont", "text": 'Anna Dupont – 漢字 \u2028 is a "French" painter.\nTwo lines.'}
OTTO = {"id": "b#0", "text": "Otto Weber has no title."}
EVA = {"id": 7, "title": "Eva", "text": "  Her id is a number. "}
TABLE = (
    "id\ttext\ttitle\n"
    '1\t"Anna ""Nan"" Dupont, a painter"\tAnna Dupont\r\n'
    '2\tOtto says "hello" in the middle\t"""A"" for Otto"\n'
    "3\tthe last line has no end\t"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FROZEN_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "passages"


@pytest.fixture
def three(tmp_path):
    return write_lines(tmp_path / "three.jsonl", ANNA, OTTO, EVA)


def no_scan(*_):
    raise AssertionError("the file was scanned again")


def test_json_lines(three):
    found = Passages(three)
    wanted = [Passage(**ANNA), Passage("b#0", "", OTTO["text"]), Passage("7", "Eva", EVA["text"])]
    assert len(found) == 3
    assert [found[2], found[0], found[np.int64(1)]] == [wanted[2], wanted[0], wanted[1]]
    assert list(found) == wanted
    assert found.sha256 == hashlib.sha256(three.read_bytes()).hexdigest()


def test_the_table_of_dpr(tmp_path):
    path = tmp_path / "psgs.tsv"
    path.write_bytes(TABLE.encode())
    found = Passages(path)
    wanted = [
        Passage("1", "Anna Dupont", 'Anna "Nan" Dupont, a painter'),
        Passage("2", '"A" for Otto', 'Otto says "hello" in the middle'),
        Passage("3", "", "the last line has no end"),
    ]
    assert list(found) == [found[number] for number in range(3)] == wanted


def test_a_passage_is_found_by_its_id(tmp_path):
    found = Passages(write_lines(tmp_path / "many.jsonl", *({"id": f"p{n}", "text": "t"} for n in range(500))))
    assert [found.number(f"p{n}") for n in (0, 3, 499)] == [0, 3, 499]
    with pytest.raises(UserError, match=r"many\.jsonl holds no passage 'p500'"):
        found.number("p500")


def test_ids_whose_hashes_are_equal_by_chance_are_told_apart(three, monkeypatch):
    monkeypatch.setattr(module, "_hash", lambda _: 5)
    found = Passages(three)
    assert [found.number(name) for name in ("a#0", "b#0", "7")] == [0, 1, 2]
    with pytest.raises(UserError, match="holds no passage 'c#0'"):
        found.number("c#0")


@pytest.mark.parametrize("number", [NONE, 3])
def test_there_are_no_other_numbers(three, number):
    with pytest.raises(IndexError, match="holds passages 0 to 2; there is no"):
        Passages(three)[number]


def test_the_second_opening_reads_no_passage(three, monkeypatch):
    first = Passages(three)
    monkeypatch.setattr(module, "_scan", no_scan)
    second = Passages(os.path.relpath(three))
    assert (list(second), second.sha256, second.number("7")) == (list(first), first.sha256, 2)
    assert isinstance(second._table.offsets, np.memmap)


@pytest.mark.parametrize("part", ["made.json", "offsets.npy", "order.npy"])
def test_a_damaged_cache_is_made_anew(three, cache, part):
    Passages(three)
    (file,) = cache.glob(f"*/{part}")
    file.write_bytes(file.read_bytes()[:-9])
    assert Passages(three).number("7") == 2
    assert len(file.read_bytes()) > 9


def test_a_changed_file_is_scanned_again(three):
    Passages(three)
    stat = three.stat()
    three.write_text(three.read_text().replace("Otto", "Hugo"))
    os.utime(three, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    found = Passages(three)
    assert found[1].text.startswith("Hugo")
    assert found.sha256 == hashlib.sha256(three.read_bytes()).hexdigest()


def test_threads_read_at_once(tmp_path):
    found = Passages(write_lines(tmp_path / "many.jsonl", *({"id": str(n), "text": "t" * (n + 1)} for n in range(300))))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda number: found[number].text, [*range(300)] * 4))
    assert texts == ["t" * (n + 1) for n in range(300)] * 4


def test_a_bucket(three, monkeypatch):
    with cloud(monkeypatch) as server:
        server.put("three.jsonl", three.read_bytes())
        found = Passages("gs://bucket/three.jsonl")
        assert [found[number] for number in range(3)] == list(found) == list(Passages(three))


GOOD = json.dumps(OTTO).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"bad\.jsonl holds no passages"),
        (GOOD + b'\n{"id": "c", "text": "\xff"}\n', r"bad\.jsonl, line 2: not in UTF-8 \(invalid start byte\)"),
        (rb'{"id": "c", "text": "\ud800"}', r"line 1: not in UTF-8 \(.*surrogates not allowed"),
        (GOOD + b"\n{broken", r"line 2: no JSON: Expecting property name"),
        (b"[" * 100_000, r"line 1: "),
        (GOOD + b"\n\n" + GOOD, r"line 2: the line is empty; each must hold a passage"),
        (b'["a", "b"]', r"line 1: no JSON object such as"),
        (b'{"id": "a", "title": ""}', r"line 1: there is no field 'text'; there are: id, title"),
        (b'{"title": "a", "text": ""}', r"line 1: there is no field 'id'"),
        (b'{"id": true, "text": "a"}', r"line 1: field 'id' is no text but true"),
        (b'{"id": "a", "title": null, "text": "a"}', r"line 1: field 'title' is no text but null"),
        (b'{"id": "", "text": "a"}', r"line 1: the id is empty"),
        (GOOD + b'\n{"id": "c", "text": " \\n\\t"}', r"line 2: passage 'c' holds nothing but white space"),
        (b'\n{"id": "c", "text": "1"}\n'.join([GOOD] * 2), r"bad\.jsonl, lines 1 and 3: both have the id 'b#0'"),
    ],
)
def test_what_is_wrong_with_json_lines(tmp_path, cache, content, message):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        Passages(path)
    assert "\n" not in str(caught.value).split("\n  In call to configurable")[0]
    assert not list(cache.rglob("made.json"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("id\ttext\ttitle\n", r"bad\.tsv holds no passages"),
        ("1\ta\tb\n", r"bad\.tsv, line 1: the columns are \['1', 'a', 'b'\]; they must be \['id', 'text', 'title'\]"),
        ("id\ttext\ttitle\n1\ta\tb\n2\ta\n", r"line 3: 2 columns; there must be 3: id, text, title"),
        ('id\ttext\ttitle\n1\t"a\tb\n', r"line 2: .*; a quote must be closed in its line"),
        ('id\ttext\ttitle\n1\t"a" b\tc\n', r"line 2: .* expected after '\"'; a quote must be closed"),
        ("id\ttext\ttitle\n\n", r"line 2: 0 columns"),
        ("id\ttext\ttitle\n1\t \tb\n", r"line 2: passage '1' holds nothing but white space"),
        ("id\ttext\ttitle\n1\ta\tb\n1\tc\td\n", r"lines 2 and 3: both have the id '1'"),
    ],
)
def test_what_is_wrong_with_tables(tmp_path, rows, message):
    path = tmp_path / "bad.tsv"
    path.write_text(rows)
    with pytest.raises(UserError, match=message):
        Passages(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("psgs_w100.tsv.gz", r"psgs_w100\.tsv\.gz is compressed, .*: gunzip it"),
        ("passages.csv", r"passages\.csv is of an unknown kind; passages stand in \.jsonl or \.tsv files"),
        ("absent.jsonl", r"there is no file .*absent\.jsonl"),
    ],
)
def test_what_is_no_file_of_passages(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        Passages(tmp_path / name)


def test_a_cache_that_cannot_be_written(three, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot be written .*; set FROZEN_JAX_CACHE to a folder that can"):
        Passages(three)
