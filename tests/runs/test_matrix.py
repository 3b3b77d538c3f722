"""Means, ranges and differences of a ledger worked out by hand, and its tables and picture."""

import io
import math
import struct

import matplotlib.image
import numpy as np
import pytest

from frozen_jax.evaluation import TaskResult
from frozen_jax.runs import picture
from frozen_jax.runs.matrix import FROZEN, Figure, Matrix, Subject

ALONE = "frozen LM alone"


def figure(subject, task, value, metric="accuracy", majority=None):
    """Of a task with a metric; without one, the value is its loss."""
    result = TaskResult(
        task=task,
        split="test",
        examples=40,
        split_size=40 if metric else 900,
        metrics={metric: value, "second": 0.1} if metric else {},
        intervals={metric: (value - 0.25, value + 0.25)} if metric else {},
        nats_per_example=-9.0,
        nats_per_token=-2.0 if metric else -value,
        majority_rate=majority,
        nats_interval=(-2.5, -1.5) if metric else (-value - 0.5, -value + 0.25),
    )
    return Figure(subject, {"inputs": 8, "targets": 4}, 1.5, result)


def module(row, seed, trained_on, method="PromptTuning"):
    keeps_lm = method == "PromptTuning"
    return Subject(row, f"{row}{seed}", f"runs/{row}_{seed}/best/9", method, seed, trained_on, 1234, keeps_lm)


def line(subject, first, second, loss):
    return [figure(subject, "one", first), figure(subject, "two", second), figure(subject, "text", loss, None)]


def figures():
    return [
        figure(FROZEN, "one", 0.5, majority=0.625),
        *line(FROZEN, 0.5, 0.25, 3.0)[1:],
        *line(module("p1", 0, "one"), 0.75, 0.25, 4.0),
        *line(module("p1", 1, "one"), 1.0, 0.5, 5.0),
        *line(module("p2", 0, "two"), 0.5, 0.75, 3.5),
        *line(module("tuned", 0, "two", "FineTuning"), 0.25, 1.0, 6.0),
        *line(module("mixed", 0, "both", "FineTuning"), 0.5, 0.5, 2.5),
    ]


def test_means_over_seeds_and_changes():
    matrix = Matrix(figures())
    assert matrix.tasks == ["one", "two", "text"]
    assert [matrix.cell("p1", task).mean for task in matrix.tasks] == [0.875, 0.375, 4.5]
    assert [matrix.change("p1", task) for task in matrix.tasks] == [0.375, 0.125, 1.5]
    assert [matrix.change(ALONE, task) for task in matrix.tasks] == [0.0, 0.0, 0.0]
    assert matrix.cell("p1", "text").range_text() == "(4.000 to 5.000)"


def test_what_a_column_shows():
    matrix = Matrix(figures())
    assert [matrix.metric(task) for task in matrix.tasks] == ["accuracy", "accuracy", "nats per token"]
    assert [matrix.is_loss(task) for task in matrix.tasks] == [False, False, True]


def test_a_loss_is_positive_and_so_is_its_interval():
    found = figure(FROZEN, "text", 3.0, None)
    assert (found.value, found.interval) == (3.0, (2.75, 3.5))
    assert found.text() == "3.000 [2.750, 3.500]"


def test_a_row_knows_its_task():
    matrix = Matrix(figures())
    own = {(row, task) for row in matrix.rows[:6] for task in matrix.tasks if matrix.cell(row, task).is_own}
    assert own == {
        ("p1", "one"),
        ("p2", "two"),
        ("tuned", "two"),
        ("each task's own PromptTuning", "one"),
        ("each task's own PromptTuning", "two"),
    }


def test_one_lm_does_each_task_with_its_own_module():
    matrix = Matrix(figures())
    assert matrix.rows == [ALONE, "p1", "p2", "each task's own PromptTuning", "tuned", "mixed"]
    title = matrix.rows[3]
    assert [matrix.cell(title, task).mean for task in matrix.tasks] == [0.875, 0.75, 3.0]
    assert matrix.change(title, "text") == 0  # no module: the LM as it was
    assert matrix.methods[title] == "PromptTuning"


def test_no_such_row_where_the_lm_itself_was_trained_or_for_one_task():
    tuned = [
        *line(module("t1", 0, "one", "FineTuning"), 1.0, 1.0, 9.0),
        *line(module("t2", 0, "two", "FineTuning"), 1.0, 1.0, 9.0),
    ]
    assert Matrix([*line(FROZEN, 0.5, 0.5, 3.0), *tuned]).rows == [ALONE, "t1", "t2"]
    assert Matrix(figures()[:9]).rows == [ALONE, "p1"]


