"""The table that a run ends with: each data set before and after, side by side, with intervals.

A task without metrics, such as plain language modelling, shows its log-likelihood instead. Of templates a data set is
one line, see `templates`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from frozen_jax import templates
from frozen_jax.errors import UserError
from frozen_jax.evaluation import TaskResult
from frozen_jax.templates import first_metric

Results = Mapping[str, TaskResult]


def flat(results: Results) -> dict[str, float]:
    """Returns all metrics under `task/metric`, and their `mean`.

    Metrics that failed are left out; where one of them is a task's first, `mean` is nan, which is never the best. Of
    templates these are figures of data sets, under `data set/metric`, and beside `mean` there is
    `mean_nats_per_token`: over data sets, of the means over their templates.
    """
    found = templates.merged(results)
    values = {f"{name}/{metric}": value for name, r in found.items() for metric, value in r.metrics.items()}
    values |= {f"{name}/nats_per_token": result.nats_per_token for name, result in found.items()}
    values = {name: value for name, value in values.items() if not math.isnan(value)}
    if templates.are_among(results):
        values["mean_nats_per_token"] = _mean_nats(found)
    return values | {"mean": mean(results)}


def mean(results: Results) -> float:
    """Returns the mean over tasks of the first metric of each; the more, the better.

    Of templates, the mean over data sets of the median over their templates. Tasks without metrics stay out of it,
    unless no task has any: then it is the mean of nats per token.
    """
    return statistics.fmean(first_metric(result)[1] for result in _averaged(templates.merged(results)))


def failures(*columns: Results) -> list[str]:
    """Returns a line for each metric that failed, each once."""
    return list(dict.fromkeys(line for results in columns for result in results.values() for line in result.failures))


def raise_failures(lines: Iterable[str]) -> None:
    """At the very end of a run mode, when everything else is done, printed and written.

    Args:
        lines: see `failures`. Of a metric that failed again and again on a split, the first is told.

    Raises:
        UserError: if there are any.
    """
    first: dict[str, str] = {}
    for line in lines:
        first.setdefault(line.partition(": ")[0], line)
    if first:
        raise UserError(f"everything else is done, but {'; '.join(first.values())}")


def table(columns: Mapping[str, Results]) -> str:
    """Returns a Markdown table: a row a data set, a column a model, 95% intervals in brackets.

    Args:
        columns: title → results, all of the same tasks. Of templates: medians and quartiles, and nats per token.
    """
    first = next(iter(columns.values()))
    if templates.are_among(first):
        return _table_of_data_sets(columns)
    titles = ["data set", "metric", *columns, "majority", "examples"]
    rows = [
        [name, first_metric(result)[0], *(_cell(results[name]) for results in columns.values()), *_facts(result)]
        for name, result in first.items()
    ]
    if len(_averaged(first)) > 1:
        rows.append(["mean", "", *(f"{mean(results):.3f}" for results in columns.values()), "", ""])
    return markdown(titles, rows)


def _table_of_data_sets(columns: Mapping[str, Results]) -> str:
    """As `table`, a row a data set."""
    first, found = next(iter(columns.values())), {title: templates.merged(r) for title, r in columns.items()}
    titles = [name for title in columns for name in (title, f"{title}, nats per token")]
    rows = []
    for name, tasks in templates.by_data_set(first).items():
        results = [line[name] for line in found.values()]
        cells = [cell for result in results for cell in (_cell(result), f"{result.nats_per_token:.3f}")]
        rows.append([name, str(len(tasks)), first_metric(results[0])[0], *cells, *_facts(results[0])])
    means = [figure for title, r in columns.items() for figure in (mean(r), _mean_nats(found[title]))]
    rows.append(["mean", "", "", *(f"{figure:.3f}" for figure in means), "", ""])
    note = "Medians over templates, in brackets their quartiles. Nats per token are means over templates."
    return f"{markdown(['data set', 'templates', 'metric', *titles, 'majority', 'examples'], rows)}\n\n{note}"


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns an aligned Markdown table."""
    lines = [titles, ["-" * len(title) for title in titles], *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    lines[1] = ["-" * width for width in widths]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def deviation(values: Sequence[float], digits: int = 3) -> str:
    """Returns the standard deviation over seeds, as it stands behind their mean; nothing for one seed."""
    return f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""


def _mean_nats(results: Results) -> float:
    return statistics.fmean(result.nats_per_token for result in results.values())


def _averaged(results: Results) -> list[TaskResult]:
    """The results whose figures may stand in one mean: an accuracy and a log-likelihood may not."""
    return [result for result in results.values() if result.metrics] or list(results.values())


def _cell(result: TaskResult) -> str:
    metric, value = first_metric(result)
    interval = result.intervals.get(metric)
    if math.isnan(value) and result.failures:
        return "failed"
    return f"{value:.3f}" if interval is None else f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _facts(result: TaskResult) -> list[str]:
    majority = "" if result.majority_rate is None else f"{result.majority_rate:.3f}"
    whole = "" if result.examples == result.split_size else f" of {result.split_size}"
    return [majority, f"{result.examples}{whole} ({result.split})"]
