"""The ledger's figures as a matrix: a row a training, a column a task, and what changed against the frozen LM alone."""

from __future__ import annotations

import dataclasses
import re
import statistics
from collections.abc import Sequence

from frozen_jax.evaluation import TaskResult
from frozen_jax.intervals import Interval
from frozen_jax.runs.report import markdown

ALONE = "frozen LM alone"
LOSS = "nats per token"


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
    """

    row: str
    identity: str = ""
    module: str = ""
    method: str = ""
    seed: int | None = None
    trained_on: str = ""

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
        return next(iter(self.result.metrics), LOSS)

    @property
    def value(self) -> float:
        """What is shown; a loss is positive."""
        return -self.result.nats_per_token if self.name == LOSS else self.result.metrics[self.name]

    @property
    def interval(self) -> Interval | None:
        """Of the value, 95% over the examples."""
        if self.name != LOSS:
            return self.result.intervals.get(self.name)
        return self.result.nats_interval and (-self.result.nats_interval[1], -self.result.nats_interval[0])

    def values(self) -> dict[str, float]:
        """Returns all that was measured."""
        return {**self.result.metrics, "nats_per_token": self.result.nats_per_token}

    def line(self) -> str:
        """Returns one line for who watches."""
        seed = "" if self.subject.seed is None else f", seed {self.subject.seed}"
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


class Matrix:
    """The figures by row and task, in the order in which they came.

    Attributes:
        figures: all of them.
        rows: their names; the first is the frozen LM alone.
        tasks: the columns.
    """

    def __init__(self, figures: Sequence[Figure]) -> None:
        """Sorts the figures into cells."""
        self.figures = figures
        self.rows = list(dict.fromkeys(figure.subject.row for figure in figures))
        self.tasks = list(dict.fromkeys(figure.result.task for figure in figures))
        cells: dict[tuple[str, str], list[Figure]] = {}
        for figure in figures:
            cells.setdefault((figure.subject.row, figure.result.task), []).append(figure)
        self._cells = {place: Cell(found) for place, found in cells.items()}

    def cell(self, row: str, task: str) -> Cell:
        """Returns what a row did on a task."""
        return self._cells[row, task]

    def change(self, row: str, task: str) -> float:
        """Returns a cell's mean minus that of the frozen LM alone; of a loss, more is worse."""
        return self.cell(row, task).mean - self.cell(ALONE, task).mean

    def metric(self, task: str) -> str:
        """Returns what a column shows."""
        return self.cell(ALONE, task).figures[0].name

    def is_loss(self, task: str) -> bool:
        """Returns whether a column shows a loss: less is better."""
        return self.metric(task) == LOSS

    def result(self, task: str) -> TaskResult:
        """Returns the result of the frozen LM alone, for what all results of a task share."""
        return self.cell(ALONE, task).figures[0].result

    def markdown(self) -> str:
        """Returns three Markdown tables: means, changes, and every module with its intervals."""
        titles = [f"{task}, {self.metric(task)}" for task in self.tasks]
        means = [[row, *(self._shown(row, task) for task in self.tasks)] for row in self.rows]
        majority = ["one constant answer", *(_rate(self.result(task)) for task in self.tasks)]
        examples = ["examples", *(_examples(self.result(task)) for task in self.tasks)]
        changes = [[row, *(self._changed(row, task) for task in self.tasks)] for row in self.rows if row != ALONE]
        parts = [
            "Means over the seeds, in round brackets the lowest and highest of them; in square brackets, of a single "
            "run, its 95% interval over the examples. Bold: the task that the row was trained on.",
            markdown(["", *titles], [*means, majority, examples]),
            f"The same minus the {ALONE}. Of nats per token, a loss, more is worse.",
            markdown(["", *titles], changes),
            "Every module, with 95% intervals over the examples.",
            markdown(["", "module", "seed", *titles], self._every_module()),
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
        for row in self.rows:
            for figures in zip(*(self.cell(row, task).figures for task in self.tasks), strict=True):
                subject = figures[0].subject
                seed = "" if subject.seed is None else str(subject.seed)
                lines.append([row, subject.module, seed, *(figure.text() for figure in figures)])
        return lines


def _rate(result: TaskResult) -> str:
    return "" if result.majority_rate is None else f"{result.majority_rate:.3f}"


def _examples(result: TaskResult) -> str:
    whole = "" if result.examples == result.split_size else f" of {result.split_size}"
    return f"{result.examples}{whole} ({result.split})"
