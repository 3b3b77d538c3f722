"""Two rows of a ledger on the same examples: paired differences, with 95% intervals over the examples.

    example ──▶ figure of a template ──▶ figure of a data set ──▶ average
                (mean, or a ratio)       (mean or median)         (mean over data sets)

A hierarchical bootstrap: data sets and templates are fixed; within each template the examples are drawn with
replacement, the same ones for both rows and all their seeds, and everything to the right is computed anew. Templates
that show the same example of their data set draw it together, so that many templates of few examples do not look like
many examples.
The figures of a row are means over its seeds: what seeds do is not in the interval, but in their standard deviation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from frozen_jax.evaluation import PerExample, TaskResult
from frozen_jax.intervals import Interval
from frozen_jax.ordering import random_bits

Seeds = Sequence[Mapping[str, TaskResult]]  # of each seed of a row the results, by task
_AT_ONCE = 1_000_000  # weights of examples


@dataclasses.dataclass(frozen=True)
class Measure:
    """A figure of a template, sum(numerator) / sum(denominator) over its examples, and of a data set.

    Attributes:
        numerator: one number an example; empty where it has none.
        denominator: the same.
        over_templates: `numpy.mean` or `numpy.median`.
    """

    numerator: Callable[[PerExample], Sequence[float]]
    denominator: Callable[[PerExample], Sequence[float]]
    over_templates: Callable[..., Float[np.ndarray, "..."]]


def _each_once(examples: PerExample) -> list[int]:
    return [1] * len(examples.index)


NATS_PER_TOKEN = Measure(lambda examples: examples.nats, lambda examples: examples.tokens, np.mean)
NATS_PER_TARGET = Measure(lambda examples: examples.nats, _each_once, np.mean)


def metric(name: str) -> Measure:
    """Returns the measure of a metric, if it is a mean over the examples: medians over templates."""
    return Measure(lambda examples: examples.metrics.get(name, []), _each_once, np.median)


@dataclasses.dataclass(frozen=True)
class Difference:
    """A data set's figure of one row minus that of another, or the average of such over data sets.

    Attributes:
        value: of all examples.
        resampled: of each sample of the bootstrap.
    """

    value: float
    resampled: Float[np.ndarray, " K"]

    @property
    def interval(self) -> Interval:
        """The 2.5th and 97.5th percentile."""
        low, high = np.percentile(self.resampled, [2.5, 97.5])
        return float(low), float(high)

    def text(self) -> str:
        """Returns the value, with its interval in square brackets."""
        return f"{self.value:+.3f} [{self.interval[0]:+.3f}, {self.interval[1]:+.3f}]"


def paired(
    first: Seeds, second: Seeds, tasks: Sequence[str], measure: Measure, samples: int = 1000
) -> Difference | None:
    """Compares two rows on a data set.

    Args:
        first: a row.
        second: what is taken from it.
        tasks: the templates of the data set.
        measure: what is compared.
        samples: of the bootstrap.

    Returns:
        The difference; None if the measure is none of single examples.
    """
    sides = [_numbers(row, tasks, measure) for row in (first, second)]
    templates = [_examples(first[0], task).index for task in tasks]
    keys, sizes = np.concatenate(templates), [len(index) for index in templates]
    if any(len(line) != len(keys) for numerators, _ in sides for line in numerators):
        return None
    starts = np.cumsum([0, *sizes[:-1]])

    def figures(weights: Float[np.ndarray, "K N"]) -> Float[np.ndarray, " K"]:
        one, other = (_figures(*side, weights, starts, measure) for side in sides)
        return one - other

    resampled = [figures(weights) for weights in _weights(keys, starts, sizes, tasks[0], samples)]
    return Difference(float(figures(np.ones((1, len(keys))))[0]), np.concatenate(resampled))


def average(differences: Sequence[Difference]) -> Difference:
    """Returns the average over data sets, whose examples are drawn independently."""
    value = float(np.mean([difference.value for difference in differences]))
    return Difference(value, np.mean([difference.resampled for difference in differences], axis=0))


def _numbers(
    row: Seeds, tasks: Sequence[str], measure: Measure
) -> tuple[list[Float[np.ndarray, "_"]], Float[np.ndarray, " N"]]:
    """The numerators, a line a seed, and the denominator: the templates' examples end to end."""

    def laid_out(
        numbers: Callable[[PerExample], Sequence[float]], results: Mapping[str, TaskResult]
    ) -> Float[np.ndarray, "_"]:
        return np.concatenate([numbers(_examples(results, task)) for task in tasks]).astype(np.float64)

    return [laid_out(measure.numerator, results) for results in row], laid_out(measure.denominator, row[0])


def _examples(results: Mapping[str, TaskResult], task: str) -> PerExample:
    found = results[task].per_example
    assert found is not None, "evaluate keeps the figures of every example"
    return found


def _figures(
    numerators: Sequence[Float[np.ndarray, " N"]],
    denominator: Float[np.ndarray, " N"],
    weights: Float[np.ndarray, "K N"],
    starts: Int[np.ndarray, " templates"],
    measure: Measure,
) -> Float[np.ndarray, " K"]:
    """The data set's figure under each line of weights."""
    wholes = np.add.reduceat(denominator * weights, starts, axis=-1)
    ratios = [np.add.reduceat(line * weights, starts, axis=-1) / wholes for line in numerators]
    return np.mean([measure.over_templates(ratio, axis=-1) for ratio in ratios], axis=0)


def _weights(
    keys: Int[np.ndarray, " N"], starts: Int[np.ndarray, " templates"], sizes: Sequence[int], name: str, samples: int
) -> Iterator[Float[np.ndarray, "K N"]]:
    """How often each example is drawn, a line a sample, in pieces that fit into memory."""
    different, places = np.unique(keys, return_inverse=True)
    count = len(different)
    step = max(1, _AT_ONCE // len(keys))
    for first in range(0, samples, step):
        lines = [
            np.bincount((random_bits(count, "paired", name, i) % np.uint64(count)).astype(np.int64), minlength=count)
            for i in range(first, min(first + step, samples))
        ]
        weights = np.array(lines)[:, places].astype(np.float64)
        nothing = np.add.reduceat(weights, starts, axis=-1) == 0  # of a template of two or three examples
        yield weights + np.repeat(nothing, sizes, axis=-1)
