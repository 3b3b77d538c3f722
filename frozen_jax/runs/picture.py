"""The ledger's picture: what every training changed on every task, as a heat map with the values written in."""

from __future__ import annotations

import math
from typing import Any

from frozen_jax import drawing
from frozen_jax.runs.matrix import Matrix

_BLUE_IS_HIGH, _BLUE_IS_LOW = "RdBu", "RdBu_r"  # blue is better; red and blue differ for every kind of colour vision
_DARK = 0.6  # of the scale: from there on, white letters


def draw(matrix: Matrix, note: str = "") -> bytes:
    """Draws a matrix: colours are differences to the frozen LM alone, blue better and red worse.

    Metrics share one scale; losses, in nats per token, have another. What a row was trained on has a frame.

    Args:
        matrix: the figures.
        note: a line below.

    Returns:
        A PNG file.
    """
    groups = [[task for task in matrix.tasks if matrix.is_loss(task) == is_loss] for is_loss in (False, True)]
    groups = [tasks for tasks in groups if tasks]
    longest = max(map(len, matrix.rows))
    size = (0.8 + 0.085 * longest + 1.75 * len(matrix.tasks), 2.6 + 0.52 * len(matrix.rows))
    figure = drawing.new_figure(*size)
    widths = [len(tasks) for tasks in groups]
    places = figure.subplots(1, len(groups), squeeze=False, width_ratios=widths)[0]
    for place, tasks in zip(places, groups, strict=True):
        _draw_group(figure, place, matrix, tasks)
    places[0].set_yticks(range(len(matrix.rows)), matrix.rows, fontsize=10)
    figure.suptitle("Every training (rows) on every task (columns)", fontsize=13, fontweight="bold")
    figure.supxlabel(note, fontsize=9)
    return drawing.png(figure)


def _draw_group(figure: Any, place: Any, matrix: Matrix, tasks: list[str]) -> None:
    """Columns that share a scale."""
    is_loss = matrix.is_loss(tasks[0])
    changes = [[matrix.change(row, task) / matrix.scale(task) for task in tasks] for row in matrix.rows]
    most = max([abs(change) for line in changes for change in line if not math.isnan(change)], default=0) or 1
    colours = _BLUE_IS_LOW if is_loss else _BLUE_IS_HIGH
    image = place.imshow(changes, cmap=colours, vmin=-most, vmax=most, aspect="auto")
    for y, row in enumerate(matrix.rows):
        for x, task in enumerate(tasks):
            _write(place, (x, y), matrix, row, task, "white" if abs(changes[y][x]) > _DARK * most else "black")
        if y and matrix.methods[row] != matrix.methods[matrix.rows[y - 1]]:
            place.axhline(y - 0.5, color="black", linewidth=1)
    place.set_xticks(range(len(tasks)), [_title(matrix, task) for task in tasks], fontsize=10)
    place.set_yticks([])
    place.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    what = "change of nats per token\n(red: worse)" if is_loss else "change against the frozen LM alone (blue: better)"
    bar = figure.colorbar(image, ax=place, location="bottom", aspect=12 * len(tasks), label=what)
    bar.ax.tick_params(labelsize=9)
    bar.locator = _few_ticks(len(tasks))
    bar.update_ticks()


def _few_ticks(columns: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(2 + 2 * columns if columns < 4 else 9)


def _write(place: Any, at: tuple[int, int], matrix: Matrix, row: str, task: str, colour: str) -> None:
    """Writes a cell's value, the range of its seeds below, and frames what the row was trained on."""
    from matplotlib.patches import Rectangle

    cell = matrix.cell(row, task)
    several = len(cell.figures) > 1
    x, y = at
    weight = "bold" if cell.is_own else "normal"
    place.text(x, y - 0.16 * several, f"{cell.mean:.3f}", ha="center", va="center", color=colour, weight=weight)
    if several:
        place.text(x, y + 0.24, cell.range_text(), ha="center", va="center", color=colour, fontsize=8)
    if cell.is_own:
        place.add_patch(Rectangle((x - 0.47, y - 0.45), 0.94, 0.9, fill=False, edgecolor="black", linewidth=2))


def _title(matrix: Matrix, task: str) -> str:
    majority = matrix.result(task).majority_rate
    lines = [task.replace("_from_", "\nfrom ").replace("_", " "), matrix.metric(task)]
    return "\n".join([*lines, "" if majority is None else f"one answer: {majority:.3f}"])
