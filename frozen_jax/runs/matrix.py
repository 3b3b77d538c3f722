"""The ledger's figures as a matrix: a row a training, a column a task, and what changed against the frozen LM alone."""

from __future__ import annotations

import dataclasses
import re
import statistics
from collections.abc import Mapping, Sequence

from frozen_jax.evaluation import TaskResult
from frozen_jax.intervals import Interval
from frozen_jax.runs.report import markdown
from frozen_jax.templates import LOSS_TITLE

ALONE = "frozen LM alone"


@dataclasses.dataclass(frozen=True)
class Subject:
    """What was evaluated: a module, or the frozen LM alone.

    Attributes:
        row: of the matrix.
        identity: a hash that another training in the same folder does not have.
        module: the saved step.
        method: the name of its method's class.
        seed: of its training.
        trained_on: the task or mixture of its training.
        trained: how many numbers it holds.
        keeps_lm: whether the LM beside it stays as it is.
    """

    row: str
    identity: str = ""
    module: str = ""
    method: str = ""
    seed: int | None = None
    trained_on: str = ""
    trained: int = 0
    keeps_lm: bool = True

    @property
    def folder(self) -> str:
        """A name for files about it."""
        return "-".join([re.sub(r"[^\w.-]+", "_", self.row), *([self.identity[:8]] if self.identity else [])])


FROZEN = Subject(ALONE)


@dataclasses.dataclass(frozen=True)
class Figure:
    """What a module, or the frozen LM alone, did on one task.

    Attributes:
        subject: what was evaluated.
        lengths: the most tokens of the task's features.
        seconds: that the evaluation took.
        result: metrics, likelihoods and their intervals over the examples.
    """

    subject: Subject
    lengths: dict[str, int]
    seconds: float
    result: TaskResult

    @property
    def name(self) -> str:
        """Of what is shown: the task's first metric, or its loss where it has none."""
        return next(iter(self.result.metrics), LOSS_TITLE)

    @property
    def value(self) -> float:
        """What is shown; a loss is positive."""
        return -self.result.nats_per_token if self.name == LOSS_TITLE else self.result.metrics[self.name]

    @property
    def interval(self) -> Interval | None:
        """Of the value, 95% over the examples."""
        if self.name != LOSS_TITLE:
            return self.result.intervals.get(self.name)
        return self.result.nats_interval and (-self.result.nats_interval[1], -self.result.nats_interval[0])

    def values(self) -> dict[str, float]:
        """Returns all that was measured."""
        return {**self.result.metrics, "nats_per_token": self.result.nats_per_token}

    def line(self) -> str:
        """Returns one line for who watches."""
        seed = f", seed {self.subject.seed}" if self.subject.module else ""
        return f"{self.subject.row}{seed}: {self.result.task} {self.name} {self.text()} ({self.seconds:.0f} s)"

    def text(self) -> str:
        """Returns the value, with its interval over the examples in square brackets."""
        return f"{self.value:.3f}" + (f" [{self.interval[0]:.3f}, {self.interval[1]:.3f}]" if self.interval else "")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One row on one task.

    Attributes:
        figures: one a seed.
    """

    figures: Sequence[Figure]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(figure.value for figure in self.figures)

    def range_text(self) -> str:
        """Returns the lowest and the highest of the seeds."""
        values = [figure.value for figure in self.figures]
        return f"({min(values):.3f} to {max(values):.3f})"

    @property
    def is_own(self) -> bool:
        """Whether this is the task that the row was trained on."""
        return all(figure.subject.trained_on == figure.result.task for figure in self.figures)

    @property
    def keeps_lm(self) -> bool:
        """Whether the LM beside the row's modules stays as it is."""
        return all(figure.subject.keeps_lm for figure in self.figures)


