"""The ledger's tables by data set, from figures whose medians, means and deviations can be worked out by hand."""

import csv
import io
import re

import pytest

from frozen_jax import templates
from frozen_jax.errors import UserError
from frozen_jax.evaluation import PerExample, TaskResult
from frozen_jax.runs.data_sets import DataSets, Layout
from frozen_jax.runs.matrix import ALONE, FROZEN, Figure, Matrix, Subject


def figure(subject, task, nats, accuracy=None):
    """Of four examples with targets of two tokens, all alike; `nats` is of a token."""
    hits = {} if accuracy is None else {"accuracy": [1.0] * round(4 * accuracy) + [0.0] * round(4 - 4 * accuracy)}
    result = TaskResult(
        task=task,
        split="test",
        examples=4,
        split_size=90,
        metrics={} if accuracy is None else {"accuracy": accuracy},
        intervals={} if accuracy is None else {"accuracy": (accuracy - 0.125, accuracy + 0.125)},
        nats_per_example=2 * nats,
        nats_per_token=nats,
        majority_rate=0.5 if accuracy is not None else None,
        nats_interval=(nats - 1, nats + 1),
        per_example=PerExample([0, 1, 2, 3], [2 * nats] * 4, [2] * 4, hits),
    )
    return Figure(subject, {"inputs": 8}, 1.0, result)


def module(row, seed):
    return Subject(row, f"{row}{seed}", f"runs/{row}_{seed}", "PromptTuning", seed, "p3_train", 1234)


def line(subject, rte, cb, lm):
    """Three templates of RTE, two of CB, one without a metric."""
    templates = [figure(subject, f"p3.rte.{name}", *pair) for name, pair in zip("abc", rte, strict=True)]
    templates += [figure(subject, f"p3.cb.{name}", *pair) for name, pair in zip("de", cb, strict=True)]
    return [*templates, figure(subject, "p3.wiki.f", lm)]


FIGURES = [
    *line(FROZEN, [(-4.0, 0.25), (-5.0, 0.5), (-6.0, 0.75)], [(-2.0, 0.25), (-4.0, 0.75)], -8.0),
    *line(module("ID-PT", 0), [(-1.0, 0.5), (-2.0, 1.0), (-3.0, 0.75)], [(-1.0, 0.5), (-1.0, 0.5)], -6.0),
    *line(module("ID-PT", 1), [(-1.5, 1.0), (-2.5, 1.0), (-3.5, 1.0)], [(-2.0, 1.0), (-2.0, 1.0)], -7.0),
    *line(module("static", 0), [(-4.0, 0.25), (-4.0, 0.25), (-4.0, 0.25)], [(-3.0, 0.0), (-3.0, 0.5)], -8.0),
]


def tables(text):
    """Each table as lists of cells, by the line above it."""
    found, before = {}, ""
    for part in re.split(r"\n\n", text):
        if part.startswith("|"):
            rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in part.splitlines()]
            found.setdefault(before, []).append([rows[0], *rows[2:]])
        else:
            before = part
    return found


def test_log_likelihoods_are_means_over_templates_then_over_data_sets():
    found = tables(DataSets(FIGURES, Layout()).markdown())
    assert found["Log-likelihood of the targets, nats per token; more is better."] == [
        [
            ["data set", "templates", "examples", ALONE, "ID-PT", "static"],
            ["p3.rte", "3", "12 (test)", "-5.000", "-2.250 ± 0.354", "-4.000"],
            ["p3.cb", "2", "8 (test)", "-3.000", "-1.500 ± 0.707", "-3.000"],
            ["p3.wiki", "1", "4 (test)", "-8.000", "-6.500 ± 0.707", "-8.000"],
            ["average over 3", "", "", "-5.333", "-3.417 ± 0.589", "-5.000"],
        ]
    ]
    (per_target,) = found["Log-likelihood of the targets, nats per target; more is better."]
    assert per_target[-1][3:] == ["-10.667", "-6.833 ± 1.179", "-10.000"]


def test_metrics_are_medians_and_quartiles_over_templates():
    (table,) = tables(DataSets(FIGURES, Layout()).markdown())["Accuracy."]
    assert table == [
        ["data set", "templates", "examples", "metric", "majority", ALONE, "ID-PT", "static"],
        [
            *("p3.rte", "3", "12 (test)", "accuracy", "0.500"),
            *("0.500 [0.375, 0.625]", "0.875 [0.812, 0.938] ± 0.177", "0.250 [0.250, 0.250]"),
        ],
        [
            *("p3.cb", "2", "8 (test)", "accuracy", "0.500"),
            *("0.500 [0.375, 0.625]", "0.750 [0.750, 0.750] ± 0.354", "0.250 [0.125, 0.375]"),
        ],
        ["average over 2", "", "", "accuracy", "", "0.500", "0.812 ± 0.265", "0.250"],
    ]


def test_what_is_not_averaged_is_listed():
    layout = Layout(averaged=["p3.cb"], compare=[("ID-PT", "static")])
    found = tables(DataSets(FIGURES, layout).markdown())
    (table,) = found["Accuracy."]
    assert [row[0] for row in table[1:]] == ["p3.cb", "average over 1", "p3.rte (not averaged)"]
    assert table[2][5:] == ["0.500", "0.750 ± 0.354", "0.250"]
    (likelihoods,) = found["Log-likelihood of the targets, nats per token; more is better."]
    names = ["p3.cb", "average over 1", "p3.rte (not averaged)", "p3.wiki (not averaged)", "average over all 3"]
    assert [row[0] for row in likelihoods[1:]] == names
    assert [row[4] for row in likelihoods if row[0].startswith("average")] == ["-1.500 ± 0.707", "-3.417 ± 0.589"]
    ((*_, average),) = found["ID-PT, minus static: paired differences, with 95% intervals over the examples."]
    assert [cell.rpartition(" over ")[2] for cell in average[1:]] == ["1", "1", "1"]
    assert average[3].startswith("+0.500 [")