def test_of_two_rows_for_a_task_the_first_is_taken():
    other = line(module("p3", 0, "one"), 0.625, 0.0, 9.0)
    alone, modules = figures()[:3], figures()[3:]
    for found, first in (([*alone, *modules, *other], 0.875), ([*alone, *other, *modules], 0.625)):
        assert Matrix(found).cell("each task's own PromptTuning", "one").mean == first


def rows_of(text, title):
    """The cells of a row, in every table that has it."""
    lines = [[cell.strip() for cell in row.strip("|").split("|")] for row in text.splitlines() if row.startswith("|")]
    return [cells[1:] for cells in lines if cells[0] == title]


def test_tables():
    text = Matrix(figures()).markdown()
    means, changes, *modules = rows_of(text, "p1")
    assert means == ["**0.875 (0.750 to 1.000)**", "0.375 (0.250 to 0.500)", "4.500 (4.000 to 5.000)"]
    assert changes == ["**+0.375**", "+0.125", "+1.500"]
    assert modules == [
        ["runs/p1_0/best/9", "1,234", "0", "0.750 [0.500, 1.000]", "0.250 [0.000, 0.500]", "4.000 [3.750, 4.500]"],
        ["runs/p1_1/best/9", "1,234", "1", "1.000 [0.750, 1.250]", "0.500 [0.250, 0.750]", "5.000 [4.750, 5.500]"],
    ]
    assert rows_of(text, "tuned")[0][0] == "0.250 [0.000, 0.500]"
    assert rows_of(text, "one constant answer") == [["0.625", "", ""]]
    assert rows_of(text, "examples") == [["40 (test)", "40 (test)", "40 of 900 (test)"]]
    assert len(rows_of(text, "each task's own PromptTuning")) == 2
    assert "| text, nats per token" in text


def test_without_modules_there_is_one_table():
    text = Matrix(figures()[:3]).markdown()
    assert len(rows_of(text, ALONE)) == 1
    assert "minus" not in text


def test_metrics_in_percent_share_the_scale_of_others():
    percent = [figure(FROZEN, "em", 40.0, "em"), figure(FROZEN, "text", 3.0, None), figure(FROZEN, "one", 1.0)]
    matrix = Matrix(percent)
    assert [matrix.scale(task) for task in matrix.tasks] == [100.0, 1.0, 1.0]


def decoded(png):
    """Its pixels."""
    return matplotlib.image.imread(io.BytesIO(png), format="png")


def test_picture_is_a_png_that_grows_with_the_matrix():
    small, large = Matrix(figures()[:6]), Matrix(figures())
    png = picture.draw(large, "a note")
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    assert 900 < width < 3000
    assert 500 < height < 3000
    assert decoded(png).shape[:2] == (height, width)
    assert decoded(picture.draw(small)).shape[0] < height


def test_better_is_blue_and_worse_is_red_for_metrics_and_losses():
    def colours(first, loss):
        """Whether there is more red than blue left and right."""
        matrix = Matrix([*line(FROZEN, 0.5, 0.5, 3.0), *line(module("p", 0, "none"), first, first, loss)])
        pixels = decoded(picture.draw(matrix))
        body = pixels[: int(0.6 * len(pixels))]  # above the scales
        cut = int(0.75 * body.shape[1])
        return [float((half[..., 0] - half[..., 2]).mean()) for half in (body[:, :cut], body[:, cut:])]

    (left, right) = colours(0.9, 4.0)
    assert left < 0 < right
    (left, right) = colours(0.1, 2.0)
    assert right < 0 < left


def test_a_picture_without_changes_losses_or_figures_can_be_drawn():
    picture.draw(Matrix([figure(FROZEN, "one", 0.5)]))
    picture.draw(Matrix([figure(FROZEN, "text", 0.5, None)]))
    picture.draw(Matrix([figure(FROZEN, "one", 0.5), figure(module("p", 0, "one"), "one", math.nan)]))


def test_the_picture_is_drawn_without_a_display_and_the_same_every_time(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    first, second = (decoded(picture.draw(Matrix(figures()))) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("seed", [None, 2])
def test_the_line_that_tells_how_far_it_is(seed):
    subject = FROZEN if seed is None else module("p1", seed, "one")
    wanted = ALONE if seed is None else "p1, seed 2"
    assert figure(subject, "one", 0.5).line() == f"{wanted}: one accuracy 0.500 [0.250, 0.750] (2 s)"
