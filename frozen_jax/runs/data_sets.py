"""The ledger where tasks are templates: tables with a row a data set, and paired differences of rows.

    MODEL_DIR/data_sets.md     log-likelihoods, accuracies and differences, by data set and on average
    MODEL_DIR/templates.csv    every figure of every template

The primary measure is the log-likelihood of the targets, means over templates; then accuracy, or what else a task's
first metric is, by rank classification where it has answer choices: median and quartiles over templates.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import operator
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from frozen_jax import templates
from frozen_jax.errors import UserError
from frozen_jax.evaluation import TaskResult
from frozen_jax.intervals import Interval
from frozen_jax.runs import comparison
from frozen_jax.runs.comparison import NATS_PER_TARGET, NATS_PER_TOKEN
from frozen_jax.runs.matrix import Figure
from frozen_jax.runs.report import deviation, markdown
from frozen_jax.templates import LOSS, first_metric

LEGEND = (
    "Means over the seeds, after ± their standard deviation. Log-likelihoods are means over the templates of a data "
    "set, metrics medians, in square brackets the quartiles (of a task that is no template, its 95% interval)."
)
_FACTS = ("data set", "templates", "examples")


@dataclasses.dataclass(frozen=True)
class Layout:
    """What is set apart, averaged and compared.

    Attributes:
        held_out: data sets with tables of their own.
        averaged: data sets over which figures are averaged, the others being listed only; None is all.
        compare: pairs of rows; the second is taken from the first.
    """

    held_out: Sequence[str] = ()
    averaged: Sequence[str] | None = None
    compare: Sequence[Sequence[str]] = ()

    def check_rows(self, rows: Iterable[str]) -> None:
        """Looks at the names of rows, before tasks are read.

        Args:
            rows: of the ledger.

        Raises:
            UserError: for a row that the ledger does not have, or something that is no pair.
        """
        known = list(dict.fromkeys(rows))
        for pair in self.compare:
            if isinstance(pair, str) or len(pair) != 2:
                raise UserError(f"evaluate_module.compare: {pair!r} is no pair; write [('one row', 'another'), ...]")
            for name in pair:
                if name not in known:
                    raise UserError(f"evaluate_module.compare: there is no row {name!r}; there are {', '.join(known)}")

    def check_data_sets(self, tasks: Iterable[str]) -> None:
        """Looks at the names of data sets, before anything is evaluated.

        Args:
            tasks: of the ledger.

        Raises:
            UserError: for a data set that the ledger does not have.
        """
        found = list(templates.by_data_set(tasks))
        for setting, names in {"held_out": self.held_out, "averaged": self.averaged or ()}.items():
            for name in names:
                if name not in found:
                    where = f"evaluate_module.{setting}"
                    raise UserError(f"{where}: {name!r} is no data set of this ledger; it has {', '.join(found)}")


class DataSets:
    """The figures of a ledger by row, seed and data set.

    Attributes:
        figures: all of them.
        rows: row → for each seed its results, by task.
        tasks: data set → its templates.
    """

    def __init__(self, figures: Sequence[Figure], layout: Layout) -> None:
        """Sorts the figures.

        Args:
            figures: of every row on every task.
            layout: what is set apart, averaged and compared.
        """
        self.figures, self._layout = figures, layout
        found: dict[str, dict[object, dict[str, TaskResult]]] = {figure.subject.row: {} for figure in figures}
        for figure in figures:
            found[figure.subject.row].setdefault(figure.subject, {})[figure.result.task] = figure.result
        self.rows = {row: list(seeds.values()) for row, seeds in found.items()}
        self.tasks = templates.by_data_set(dict.fromkeys(figure.result.task for figure in figures))
        self._merged = {row: [templates.merged(seed) for seed in seeds] for row, seeds in self.rows.items()}
        self._metric = {name: first_metric(result)[0] for name, result in next(iter(self._merged.values()))[0].items()}

    def losses(self) -> list[Figure]:
        """Returns a figure a data set, row and seed, for the picture: its loss in nats per token, and no accuracy."""
        by_subject = dict.fromkeys(figure.subject for figure in self.figures)
        merged = [line for seeds in self._merged.values() for line in seeds]
        return [
            Figure(subject, {}, 0.0, dataclasses.replace(result, metrics={}, intervals={}, majority_rate=None))
            for subject, line in zip(by_subject, merged, strict=True)
            for result in line.values()
        ]

    def markdown(self) -> str:
        """Returns the tables: data sets trained on, or all, then those held out."""
        held_out = [name for name in self.tasks if name in self._layout.held_out]
        others = [name for name in self.tasks if name not in held_out]
        sections = {"All data sets": others} if not held_out else {"Trained on": others, "Held out": held_out}
        parts = [LEGEND]
        for title, names in sections.items():
            parts += [f"## {title}", *self._section(names)] if names else []
        return "\n\n".join(parts)

    def csv(self) -> str:
        """Returns every figure of every template, as a CSV file."""
        out = io.StringIO()
        titles = "row,module,seed,data set,template,split,examples,metric,value,low,high"
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([*titles.split(","), "nats per token", "nats per target", "majority"])
        for figure in self.figures:
            subject, result = figure.subject, figure.result
            name, value = first_metric(result)
            low, high = (result.nats_interval if name == LOSS else result.intervals.get(name)) or ("", "")
            data_set = templates.data_set_of(result.task)
            template = result.task.removeprefix(data_set)[1:] or result.task
            row = [subject.row, subject.module, subject.seed, data_set, template, result.split, result.examples]
            nats = [result.nats_per_token, result.nats_per_example]
            writer.writerow([*row, name, value, low, high, *nats, result.majority_rate])
        return out.getvalue()

    def _section(self, names: Sequence[str]) -> list[str]:
        """Tables of some data sets: likelihoods, metrics, differences."""
        parts = []
        for unit, value in {"token": "nats_per_token", "target": "nats_per_example"}.items():
            parts += [
                f"Log-likelihood of the targets, nats per {unit}; more is better.",
                self._nats(names, operator.attrgetter(value)),
            ]
        judged = [name for name in names if self._metric[name] != LOSS]
        if judged:
            shown = ", ".join(dict.fromkeys(self._metric[name] for name in judged))
            parts += [f"{shown[0].upper()}{shown[1:]}.", self._metrics(judged)]
        for first, second in self._layout.compare:
            parts += [
                f"{first}, minus {second}: paired differences, with 95% intervals over the examples.",
                self._compared(first, second, names),
            ]
        return parts

    def _nats(self, names: Sequence[str], value: Callable[[TaskResult], float]) -> str:
        averaged, others = self._averaged(names)
        lines = {name: [*self._facts(name), *self._cells(lambda line, n=name: value(line[n]))] for name in names}
        rows = [[name, *lines[name]] for name in averaged]
        rows += [[_average(len(averaged)), *self._means(averaged, value)]] if averaged else []
        rows += [[f"{name} (not averaged)", *lines[name]] for name in others]
        rows += [[f"average over all {len(names)}", *self._means(names, value)]] if others else []
        return markdown([*_FACTS, *self.rows], rows)

    def _means(self, names: Sequence[str], value: Callable[[TaskResult], float]) -> list[str]:
        return ["", "", *self._cells(lambda line: statistics.fmean(value(line[name]) for name in names))]

    def _metrics(self, names: Sequence[str]) -> str:
        """The averaged ones, their average (one for each metric), then the others."""
        averaged, others = self._averaged(names)
        rows = [self._metric_line(name) for name in averaged]
        for metric, group in self._by_metric(averaged).items():
            means = self._cells(lambda line, m=metric, g=group: statistics.fmean(line[name].metrics[m] for name in g))
            rows.append([_average(len(group)), "", "", metric, "", *means])
        rows += [[f"{name} (not averaged)", *cells] for name, *cells in map(self._metric_line, others)]
        return markdown([*_FACTS, "metric", "majority", *self.rows], rows)

    def _metric_line(self, name: str) -> list[str]:
        metric, cells = self._metric[name], []
        for seeds in self._merged.values():
            values = [line[name].metrics[metric] for line in seeds]
            quartiles = _quartiles([line[name].intervals.get(metric) for line in seeds])
            cells.append(f"{statistics.fmean(values):.3f}{quartiles}{deviation(values)}")
        majority = next(iter(self._merged.values()))[0][name].majority_rate
        return [name, *self._facts(name), metric, "" if majority is None else f"{majority:.3f}", *cells]

    def _compared(self, first: str, second: str, names: Sequence[str]) -> str:
        averaged = self._averaged(names)[0]
        measures = {
            "nats per token": (NATS_PER_TOKEN, names, averaged),
            "nats per target": (NATS_PER_TARGET, names, averaged),
        }
        for metric, own in self._by_metric(names).items():
            if metric != LOSS:
                measures[metric] = (comparison.metric(metric), own, [name for name in own if name in averaged])
        columns = []
        for measure, own, chosen in measures.values():
            pairs = {n: comparison.paired(self.rows[first], self.rows[second], self.tasks[n], measure) for n in own}
            found = {name: difference for name, difference in pairs.items() if difference}
            mean = [found[name] for name in chosen if name in found]
            last = f"{comparison.average(mean).text()} over {len(mean)}" if mean else ""
            columns.append([*(found[name].text() if name in found else "" for name in names), last])
        return markdown(["data set", *measures], list(zip([*names, "average"], *columns, strict=True)))

    def _averaged(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        chosen = names if self._layout.averaged is None else self._layout.averaged
        return [name for name in names if name in chosen], [name for name in names if name not in chosen]

    def _by_metric(self, names: Sequence[str]) -> dict[str, list[str]]:
        return {
            metric: [name for name in names if self._metric[name] == metric]
            for metric in dict.fromkeys(self._metric[name] for name in names)
        }

    def _facts(self, name: str) -> list[str]:
        result = next(iter(self._merged.values()))[0][name]
        return [str(len(self.tasks[name])), f"{result.examples} ({result.split})"]

    def _cells(self, value: Callable[[Mapping[str, TaskResult]], float]) -> list[str]:
        """Of each row the mean over its seeds, and their standard deviation."""
        lines = [[value(line) for line in seeds] for seeds in self._merged.values()]
        return [f"{statistics.fmean(values):.3f}{deviation(values)}" for values in lines]


def _quartiles(of_seeds: Sequence[Interval | None]) -> str:
    """Means over the seeds; of a task that is no template, they are an interval."""
    found = [quartiles for quartiles in of_seeds if quartiles]
    return f" [{', '.join(f'{statistics.fmean(ends):.3f}' for ends in zip(*found, strict=True))}]" if found else ""


def _average(count: int) -> str:
    return f"average over {count}"
