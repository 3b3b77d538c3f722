"""`--run_mode=compare_answers`: written answers of many runs to the same questions, side by side. Loads no LM, no data.

MODEL_DIR/answers.md     exact match, F1 and what was packed, by row and inputs, with paired differences
MODEL_DIR/answers.png    F1, and how often all gold passages were packed, against the length of the inputs

A run leaves its answers in MODEL_DIR/predictions; one whose method packs passages leaves a file a length, TASK@LENGTH,
and one whose method reads N candidates two for each N: TASK@N, and TASK@N-scored, which becomes a row of its own.
"""

from __future__ import annotations

import collections
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gin
import numpy as np
from jaxtyping import Float

from frozen_jax import checkpoints, cloud_storage, drawing, intervals
from frozen_jax.errors import UserError
from frozen_jax.runs import report
from frozen_jax.runs.modules import Given, by_row
from frozen_jax.text_metrics import METRICS, is_yes_or_no

_WITH_F1 = ("squad", "hotpotqa")
_TITLES = [
    "",
    "inputs",
    "seeds",
    "trained",
    "gold packed",
    "EM",
    "F1",
    "F1 of yes/no",
    "F1 of the others",
    "seconds",
    "difference",
]
_NOTE = (
    "Means over the seeds; 95% intervals over the questions in brackets, each with the mean of its seeds; "
    "behind ±, the standard deviation over the seeds. *Inputs*: the most tokens of passages and question, how many "
    "passages where no tokens are counted, or how many samples the candidates come from. *Gold packed*: for how many "
    "questions all gold passages stand in the input. *Seconds*: to read and answer one; to find and rank its passages "
    "comes on top. *Difference*: of F1, by question, from "
)


_ROOM = " *Of the room*: which share of the exact match from *{}* to *{}*."


class Cell(NamedTuple):
    """What the seeds of a row answered to the questions of one file.

    Attributes:
        exact_match: [seeds, N].
        f1: [seeds, N].
        passages: how many an input holds at most.
        packed: [N] whether all gold passages stand in the input; nan where nothing is known.
        yes_no: [N] whether the answer is yes or no.
        seconds: to read and answer a question, the median; nan where nobody looked.
        questions: their numbers in the split.
    """

    exact_match: Float[np.ndarray, "seeds N"]
    f1: Float[np.ndarray, "seeds N"]
    passages: int
    packed: Float[np.ndarray, " N"]
    yes_no: Float[np.ndarray, " N"]
    seconds: float
    questions: tuple[int, ...]


Cells = Mapping[int | None, Cell]  # by length or n; None where nothing is said of either


@gin.configurable
def compare_answers(
    directory: str = gin.REQUIRED,
    runs: Given = gin.REQUIRED,
    against: str | None = None,
    upper: str | None = None,
    *,
    task: str | None = None,
    split: str = "test",
    metric: str = "squad",
) -> None:
    """Compares the answers that runs have left in their folders; writes and prints the table, and draws the picture.

    Args:
        directory: where to write, local or gs://.
        runs: {row: its seeds' run folders, or one}; "run_{0,1}" is short for "run_0", "run_1".
        against: the row from which the others differ; None is the first.
        upper: the row of an upper bound, such as the oracle among candidates: how much of the room between `against`
            and it do the others gain?
        task: whose answers; None where every run has answered one task.
        split: of the task.
        metric: out of `text_metrics.METRICS`, one that gives exact_match and f1.

    Raises:
        UserError: for a folder without answers, questions that are not the same, an unknown row or metric.
    """
    if metric not in _WITH_F1:
        raise UserError(f"compare_answers.metric is {metric!r}; choose from {', '.join(_WITH_F1)}")
    given = by_row(runs, "compare_answers.runs")
    rows: dict[str, Cells] = {}
    trained: dict[str, str] = {}
    for row, paths in given.items():
        found = _read_row(row, paths, task, split, metric)
        rows.update(found)
        trained |= dict.fromkeys(found, _trained(paths[0]))
    reference = next(iter(rows)) if against is None else against
    for name, named in (("against", reference), ("upper", upper)):
        if named is not None and named not in rows:
            raise UserError(f"compare_answers.{name}: there is no row {named!r}; there are {', '.join(rows)}")
    _check_same_questions(rows)
    lines = [
        [
            row,
            _shown(length, cell),
            str(len(cell.f1)),
            trained[row],
            *_figures(cell),
            _difference(cell, length, rows[reference]),
            *([] if upper is None else [_share(cell, length, rows[reference], rows[upper])]),
        ]
        for row, cells in rows.items()
        for length, cell in cells.items()
    ]
    titles = _TITLES if upper is None else [*_TITLES, "of the room"]
    folder = cloud_storage.open_path(directory)
    picture = "![F1 and packed gold passages against the length of inputs](answers.png)"
    note = f"{_NOTE}*{reference}*." + ("" if upper is None else _ROOM.format(reference, upper))
    text = f"# Answers\n\n{picture}\n\n{report.markdown(titles, lines)}\n\n{note}\n"
    with cloud_storage.refusals_explained(folder):
        cloud_storage.write_whole(folder / "answers.png", drawing.png(draw(rows)))
        cloud_storage.write_whole(folder / "answers.md", text)
    print(f"{text}\nPicture: {folder}")


