"""What is left of a method in wider mixtures, beside a static prompt for each data set alone: from the last metrics."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from frozen_jax.errors import UserError
from frozen_jax.metrics import read_metrics

MEASURE = "nats_per_token"

Values = dict[int, list[float]]  # K data sets in the mixture → an average over them, of each seed


def last_values(path: str) -> dict[str, float]:
    """Reads what a run measured last on the validation split.

    Args:
        path: its folder.

    Returns:
        Nats per token of each of its data sets.

    Raises:
        UserError: if it was never evaluated.
    """
    evaluations = [line for line in read_metrics(path) if line["kind"] == "eval"]
    if not evaluations:
        raise UserError(f"{path}: its metrics.jsonl has no evaluations; train with EVAL_PERIOD")
    return {name.removesuffix(f"/{MEASURE}"): value for name, value in evaluations[-1].items() if f"/{MEASURE}" in name}


def by_width(
    methods: Mapping[str, Iterable[str]], alone: Iterable[str]
) -> tuple[dict[str, Values], Values, dict[int, list[str]]]:
    """Sorts runs by how many data sets their mixtures have.

    Args:
        methods: name → run folders, of any widths and seeds.
        alone: folders of runs with a static prompt for one data set each, of any seeds.

    Returns:
        name → K → averages of the seeds; K → the same averages of the prompts alone; K → the data sets that were
        averaged: those of the mixture that have a prompt alone.

    Raises:
        UserError: for a run without evaluations, one in `alone` with more than one data set, mixtures of one width but
            of different data sets, a mixture of which no data set has a prompt alone, and seeds that are lacking.
    """
    own = _alone(alone)
    averaged: dict[int, list[str]] = {}
    found: dict[str, Values] = {}
    for method, paths in methods.items():
        for path in paths:
            values = last_values(path)
            names = [name for name in values if name in own]
            if not names:
                raise UserError(f"{path}: none of its data sets has a prompt alone; curves.alone has {', '.join(own)}")
            if averaged.setdefault(len(values), names) != names:
                raise UserError(f"{path}: {len(values)} data sets, but not those of the other runs with so many")
            seeds = found.setdefault(method, {}).setdefault(len(values), [])
            seeds.append(statistics.fmean(values[name] for name in names))
    return found, {width: _averages(own, names) for width, names in averaged.items()}, averaged


def _alone(paths: Iterable[str]) -> dict[str, list[float]]:
    own: dict[str, list[float]] = {}
    for path in paths:
        values = last_values(path)
        if len(values) != 1:
            raise UserError(f"{path}: curves.alone is for runs on one data set; this one has {len(values)}")
        ((name, value),) = values.items()
        own.setdefault(name, []).append(value)
    return own


def _averages(own: Mapping[str, Sequence[float]], names: Sequence[str]) -> list[float]:
    counts = {name: len(own[name]) for name in names}
    if len(set(counts.values())) > 1:
        raise UserError(f"curves.alone: every data set needs as many seeds as the others; there are {counts}")
    return [statistics.fmean(seed) for seed in zip(*(own[name] for name in names), strict=True)]


def rows_of(methods: Mapping[str, Values], reference: Values, averaged: Mapping[int, Sequence[str]]) -> list[list[str]]:
    """Returns a row for each method and width: method, K, seeds, mean, that of the prompts alone, difference."""
    rows = []
    for method, widths in methods.items():
        for width, seeds in sorted(widths.items()):
            mean, alone = statistics.fmean(seeds), statistics.fmean(reference[width])
            shares = f"{len(averaged[width])} of {width}"
            rows.append([method, shares, str(len(seeds)), f"{mean:.3f}", f"{alone:.3f}", f"{mean - alone:+.3f}"])
    return rows