def test_held_out_data_sets_have_tables_of_their_own():
    text = DataSets(FIGURES, Layout(held_out=["p3.cb"])).markdown()
    assert text.index("## Trained on") < text.index("| p3.rte") < text.index("## Held out") < text.index("| p3.cb")
    trained, held_out = tables(text)["Log-likelihood of the targets, nats per token; more is better."]
    assert [row[0] for row in trained[1:]] == ["p3.rte", "p3.wiki", "average over 2"]
    assert held_out[-1][3:] == ["-3.000", "-1.500 ± 0.707", "-3.000"]
    assert "## All" not in text
    assert "## Trained on" not in DataSets(FIGURES, Layout(held_out=["p3.cb", "p3.rte", "p3.wiki"])).markdown()


def test_two_rows_are_compared():
    layout = Layout(compare=[("ID-PT", "static"), ("static", ALONE)])
    found = tables(DataSets(FIGURES, layout).markdown())
    (table,) = found["ID-PT, minus static: paired differences, with 95% intervals over the examples."]
    assert table[0] == ["data set", "nats per token", "nats per target", "accuracy"]
    # Likelihoods are the same for all examples here, so nothing is unsure about them.
    assert [row[1] for row in table[1:]] == [
        "+1.750 [+1.750, +1.750]",
        "+1.500 [+1.500, +1.500]",
        "+1.500 [+1.500, +1.500]",
        "+1.583 [+1.583, +1.583] over 3",
    ]
    assert [row[3].partition(" ")[0] for row in table[1:]] == ["+0.625", "+0.500", "", "+0.562"]
    (other,) = found[f"static, minus {ALONE}: paired differences, with 95% intervals over the examples."]
    assert other[1][1] == "+1.000 [+1.000, +1.000]"


def test_every_template_is_in_the_csv_file():
    rows = list(csv.DictReader(io.StringIO(DataSets(FIGURES, Layout()).csv())))
    assert len(rows) == len(FIGURES)
    assert rows[7] == {
        "row": "ID-PT",
        "module": "runs/ID-PT_0",
        "seed": "0",
        "data set": "p3.rte",
        "template": "b",
        "split": "test",
        "examples": "4",
        "metric": "accuracy",
        "value": "1.0",
        "low": "0.875",
        "high": "1.125",
        "nats per token": "-2.0",
        "nats per target": "-4.0",
        "majority": "0.5",
    }
    assert (rows[5]["metric"], rows[5]["value"], rows[5]["low"]) == ("nats_per_token", "-8.0", "-9.0")


def test_names_of_templates_need_no_dot(monkeypatch):
    monkeypatch.setattr(templates, "_REGISTERED", {})
    templates.register("cos_e_v1.11", ["cos_e_v1.11_rationale"])
    figures = [figure(FROZEN, name, -1.0) for name in ("cos_e_v1.11_rationale", "p3.rte.a", "imdb")]
    rows = csv.DictReader(io.StringIO(DataSets(figures, Layout()).csv()))
    names = [(row["data set"], row["template"]) for row in rows]
    assert names == [("cos_e_v1.11", "rationale"), ("p3.rte", "a"), ("imdb", "imdb")]


def test_the_picture_has_a_column_a_data_set():
    matrix = Matrix(DataSets(FIGURES, Layout()).losses())
    assert matrix.tasks == ["p3.rte", "p3.cb", "p3.wiki"]
    assert [matrix.cell("ID-PT", task).mean for task in matrix.tasks] == [2.25, 1.5, 6.5]
    assert all(matrix.is_loss(task) for task in matrix.tasks)
    assert not any(matrix.result(task).majority_rate for task in matrix.tasks), "an accuracy, beside losses"


def test_a_task_without_templates_among_others():
    plain = [figure(FROZEN, "imdb", -1.0, 0.5), figure(module("ID-PT", 0), "imdb", -0.5, 0.75)]
    (table,) = tables(DataSets(plain, Layout(compare=[("ID-PT", ALONE)])).markdown())["Accuracy."]
    assert table[1] == ["imdb", "1", "4 (test)", "accuracy", "0.500", "0.500 [0.375, 0.625]", "0.750 [0.625, 0.875]"]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (
            Layout(held_out=["p3.rt"]),
            "evaluate_module.held_out: 'p3.rt' is no data set of this ledger; it has p3.rte, p3.cb",
        ),
        (
            Layout(averaged=["rte"]),
            "evaluate_module.averaged: 'rte' is no data set of this ledger; it has p3.rte, p3.cb",
        ),
        (
            Layout(compare=[("ID-PT", "prompt")]),
            "evaluate_module.compare: there is no row 'prompt'; there are frozen LM alone, ID-PT",
        ),
        (Layout(compare=["ID-PT"]), "evaluate_module.compare: 'ID-PT' is no pair; write [('one row', 'another'), ...]"),
        (Layout(compare=[("ID-PT",)]), "evaluate_module.compare: ('ID-PT',) is no pair"),
    ],
)
def test_names_that_the_ledger_does_not_have(layout, message):
    check, names = layout.check_data_sets, ["p3.rte.a", "p3.rte.b", "p3.cb.d"]
    if layout.compare:
        check, names = layout.check_rows, [ALONE, "ID-PT", "ID-PT"]
    with pytest.raises(UserError, match=re.escape(message)):
        check(names)