def draw(rows: Mapping[str, Cells]) -> Any:
    """Draws F1, and how often all gold passages are packed, against the length of the inputs.

    Args:
        rows: name → its cells; a row without lengths is a horizontal line.

    Returns:
        A matplotlib figure, see `drawing.png`.
    """
    figure = drawing.new_figure(10.0, 4.5)
    left, right = figure.subplots(1, 2)
    for (row, cells), colour in zip(rows.items(), drawing.colours(len(rows)), strict=True):
        means = {length: 100 * cell.f1.mean() for length, cell in cells.items()}
        if (only := means.pop(None, None)) is not None:
            left.axhline(only, color=colour, linestyle="--", label=row)
        if not means:
            continue
        bounds = np.array([intervals.of_mean(100 * cells[length].f1.mean(axis=0)) for length in means])
        left.plot([*means], [*means.values()], color=colour, marker="o", label=row)
        left.fill_between([*means], bounds[:, 0], bounds[:, 1], color=colour, alpha=0.15, linewidth=0)
        packed = {length: 100 * cells[length].packed.mean() for length in means}
        if not any(map(math.isnan, packed.values())):
            right.plot([*packed], [*packed.values()], color=colour, marker="o", label=row)
    lengths = sorted({length for cells in rows.values() for length in cells if length is not None})
    for place, title in ((left, "F1"), (right, "questions with all gold passages packed, %")):
        if lengths:
            place.set_xscale("log", base=2)
            place.set_xticks(lengths, [str(length) for length in lengths])
        place.set_xlabel("tokens of the input, or samples")
        place.set_ylabel(title)
        place.set_ylim(bottom=0)
        place.grid(alpha=0.3)
    left.legend(fontsize=8)
    return figure


def _read_row(row: str, paths: Sequence[str], task: str | None, split: str, metric: str) -> Mapping[str, Cells]:
    """A row, or two where its runs have answered in two ways."""
    found: dict[tuple[str, int | None], list[list[dict]]] = collections.defaultdict(list)
    for path in paths:
        for key, lines in _read_run(path, task, split).items():
            found[key].append(lines)
    for (how, length), seeds in found.items():
        if len(seeds) != len(paths):
            which = f"inputs of {length} tokens" if how == "" else f"{length} {how}"
            raise UserError(f"compare_answers.runs: not all seeds of {row!r} have answers with {which}")
    rows: dict[str, dict[int | None, Cell]] = {}
    for (how, length), seeds in sorted(found.items(), key=lambda item: (item[0][0], item[0][1] or 0)):
        rows.setdefault(f"{row}, {how}" if how else row, {})[length] = _cell(row, seeds, metric)
    return rows


def _read_run(path: str, task: str | None, split: str) -> dict[tuple[str, int | None], list[dict]]:
    """The lines of each of a run's files, by what its name says behind the task's: how it answered, and the number."""
    folder = cloud_storage.open_path(path) / "predictions"
    found, tasks = {}, set()
    for file in sorted(folder.glob(f"*-{split}.jsonl")) if folder.is_dir() else []:
        name, _, inputs = file.name.removesuffix(f"-{split}.jsonl").partition("@")
        if task in (None, name):
            tasks.add(name)
            length, _, how = inputs.partition("-")
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            found[how, int(length) if length else None] = lines
    if len(tasks) > 1:
        raise UserError(f"{folder} holds answers to {', '.join(sorted(tasks))}; name one as compare_answers.task")
    if not found:
        wanted = f"{task or 'TASK'}-{split}.jsonl"
        raise UserError(
            f"{folder} holds no {wanted}; answer that split first, with train.report_split or --run_mode=eval"
        )
    return found


