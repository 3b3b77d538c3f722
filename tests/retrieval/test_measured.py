"""What each stage brought: among the first k, and in what was packed."""

from __future__ import annotations

import json
import pathlib

import numpy as np

from frozen_jax.retrieval import measured
from frozen_jax.retrieval.base import NONE, Hits
from frozen_jax.retrieval.recall import Question
from tests.retrieval.fake_corpus import ListCorpus

QUESTIONS = [Question("a", ["w40 w41"], ["p0", "p1"]), Question("b", ["w99"], ["p5"])]


def hits(rows: list[list[int]]) -> Hits:
    return Hits(np.array(rows), np.zeros((len(rows), len(rows[0])), np.float32))


def test_figures_of_every_stage(tmp_path: pathlib.Path) -> None:
    stages = {"retrieved": hits([[3, 0, 1, 4, 5, 6], [2, 5, 1, 4, 6, 7]])}
    packed = {"retrieved": {8: hits([[3, NONE], [5, NONE]]), 16: hits([[0, 1], [2, 5]])}}
    found = measured.measure(QUESTIONS, stages, packed, ListCorpus())
    assert found["questions"] == 2
    assert found["retrieved"]["at"] == {
        "1": {"answer": 0.0, "any_gold": 0.0, "all_gold": 0.0},
        "5": {"answer": 0.5, "any_gold": 1.0, "all_gold": 1.0},
    }
    assert found["retrieved"]["packed"] == {
        "8": {"answer": 0.0, "any_gold": 0.5, "all_gold": 0.5},
        "16": {"answer": 0.5, "any_gold": 1.0, "all_gold": 1.0},
    }
    lines = measured.lines(found).splitlines()
    assert lines[0] == "evidence for 2 questions"
    assert "retrieved: all gold passages among the first 1 / 5: 0.0 / 100.0%" in lines
    assert "retrieved: a gold passage in inputs of 8 / 16: 50.0 / 100.0%" in lines
    measured.write(tmp_path, "test-retrieved", {"template": "x"}, found)
    measured.write(tmp_path, "test-retrieved", {"template": "y"}, found)
    written = [json.loads(file.read_text()) for file in tmp_path.glob("recall-test-retrieved-*.json")]
    assert sorted(one["made"]["template"] for one in written) == ["x", "y"]
