"""The picture of p(x): every input's prompt in the plane of its two principal components, coloured by data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from frozen_jax import drawing
from frozen_jax.prompt_inspection import Plane
from frozen_jax.templates import data_set_of

_MARKERS = "o^sDvP*X"  # twenty colours each
_LEGEND_ROWS = 24


def draw_prompts(plane: Plane, tasks: Sequence[str], title: str) -> Any:
    """Draws p(x), a point an input.

    Args:
        plane: where the points are, and the shares of the variance.
        tasks: the task of each input. Colours are data sets; of one data set alone, its templates.
        title: the first line; the second says how many inputs there are and what the axes show.

    Returns:
        A matplotlib figure, see `drawing.png`.
    """
    groups = _groups(tasks)
    names = list(dict.fromkeys(groups))
    columns = -(-len(names) // _LEGEND_ROWS)
    figure = drawing.new_figure(8 + columns * (0.6 + 0.085 * max(map(len, names))), 6.5)
    place = figure.subplots()
    for number, (name, colour) in enumerate(zip(names, drawing.colours(len(names)), strict=True)):
        points = plane.points[[group == name for group in groups]]
        marker, size = _MARKERS[number // 20 % len(_MARKERS)], 22 if len(groups) > 200 else 40
        place.scatter(*points.T, size, color=colour, marker=marker, alpha=0.75, linewidths=0, label=name)
    for axis, share, which in zip((place.xaxis, place.yaxis), plane.shares, ("first", "second"), strict=True):
        axis.set_label_text(f"{which} principal component ({share:.1%} of the variance)")
    place.set_title(f"{title}\n{_in_numbers(plane, len(groups))}", fontsize=11)
    figure.legend(loc="outside right upper", ncols=columns, fontsize=9, frameon=False)
    return figure


def _groups(tasks: Sequence[str]) -> Sequence[str]:
    data_sets = [data_set_of(task) for task in tasks]
    return data_sets if len(set(data_sets)) > 1 else tasks


def _in_numbers(plane: Plane, count: int) -> str:
    inputs = f"{count:,} inputs" if count > 1 else "1 input"
    if not any(plane.shares):
        return f"{inputs}; one p for all"
    return f"{inputs}; the two axes show {sum(plane.shares):.1%} of the variance of p(x)"
