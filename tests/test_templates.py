"""Templates become data sets: medians and quartiles by hand, and what a training chooses its checkpoint by."""

import math

import pytest

from frozen_jax import templates
from frozen_jax.evaluation import TaskResult
from frozen_jax.runs import report


def result(task, metrics, nats=-1.0, majority=None, failures=()):
    bounds = dict.fromkeys(metrics, (0.0, 1.0))
    return TaskResult(task, "test", 50, 900, metrics, bounds, nats * 3, nats, majority, list(failures))


def of(*results):
    return {r.task: r for r in results}


FOUR = [result(f"p3.rte.t{i}", {"accuracy": i / 8}, nats=-float(i), majority=0.5 + i / 10) for i in (1, 4, 2, 3)]
ONE = result("p3.cb.t", {"accuracy": 1.0}, nats=-0.5)
WRITTEN = result("p3.squad.w", {}, nats=-4.0)


@pytest.mark.parametrize(
    ("task", "data_set"),
    [("p3.glue_sst2.review", "p3.glue_sst2"), ("a.b.c.d", "a.b.c"), ("a.b", "a"), ("imdb", "imdb")],
)
def test_the_data_set_of_a_task(task, data_set):
    assert templates.data_set_of(task) == data_set
    assert templates.are_among(["imdb", task]) == (task != data_set)


def test_a_task_may_say_its_data_set_whatever_its_name(monkeypatch):
    monkeypatch.setattr(templates, "_REGISTERED", {})
    templates.register("cos_e_v1.11", ["cos_e_v1.11_rationale", "cos_e_v1.11_explain"])
    tasks = ["cos_e_v1.11_rationale", "cos_e_v1.12_rationale", "cos_e_v1.11_explain"]
    assert templates.by_data_set(tasks) == {"cos_e_v1.11": [tasks[0], tasks[2]], "cos_e_v1": [tasks[1]]}
    assert templates.are_among(tasks[:1])


def test_median_and_quartiles_over_templates_and_mean_likelihoods():
    found = templates.merged(of(FOUR[0], ONE, *FOUR[1:]))
    assert list(found) == ["p3.rte", "p3.cb"]
    rte = found["p3.rte"]
    assert rte.metrics == {"accuracy": 2.5 / 8}
    assert rte.intervals == {
        "accuracy": (1.75 / 8, 3.25 / 8)
    }  # linear: between the first and the second, nearer to that
    assert (rte.nats_per_token, rte.nats_per_example) == (-2.5, -7.5)
    assert (rte.examples, rte.split_size, rte.majority_rate) == (200, 3600, 0.75)
    assert found["p3.cb"].intervals == {"accuracy": (1.0, 1.0)}  # not its interval over examples


def test_a_task_without_a_dot_stays_as_it_is():
    imdb = result("imdb", {"accuracy": 0.7})
    assert templates.merged(of(imdb))["imdb"] is imdb


def test_a_template_without_the_metric_stays_out_of_it():
    found = templates.merged(of(result("a.b.c", {}, nats=-3.0), result("a.b.d", {"f1": 0.5}), result("a.e.f", {})))
    assert found["a.b"].metrics == {"f1": 0.5}
    assert found["a.b"].nats_per_token == -2.0
    assert templates.first_metric(found["a.e"]) == ("nats_per_token", -1.0)


def test_figures_for_choosing_a_checkpoint_are_averages_over_data_sets():
    found = report.flat(of(*FOUR, ONE, WRITTEN))
    assert found == {
        "p3.rte/accuracy": 2.5 / 8,
        "p3.cb/accuracy": 1.0,
        "p3.rte/nats_per_token": -2.5,
        "p3.cb/nats_per_token": -0.5,
        "p3.squad/nats_per_token": -4.0,
        "mean": pytest.approx((2.5 / 8 + 1.0) / 2),
        "mean_nats_per_token": pytest.approx(-7 / 3),
    }


def test_a_metric_that_failed_on_a_template_leaves_no_mean_to_choose_by():
    failed = result("p3.rte.t1", {"accuracy": math.nan}, failures=["metric accuracy of task p3.rte.t1 failed"])
    found = report.flat(of(failed, *FOUR[1:], ONE))
    assert math.isnan(found["mean"])
    assert "p3.rte/accuracy" not in found
    assert found["p3.rte/nats_per_token"] == -2.5
    assert "failed" in report.table({"alone": of(failed, *FOUR[1:])})


def test_the_table_has_a_line_a_data_set():
    better = of(*FOUR[:3], result("p3.rte.t3", {"accuracy": 1.0}, nats=-1.0), ONE)
    table, note = report.table({"alone": of(*FOUR, ONE), "with": better}).split("\n\n")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert cells[0] == [
        *("data set", "templates", "metric", "alone", "alone, nats per token", "with", "with, nats per token"),
        *("majority", "examples"),
    ]
    assert cells[2:] == [
        [
            *("p3.rte", "4", "accuracy", "0.312 [0.219, 0.406]", "-2.500", "0.375 [0.219, 0.625]", "-2.000"),
            *("0.750", "200 of 3600 (test)"),
        ],
        [
            *("p3.cb", "1", "accuracy", "1.000 [1.000, 1.000]", "-0.500", "1.000 [1.000, 1.000]", "-0.500"),
            *("", "50 of 900 (test)"),
        ],
        ["mean", "", "", "0.656", "-1.500", "0.688", "-1.250", "", ""],
    ]
    assert "quartiles" in note
