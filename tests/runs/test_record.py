"""The ledger's memory: what it keeps of a kill, how often it writes, and that it gives back what it was given."""

import dataclasses
import time
import types

import pytest
from etils import epath

from frozen_jax import cloud_storage
from frozen_jax.evaluation import PerExample, TaskResult
from frozen_jax.runs import record
from frozen_jax.runs.matrix import FROZEN, Figure
from frozen_jax.runs.record import Column, Record
from tests import tiny
from tests.runs import modules_of_tiny

COLUMNS = [Column(dataclasses.replace(modules_of_tiny.text(2), name=f"task{i}"), {"inputs": 8}) for i in range(6)]


def figure(task):
    per_example = PerExample([0, 7], [-1.5, -0.1], [2, 3], {"accuracy": [1.0, 0.0]})
    bounds = {"accuracy": (0.25, 0.75)}
    result = TaskResult(
        task, "test", 2, 9, {"accuracy": 0.5}, bounds, -0.8, -0.32, None, [], (-1.0, 0.0), per_example=per_example
    )
    return Figure(FROZEN, {"inputs": 8}, 8.0, result)


@pytest.fixture
def path(tmp_path):
    return epath.Path(tmp_path) / "ledger.json"


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for measuring, eight seconds a figure."""
    clock = types.SimpleNamespace(now=100.0, monotonic=lambda: clock.now, perf_counter=time.perf_counter)

    def measure(subject, model, column, predictions=None):
        clock.now += 8
        return figure(column.task.name)

    monkeypatch.setattr(record, "time", clock)
    monkeypatch.setattr(record, "measure", measure)
    return clock


def test_what_was_written_comes_back(path, clock):
    lm = tiny.t5()
    written = Record(path, lm).figures(FROZEN, lm, COLUMNS)
    again = Record(path, lm)
    assert not again.lacks(FROZEN, COLUMNS)
    assert again.figures(FROZEN, None, COLUMNS) == written == [figure(f"task{i}") for i in range(6)]
    assert len(path.read_text().splitlines()) == 6 + 2  # a figure a line


def test_writing_takes_a_twentieth_of_the_time(path, clock, monkeypatch):
    write, figures = cloud_storage.write_whole, []

    def slowly(file, content):
        clock.now += 1
        figures.append(content.count(b'"subject"'))
        write(file, content)

    monkeypatch.setattr(cloud_storage, "write_whole", slowly)
    Record(path, tiny.t5()).figures(FROZEN, tiny.t5(), COLUMNS)
    assert figures == [1, 4, 6]  # at once, when 20 seconds have passed, and at the end


def test_what_a_failure_ends_is_written(path, clock, monkeypatch):
    lm, measure = tiny.t5(), record.measure

    def failing(subject, model, column, predictions=None):
        if column.task.name == "task3":
            raise FloatingPointError
        return measure(subject, model, column)

    monkeypatch.setattr(record, "measure", failing)
    with pytest.raises(FloatingPointError):
        Record(path, lm).figures(FROZEN, lm, COLUMNS)
    again = Record(path, lm)
    assert [again.lacks(FROZEN, [column]) for column in COLUMNS] == [False] * 3 + [True] * 3
