"""Stages are made once, whatever is killed between, and never taken for others."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from frozen_jax.errors import UserError
from frozen_jax.retrieval.base import NONE
from frozen_jax.retrieval.evidence import Evidence, GoldEvidence, passages_of
from tests.retrieval.fake_corpus import ListCorpus, NearNumbers, Reversed

QUESTIONS = [{"inputs": f"w{n} ?"} for n in range(11)]


def test_the_last_stage_is_what_a_reader_is_shown(tmp_path: pathlib.Path) -> None:
    found = Evidence(NearNumbers(), str(tmp_path), Reversed(), hits=3).find(QUESTIONS[4:6])
    assert list(found) == ["retrieved", "reranked"]
    assert found["retrieved"].passages.tolist() == [[4, 3, 5], [5, 4, 6]]
    assert found["reranked"].passages.tolist() == [[5, 3, 4], [6, 4, 5]]


def test_what_is_there_is_not_made_again(tmp_path: pathlib.Path) -> None:
    retriever, reranker = NearNumbers(), Reversed()
    first = Evidence(retriever, str(tmp_path), reranker, hits=3).find(QUESTIONS)
    again = Evidence(retriever, str(tmp_path), reranker, hits=3).find(QUESTIONS)
    assert len(retriever.asked) == len(reranker.asked) == len(QUESTIONS)
    for one, other in zip(first.values(), again.values(), strict=True):
        np.testing.assert_array_equal(one.passages, other.passages)
    Evidence(retriever, str(tmp_path), None, hits=3).find(QUESTIONS)  # its first stage is the same
    assert len(retriever.asked) == len(QUESTIONS)
    Evidence(retriever, str(tmp_path), None, hits=2).find(QUESTIONS)
    assert len(retriever.asked) == 2 * len(QUESTIONS)


def test_a_killed_re_ranking_goes_on_where_it_was(tmp_path: pathlib.Path) -> None:
    killed = Reversed(killed_at=9)
    with pytest.raises(KeyboardInterrupt):
        Evidence(NearNumbers(), str(tmp_path), killed, hits=3).find(QUESTIONS)
    reranker = Reversed()
    found = Evidence(NearNumbers(), str(tmp_path), reranker, hits=3).find(QUESTIONS)
    assert reranker.asked == [question["inputs"] for question in QUESTIONS[8:]]
    whole = Evidence(NearNumbers(), str(tmp_path / "other"), Reversed(), hits=3).find(QUESTIONS)
    np.testing.assert_array_equal(found["reranked"].passages, whole["reranked"].passages)


def test_a_single_question_leaves_nothing_on_disk(tmp_path: pathlib.Path) -> None:
    Evidence(NearNumbers(), str(tmp_path), Reversed(), hits=3).find(QUESTIONS[:1], "infer")
    assert not list(tmp_path.iterdir())


def test_fewer_hits_may_do_for_training(tmp_path: pathlib.Path) -> None:
    evidence = Evidence(NearNumbers(), str(tmp_path), Reversed(), hits=3, train_hits=2)
    assert evidence.find(QUESTIONS[4:6], "train")["reranked"].passages.tolist() == [[3, 4], [4, 5]]
    assert evidence.find(QUESTIONS[4:6], "test")["reranked"].passages.tolist() == [[5, 3, 4], [6, 4, 5]]
    assert evidence.made["train_hits"] == 2
    as_many = Evidence(NearNumbers(), str(tmp_path), Reversed(), hits=2)
    assert as_many.find(QUESTIONS[4:6], "train")["reranked"].passages.shape == (2, 2)


def test_gold_passages_are_found_by_their_ids(tmp_path: pathlib.Path) -> None:
    corpus = ListCorpus()
    examples = [{"inputs": "a", "gold": ["p7", "p2"]}, {"inputs": "b", "gold": ["p3"]}]
    hits = GoldEvidence(corpus, str(tmp_path)).find(examples)["gold"]
    assert hits.passages.tolist() == [[7, 2], [3, NONE]]
    assert [passage.id for passage in passages_of(hits, 1, corpus)] == ["p3"]
    with pytest.raises(UserError, match="the question 'c' names no gold passages"):
        GoldEvidence(corpus, str(tmp_path)).find([*examples, {"inputs": "c"}])


def test_nothing_to_retrieve_is_a_mistake(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"Evidence\.hits is 0; retrieve at least one"):
        Evidence(NearNumbers(), str(tmp_path), hits=0)
    with pytest.raises(UserError, match=r"Evidence\.train_hits is 0; retrieve at least one"):
        Evidence(NearNumbers(), str(tmp_path), train_hits=0)


def test_as_many_other_questions_are_not_the_same(tmp_path: pathlib.Path) -> None:
    first = Evidence(NearNumbers(), str(tmp_path), Reversed(), hits=3).find(QUESTIONS[:4])
    others = Evidence(NearNumbers(), str(tmp_path), Reversed(), hits=3).find(QUESTIONS[5:9])
    for one, other in zip(first.values(), others.values(), strict=True):
        assert not (one.passages == other.passages).all()
