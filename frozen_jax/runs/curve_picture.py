"""Pictures of what becomes of methods with more examples, and with more data sets in their mixture; numbers in."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from frozen_jax import drawing


class Curve(NamedTuple):
    """What one training, with one seed, came to.

    Attributes:
        examples: seen before each evaluation, ascending.
        values: of the measure, the higher the better.
    """

    examples: Sequence[int]
    values: Sequence[float]


def in_common(curves: Sequence[Curve]) -> dict[int, list[float]]:
    """Returns examples seen → the value of each seed, where all seeds were evaluated."""
    known = [dict(zip(curve.examples, curve.values, strict=True)) for curve in curves]
    return {seen: [values[seen] for values in known] for seen in known[0] if all(seen in values for values in known)}


def draw_curves(rows: Mapping[str, Sequence[Curve]], measure: str) -> Any:
    """Draws learning curves: a thin line a seed, their mean, and a band from the lowest to the highest.

    Args:
        rows: name → the curves of its seeds.
        measure: what the values are.

    Returns:
        A matplotlib figure, see `drawing.png`.
    """
    figure = drawing.new_figure(8.0, 5.0)
    place = figure.subplots()
    for (name, curves), colour in zip(rows.items(), drawing.colours(len(rows)), strict=True):
        common = in_common(curves)
        means = [statistics.fmean(values) for values in common.values()]
        place.plot(
            [*common], means, color=colour, linewidth=2, marker="o", markersize=3.5, label=_named(name, [len(curves)])
        )
        if len(curves) > 1:
            place.fill_between([*common], *_ends(common), color=colour, alpha=0.15, linewidth=0)
            for curve in curves:
                place.plot(curve.examples, curve.values, color=colour, linewidth=0.6, alpha=0.7)
    _finish(place, "examples seen", measure)
    place.set_xlim(left=0)
    place.xaxis.set_major_formatter("{x:,.0f}")
    place.set_title("Thick: mean over seeds. Thin: each seed. Band: lowest to highest.", fontsize=9)
    return figure


def draw_collapse(
    methods: Mapping[str, Mapping[int, Sequence[float]]], reference: Mapping[int, Sequence[float]], measure: str
) -> Any:
    """Draws what is left of a method when it must serve more data sets, relative to a static prompt for each alone.

    Args:
        methods: name → K, the data sets in the mixture → the average over these K data sets, of each seed.
        reference: K → the same average of static prompts that were each trained on one of them, of each seed.
        measure: what the values are, the higher the better; differences of it are drawn.

    Returns:
        A matplotlib figure, see `drawing.png`.
    """
    figure = drawing.new_figure(7.5, 5.0)
    place = figure.subplots()
    ticks = sorted(reference)
    place.fill_between(ticks, *_ends(_relative(reference, reference)), color="grey", alpha=0.25, linewidth=0)
    label = _named("static prompt for each data set alone", map(len, reference.values()))
    place.axhline(0, color="grey", linewidth=1.5, linestyle="--", label=label)
    for number, (name, colour) in enumerate(zip(methods, drawing.colours(len(methods)), strict=True)):
        relative = _relative(methods[name], reference)
        beside = 1.02 ** (number - (len(methods) - 1) / 2)  # so that dots do not hide those of another method
        places = [count * beside for count in relative]
        means = [statistics.fmean(values) for values in relative.values()]
        place.plot(places, means, color=colour, linewidth=2, label=_named(name, map(len, relative.values())))
        place.vlines(places, *_ends(relative), color=colour, linewidth=1)
        for x, values in zip(places, relative.values(), strict=True):
            place.plot([x] * len(values), values, "o", color=colour, markersize=5, alpha=0.75, markeredgewidth=0)
    place.set_xscale("log")
    place.set_xticks(ticks, [str(count) for count in ticks])
    place.set_xticks([], minor=True)
    _finish(place, "data sets in the mixture", f"{measure},\nminus that of a static prompt for each data set alone")
    place.set_title("Lines: mean over seeds. Dots: each seed.", fontsize=9)
    return figure


def _relative(
    values: Mapping[int, Sequence[float]], reference: Mapping[int, Sequence[float]]
) -> dict[int, list[float]]:
    """Differences to the reference's mean, K ascending."""
    return {count: [value - statistics.fmean(reference[count]) for value in values[count]] for count in sorted(values)}


def _ends(points: Mapping[int, Sequence[float]]) -> tuple[list[float], list[float]]:
    """The lowest and the highest value of each point."""
    return [min(values) for values in points.values()], [max(values) for values in points.values()]


def _named(name: str, seeds: Iterable[int]) -> str:
    """A name for the legend, with the numbers of seeds where there are several."""
    counts = sorted(set(seeds))
    return name if counts == [1] else f"{name} ({' to '.join(map(str, counts[:: max(1, len(counts) - 1)]))} seeds)"


def _finish(place: Any, x: str, y: str) -> None:
    place.set_xlabel(x)
    place.set_ylabel(y)
    place.grid(alpha=0.25)
    place.legend(fontsize=9, frameon=False)
    place.spines[["top", "right"]].set_visible(False)
