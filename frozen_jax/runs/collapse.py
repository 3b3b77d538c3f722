"""What is left of a method in wider mixtures, beside a static prompt for each data set alone: from the last metrics."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from frozen_jax.errors import UserError
from frozen_jax.metrics import read_evaluations
from frozen_jax.templates import LOSS

Values = dict[int, list[float]]  # K data sets in the mixture → an average over them, of each seed


class Run(NamedTuple):
    """What a run measured last on the validation split.

    Attributes:
        path: its folder.
        step: after which that was.
        values: nats per token of each of its data sets.
    """

    path: str
    step: int
    values: dict[str, float]


def last_of(path: str) -> Run:
    """Reads the last evaluation of a run.

    Args:
        path: its folder.

    Raises:
        UserError: if it was never evaluated.
    """
    last, ending = read_evaluations(path)[-1], f"/{LOSS}"
    values = {name.removesuffix(ending): value for name, value in last.items() if name.endswith(ending)}
    return Run(path, last["step"], values)


def by_mixture_size(
    methods: Mapping[str, Iterable[str]], alone: Iterable[str]
) -> tuple[dict[str, Values], Values, dict[int, list[str]]]:
    """Sorts runs by how many data sets their mixtures have.

    Args:
        methods: name → run folders, on mixtures of any sizes, of any seeds.
        alone: folders of runs with a static prompt for one data set each, of any seeds.

    Returns:
        name → K → averages of the seeds; K → the same averages of the prompts alone; K → the data sets that were
        averaged: those of the mixture that have a prompt alone.

    Raises:
        UserError: for a run without evaluations, one in `alone` with more than one data set, mixtures of one size but
            of different data sets, runs on as many data sets that were last evaluated after different steps, a mixture
            of which no data set has a prompt alone, and seeds that are lacking.
    """
    own = _alone(alone)
    first: dict[int, Run] = {}  # of each size
    found: dict[str, Values] = {}
    for method, paths in methods.items():
        for run in map(last_of, paths):
            names, size = _shared(run, own), len(run.values)
            _check_comparable(run, first.setdefault(size, run))
            average = statistics.fmean(run.values[name] for name in names)
            found.setdefault(method, {}).setdefault(size, []).append(average)
    averaged = {size: _shared(run, own) for size, run in first.items()}
    return found, {size: _averages(own, names) for size, names in averaged.items()}, averaged


def _alone(paths: Iterable[str]) -> dict[str, list[float]]:
    runs, own = [last_of(path) for path in paths], {}
    for run in runs:
        if len(run.values) != 1:
            raise UserError(f"{run.path}: curves.alone is for runs on one data set; this one has {len(run.values)}")
        _check_steps(run, runs[0])
        ((name, value),) = run.values.items()
        own.setdefault(name, []).append(value)
    return own


def _shared(run: Run, own: Mapping[str, object]) -> list[str]:
    if names := [name for name in run.values if name in own]:
        return names
    raise UserError(f"{run.path}: none of its data sets has a prompt alone; curves.alone has {', '.join(own)}")


def _check_comparable(run: Run, other: Run) -> None:
    if run.values.keys() != other.values.keys():
        raise UserError(f"{run.path}: {len(run.values)} data sets, but not those of {other.path}, which has as many")
    _check_steps(run, other)


def _check_steps(run: Run, other: Run) -> None:
    """A run that was stopped early, or goes on, does not count like one that is finished."""
    if run.step != other.step:
        raise UserError(
            f"{run.path}: last evaluated after step {run.step}, but {other.path} after step {other.step}; finish both"
        )


def _averages(own: Mapping[str, Sequence[float]], names: Sequence[str]) -> list[float]:
    counts = {name: len(own[name]) for name in names}
    if len(set(counts.values())) > 1:
        raise UserError(f"curves.alone: every data set needs as many seeds as the others; there are {counts}")
    return [statistics.fmean(seed) for seed in zip(*(own[name] for name in names), strict=True)]


def rows_of(methods: Mapping[str, Values], reference: Values, averaged: Mapping[int, Sequence[str]]) -> list[list[str]]:
    """Returns a row for each method and K: method, shares of K, seeds, mean, that of the prompts alone, difference."""
    rows = []
    for method, sizes in methods.items():
        for size, seeds in sorted(sizes.items()):
            mean, alone = statistics.fmean(seeds), statistics.fmean(reference[size])
            shares = f"{len(averaged[size])} of {size}"
            rows.append([method, shares, str(len(seeds)), f"{mean:.3f}", f"{alone:.3f}", f"{mean - alone:+.3f}"])
    return rows
