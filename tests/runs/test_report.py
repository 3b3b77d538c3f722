"""The table and the figures of a run, where a metric failed and where none did."""

import math

import pytest

from frozen_jax.errors import UserError
from frozen_jax.evaluation import TaskResult
from frozen_jax.runs import report

FAILED = "metric f1 of task b failed on test: ValueError: no"


def result(task, metrics, failures=()):
    return TaskResult(task, "test", 4, 4, metrics, {}, -1.0, -0.5, None, list(failures))


GOOD = {"a": result("a", {"accuracy": 0.5}), "b": result("b", {"f1": 0.7, "exact": 0.2})}
FIRST_FAILED = GOOD | {"b": result("b", {"f1": math.nan, "exact": 0.2}, [FAILED])}
SECOND_FAILED = GOOD | {"b": result("b", {"exact": 0.2, "f1": math.nan}, [FAILED])}


def test_flat_figures_and_their_mean():
    assert report.flat(GOOD)["mean"] == pytest.approx(0.6)
    assert report.flat(GOOD)["b/f1"] == 0.7


def test_a_failed_metric_is_left_out_and_no_other_takes_its_place_in_the_mean():
    assert "b/f1" not in report.flat(FIRST_FAILED)
    assert math.isnan(report.flat(FIRST_FAILED)["mean"])
    assert report.flat(SECOND_FAILED)["mean"] == pytest.approx(0.35)


def test_the_table_is_printed_without_it():
    table = report.table({"alone": GOOD, "with": FIRST_FAILED})
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert cells[3] == ["b", "f1", "0.700", "failed", "", "4 (test)"]
    assert cells[4] == ["mean", "", "0.600", "nan", "", ""]


def test_failures_are_told_once_in_one_line():
    found = report.failures(FIRST_FAILED, GOOD, SECOND_FAILED)
    assert found == [FAILED]
    later = "metric f1 of task b failed on test: ValueError: no, again"
    with pytest.raises(UserError) as caught:
        report.raise_failures([*found, later, "metric x of task c failed on test: KeyError: 1"])
    assert str(caught.value) == f"everything else is done, but {FAILED}; metric x of task c failed on test: KeyError: 1"
    report.raise_failures([])
