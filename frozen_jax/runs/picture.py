"""The ledger's picture: what every training changed on every task, as a heat map with the values written in."""

from __future__ import annotations

import io
from typing import Any

from frozen_jax.runs.matrix import Matrix

_BETTER_IS_BLUE = "RdBu"  # told apart by every kind of colour vision


def draw(matrix: Matrix) -> bytes:
    """Draws a matrix: colours are differences to the frozen LM alone, blue better and red worse.

    Metrics share one scale; losses, in nats per token, have another. What a row was trained on has a frame.

    Args:
        matrix: the figures.

    Returns:
        A PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes a second to import, and nothing else needs it
    from matplotlib.figure import Figure

    groups = [[task for task in matrix.tasks if matrix.is_loss(task) == is_loss] for is_loss in (False, True)]
    groups = [tasks for tasks in groups if tasks]
    figure = Figure(figsize=(3.2 + 1.75 * len(matrix.tasks), 1.9 + 0.62 * len(matrix.rows)), layout="constrained")
    FigureCanvasAgg(figure)
    widths = [len(tasks) for tasks in groups]
    axes = figure.subplots(1, len(groups), squeeze=False, width_ratios=widths)[0]
    for place, tasks in zip(axes, groups, strict=True):
        _draw_group(figure, place, matrix, tasks, with_rows=place is axes[0])
    figure.suptitle("One frozen LM, many modules: every row on every task", fontsize=13, fontweight="bold")
    found = io.BytesIO()
    figure.savefig(found, format="png", dpi=150)
    return found.getvalue()


def _draw_group(figure: Any, axes: Any, matrix: Matrix, tasks: list[str], with_rows: bool) -> None:
    is_loss = matrix.is_loss(tasks[0])
    changes = [[matrix.change(row, task) for task in tasks] for row in matrix.rows]
    most = max(abs(change) for line in changes for change in line) or 1.0
    colours = f"{_BETTER_IS_BLUE}_r" if is_loss else _BETTER_IS_BLUE
    image = axes.imshow(changes, cmap=colours, vmin=-most, vmax=most, aspect="auto")
    for y, row in enumerate(matrix.rows):
        for x, task in enumerate(tasks):
            _write_cell(axes, matrix, (x, y), row, task, dark=abs(changes[y][x]) > 0.6 * most)
    axes.set_xticks(range(len(tasks)), [_title(matrix, task) for task in tasks], fontsize=9)
    axes.set_yticks(range(len(matrix.rows)), matrix.rows if with_rows else [], fontsize=10)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    what = "change of nats per token (red: forgotten)" if is_loss else "change against the frozen LM alone"
    figure.colorbar(image, ax=axes, location="bottom", shrink=0.9, label=what)


def _write_cell(axes: Any, matrix: Matrix, place: tuple[int, int], row: str, task: str, dark: bool) -> None:
    from matplotlib.patches import Rectangle

    cell = matrix.cell(row, task)
    text = f"{cell.mean:.3f}" + (f"\n{cell.range_text()}" if len(cell.figures) > 1 else "")
    axes.text(*place, text, ha="center", va="center", fontsize=9, color="white" if dark else "black")
    if cell.is_own:
        corner = (place[0] - 0.47, place[1] - 0.46)
        axes.add_patch(Rectangle(corner, 0.94, 0.92, fill=False, edgecolor="black", linewidth=2))


def _title(matrix: Matrix, task: str) -> str:
    majority = matrix.result(task).majority_rate
    lines = [task.removesuffix("_from_validation").replace("_", " "), matrix.metric(task)]
    return "\n".join(lines + ([] if majority is None else [f"(one answer: {majority:.2f})"]))
