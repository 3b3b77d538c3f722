"""The table that a run ends with, by hand, with tasks that have metrics and tasks that have none."""

import pytest

from frozen_jax.evaluation import TaskResult, evaluate
from frozen_jax.runs import report
from tests.fake_model import FakeModel, example, task


def result(name, metrics, nats=-2.0, majority=None):
    bounds = {metric: (value - 0.1, value + 0.1) for metric, value in metrics.items()}
    return TaskResult(name, "test", 10, 20, metrics, bounds, nats * 4, nats, majority)


CHOSEN = result("chosen", {"accuracy": 0.5, "mean_class_recall": 0.1}, majority=0.6)
OTHER = result("other", {"f1": 0.9}, nats=-1.0)
PLAIN = result("plain", {}, nats=-3.5)


def rows(*results):
    table = report.table({"alone": {r.task: r for r in results}})
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_a_task_without_metrics_shows_its_log_likelihood_and_is_not_averaged():
    assert rows(CHOSEN, PLAIN, OTHER) == [
        ["chosen", "accuracy", "0.500 [0.400, 0.600]", "0.600", "10 of 20 (test)"],
        ["plain", "nats_per_token", "-3.500", "", "10 of 20 (test)"],
        ["other", "f1", "0.900 [0.800, 1.000]", "", "10 of 20 (test)"],
        ["mean", "", "0.700", "", ""],
    ]


def test_a_mean_of_one_is_not_shown():
    assert [row[0] for row in rows(CHOSEN, PLAIN)] == ["chosen", "plain"]
    assert [row[0] for row in rows(PLAIN)] == ["plain"]


def test_without_any_metric_the_mean_is_of_nats():
    second = result("second", {}, nats=-1.5)
    assert rows(PLAIN, second)[-1] == ["mean", "", "-2.500", "", ""]


@pytest.mark.parametrize(("results", "mean"), [((CHOSEN, OTHER, PLAIN), 0.7), ((CHOSEN, PLAIN), 0.5), ((PLAIN,), -3.5)])
def test_figures_for_choosing_a_checkpoint(results, mean):
    found = report.flat({r.task: r for r in results})
    assert found["mean"] == pytest.approx(mean)
    assert {name for name in found if name.startswith("plain")} <= {"plain/nats_per_token"}
    assert {f"{r.task}/nats_per_token": r.nats_per_token for r in results}.items() <= found.items()


def test_the_mean_of_templates_is_over_data_sets():
    """Three data sets whose names have a dot: merged once more they would be one, and the mean its median."""
    accuracies = {"p3.a.x": 0.1, "p3.a.y": 0.2, "p3.b.x": 0.9, "p3.c.x": 0.3, "p3.c.y": 0.4, "p3.c.z": 0.8}
    found = {name: result(name, {"accuracy": value}, nats=-10 * value) for name, value in accuracies.items()}
    table = report.table({"alone": found}).splitlines()
    assert [cell.strip() for cell in table[5].split("|")[1:-1]] == ["mean", "", "", "0.483", "-5.167", "", ""]
    assert report.flat(found)["mean"] == pytest.approx((0.15 + 0.9 + 0.4) / 3)


def test_a_deviation_needs_two_seeds():
    assert report.deviation([1.0]) == ""
    assert report.deviation([1.0, 2.0]) == " ± 0.707"
    assert report.deviation([1.0, 2.0], 4) == " ± 0.7071"


def test_an_evaluated_task_without_metrics():
    plain = task([example(i, f"{5 + i} 7 8", "5 7") for i in range(4)], predict_metrics=[])
    model = FakeModel()
    results = evaluate(model, [plain], batch_size=2)
    assert model.written == []  # nothing asks for what it would write
    assert results["fake"].metrics == {}
    assert report.flat(results)["mean"] == results["fake"].nats_per_token