def _cell(row: str, seeds: Sequence[Sequence[Mapping[str, Any]]], metric: str) -> Cell:
    first = seeds[0]
    if any([line["index"] for line in lines] != [line["index"] for line in first] for lines in seeds):
        raise UserError(f"compare_answers.runs: the seeds of {row!r} have answered different questions")
    figures = [[METRICS[metric]([_answers(line)], [line["prediction"]]) for line in lines] for lines in seeds]
    return Cell(
        exact_match=np.array([[one["exact_match"] for one in lines] for lines in figures]),
        f1=np.array([[one["f1"] for one in lines] for lines in figures]),
        passages=max(len(line.get("passages", ())) for line in first),
        packed=np.array([_packed(line) for line in first]),
        yes_no=np.array([float(is_yes_or_no(_answers(line))) for line in first]),
        seconds=statistics.median(line.get("seconds", math.nan) for lines in seeds for line in lines),
        questions=tuple(line["index"] for line in first),
    )


def _answers(line: Mapping[str, Any]) -> list[str]:
    return line.get("answers", [line["targets"]])


def _packed(line: Mapping[str, Any]) -> float:
    if "passages" not in line or "gold" not in line:
        return math.nan
    return float({*line["gold"]} <= {passage["id"] for passage in line["passages"]})


def _check_same_questions(rows: Mapping[str, Cells]) -> None:
    asked = {cell.questions: row for row, cells in rows.items() for cell in cells.values()}
    if len(asked) > 1:
        one, other, *_ = asked.values()
        raise UserError(f"compare_answers.runs: {one!r} and {other!r} have answered different questions")


def _figures(cell: Cell) -> list[str]:
    packed = "" if math.isnan(cell.packed.mean()) else f"{100 * cell.packed.mean():.1f}"
    parts = []
    for chosen in (cell.yes_no == 1, cell.yes_no == 0):
        parts.append(f"{100 * cell.f1[:, chosen].mean():.1f} ({chosen.sum()})" if chosen.any() else "")
    seconds = "" if math.isnan(cell.seconds) else f"{cell.seconds:.2f}"
    return [packed, _with_interval(cell.exact_match), _with_interval(cell.f1), *parts, seconds]


def _with_interval(values: Float[np.ndarray, "seeds N"]) -> str:
    low, high = intervals.of_mean(100 * values.mean(axis=0))
    return (
        f"{100 * values.mean():.1f} [{low:.1f}, {high:.1f}]{report.deviation((100 * values.mean(axis=1)).tolist(), 1)}"
    )


def _difference(cell: Cell, length: int | None, reference: Cells) -> str:
    other = reference.get(length, reference.get(None))
    if other is None or other is cell:
        return ""
    values = 100 * (cell.f1.mean(axis=0) - other.f1.mean(axis=0))
    low, high = intervals.bootstrap(lambda rows: {"": float(values[rows].mean())}, len(values), 1000)[""]
    return f"{values.mean():+.1f} [{low:+.1f}, {high:+.1f}]"


def _share(cell: Cell, length: int | None, reference: Cells, bound: Cells) -> str:
    """What is gained, as a share of what could be."""
    start, end = reference.get(length, reference.get(None)), bound.get(length)
    if start is None or end is None or cell is start or cell is end:
        return ""
    room = end.exact_match.mean() - start.exact_match.mean()
    return f"{100 * (cell.exact_match.mean() - start.exact_match.mean()) / room:+.0f}%" if room > 0 else ""


def _trained(path: str) -> str:
    """Of an answering that trained nothing, of the LM alone for instance, nothing."""
    try:
        shapes = checkpoints.read_description(checkpoints.find(path))["trained"].values()
    except UserError:
        return ""
    return f"{sum(math.prod(shape) for shape in shapes):,}"


def _shown(length: int | None, cell: Cell) -> str:
    if length is not None:
        return str(length)
    return f"{cell.passages} passages" if cell.passages else "question"