class Matrix:
    """The figures by row and task, in the order in which they came, and a row for each method that keeps its LM.

    That row is what the paper argues for: one LM that does each task with the module trained on it, and everything else
    as it always did. It is put together from figures of the others.

    Attributes:
        figures: all of them.
        rows: their names; the first is the frozen LM alone.
        tasks: the columns.
        methods: of every row; empty for the frozen LM alone.
    """

    def __init__(self, figures: Sequence[Figure]) -> None:
        """Sorts the figures into cells."""
        self.figures = figures
        self.tasks = list(dict.fromkeys(figure.result.task for figure in figures))
        cells: dict[str, dict[str, Cell]] = {figure.subject.row: {} for figure in figures}
        for row, line in cells.items():
            for task in self.tasks:
                line[task] = Cell([f for f in figures if (f.subject.row, f.result.task) == (row, task)])
        self.methods = {row: line[self.tasks[0]].figures[0].subject.method for row, line in cells.items()}
        self._measured, self._cells = list(cells), {}
        for method in dict.fromkeys(self.methods.values()):
            lines = {row: line for row, line in cells.items() if self.methods[row] == method}
            self._cells |= lines | self._own_modules(method, list(lines.values()))
        self.rows = list(self._cells)

    def _own_modules(self, method: str, lines: Sequence[Mapping[str, Cell]]) -> dict[str, dict[str, Cell]]:
        """For each task the first row of a method that was trained on it, for the others the LM alone."""
        own = {task: cell for line in reversed(lines) for task, cell in line.items() if cell.is_own}
        if len(own) < 2 or not all(cell.keeps_lm for line in lines for cell in line.values()):
            return {}
        title = f"each task's own {method}"
        self.methods[title] = method
        return {title: {**self._cells[ALONE], **own}}

    def cell(self, row: str, task: str) -> Cell:
        """Returns what a row did on a task."""
        return self._cells[row][task]

    def change(self, row: str, task: str) -> float:
        """Returns a cell's mean minus that of the frozen LM alone; of a loss, more is worse."""
        return self.cell(row, task).mean - self.cell(ALONE, task).mean

    def scale(self, task: str) -> float:
        """Returns what a column counts as the whole: 100 for metrics in percent."""
        is_percent = any(figure.value > 1 for line in self._cells.values() for figure in line[task].figures)
        return 100.0 if is_percent and not self.is_loss(task) else 1.0

    def metric(self, task: str) -> str:
        """Returns what a column shows."""
        return self.cell(ALONE, task).figures[0].name

    def is_loss(self, task: str) -> bool:
        """Returns whether a column shows a loss: less is better."""
        return self.metric(task) == LOSS_TITLE

    def result(self, task: str) -> TaskResult:
        """Returns the result of the frozen LM alone, for what all results of a task share."""
        return self.cell(ALONE, task).figures[0].result

    def markdown(self) -> str:
        """Returns Markdown tables: means, changes, and every module with its intervals."""
        titles = [f"{task}, {self.metric(task)}" for task in self.tasks]
        means = [[row, *(self._shown(row, task) for task in self.tasks)] for row in self.rows]
        majority = ["one constant answer", *(_rate(self.result(task)) for task in self.tasks)]
        examples = ["examples", *(_examples(self.result(task)) for task in self.tasks)]
        changes = [[row, *(self._changed(row, task) for task in self.tasks)] for row in self.rows if row != ALONE]
        parts = [
            "Means over the seeds, in round brackets the lowest and highest of them; in square brackets, of a single "
            "run, its 95% interval over the examples. Bold: the task that the row was trained on.",
            markdown(["", *titles], [*means, majority, examples]),
        ]
        if not changes:
            return "\n\n".join(parts)
        parts += [
            f"The same minus the {ALONE}. Of nats per token, a loss, more is worse.",
            markdown(["", *titles], changes),
            "Every module, with 95% intervals over the examples.",
            markdown(["", "module", "trained numbers", "seed", *titles], self._every_module()),
        ]
        return "\n\n".join(parts)

    def _shown(self, row: str, task: str) -> str:
        cell = self.cell(row, task)
        text = cell.figures[0].text() if len(cell.figures) == 1 else f"{cell.mean:.3f} {cell.range_text()}"
        return f"**{text}**" if cell.is_own else text

    def _changed(self, row: str, task: str) -> str:
        text = f"{self.change(row, task):+.3f}"
        return f"**{text}**" if self.cell(row, task).is_own else text

    def _every_module(self) -> list[list[str]]:
        lines = []
        for row in self._measured:
            for figures in zip(*(self.cell(row, task).figures for task in self.tasks), strict=True):
                it = figures[0].subject
                about = [it.module, f"{it.trained:,}", str(it.seed)] if it.module else ["", "", ""]
                lines.append([row, *about, *(figure.text() for figure in figures)])
        return lines


def _rate(result: TaskResult) -> str:
    return "" if result.majority_rate is None else f"{result.majority_rate:.3f}"


def _examples(result: TaskResult) -> str:
    whole = "" if result.examples == result.split_size else f" of {result.split_size}"
    return f"{result.examples}{whole} ({result.split})"
