"""Templates of data sets: the task `p3.glue_sst2.review` is the template `review` of the data set `p3.glue_sst2`.

    results of templates ──▶ one result a data set: medians and quartiles of metrics, means of log-likelihoods

Names with a dot say their data set: all before the last one. Where a task module knows better, as of T0's
`cos_e_v1.11_rationale`, it registers its tasks. Any other task is a data set of its own, and its result stays as it is.

Quartiles are interpolated linearly between the templates (numpy's `percentile`, R's type 7): those of 1, 2, 3, 4 are
1.75 and 3.25. T0 reports medians and quartiles as well (Sanh et al. 2022); the means of log-likelihoods are our choice.
"""

from __future__ import annotations

import collections
import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from frozen_jax.evaluation import TaskResult

LOSS = "nats_per_token"
LOSS_TITLE = "nats per token"
_REGISTERED: dict[str, str] = {}  # task → data set


def register(data_set: str, tasks: Iterable[str]) -> None:
    """Says of which data set tasks are, whatever their names look like.

    Args:
        data_set: its name.
        tasks: its templates, or the data set itself as the one task.
    """
    _REGISTERED.update(dict.fromkeys(tasks, data_set))


def data_set_of(task: str) -> str:
    """Returns the data set of a task: the registered one, or all before the last dot."""
    return _REGISTERED.get(task) or task.rpartition(".")[0] or task


def are_among(tasks: Iterable[str]) -> bool:
    """Returns whether any of the tasks is a template."""
    return any(data_set_of(task) != task for task in tasks)


def by_data_set(tasks: Iterable[str]) -> dict[str, list[str]]:
    """Returns the tasks of each data set, in the order in which they come."""
    found: dict[str, list[str]] = collections.defaultdict(list)
    for task in tasks:
        found[data_set_of(task)].append(task)
    return dict(found)


def merged(results: Mapping[str, TaskResult]) -> dict[str, TaskResult]:
    """Puts the results of templates together.

    Args:
        results: by task.

    Returns:
        By data set; `metrics` are medians over its templates and `intervals` their QUARTILES, likelihoods are means,
        and examples are counted once a template. A template without one of the metrics stays out of that one.
    """
    return {
        data_set: results[data_set] if names == [data_set] else _merged(data_set, [results[name] for name in names])
        for data_set, names in by_data_set(results).items()
    }


def first_metric(result: TaskResult) -> tuple[str, float]:
    """Returns the name and the value of a task's first metric, or of its log-likelihood where it has none."""
    return next(iter(result.metrics.items()), (LOSS, result.nats_per_token))


def _merged(data_set: str, results: Sequence[TaskResult]) -> TaskResult:
    names = dict.fromkeys(name for result in results for name in result.metrics)
    found = {name: [result.metrics[name] for result in results if name in result.metrics] for name in names}
    quartiles = {name: np.percentile(values, [25, 50, 75]).tolist() for name, values in found.items()}
    majorities = [result.majority_rate for result in results if result.majority_rate is not None]
    return TaskResult(
        task=data_set,
        split=results[0].split,
        examples=sum(result.examples for result in results),
        split_size=sum(result.split_size for result in results),
        metrics={name: median for name, (_, median, _) in quartiles.items()},
        intervals={name: (low, high) for name, (low, _, high) in quartiles.items()},
        nats_per_example=statistics.fmean(result.nats_per_example for result in results),
        nats_per_token=statistics.fmean(result.nats_per_token for result in results),
        majority_rate=statistics.median(majorities) if majorities else None,
        failures=[line for result in results for line in result.failures],
    )
