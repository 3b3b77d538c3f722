"""`--run_mode=curves`: learning curves of runs, out of the metrics that they left. Loads no LM and no data.

MODEL_DIR/curves.png     a validation metric against the examples seen
MODEL_DIR/curves.md      where every row ended, how long that took, and how much it trains
MODEL_DIR/collapse.png   where asked for: methods against the number of data sets in their mixtures
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import gin
from etils import epath

from frozen_jax import checkpoints, cloud_storage, drawing
from frozen_jax.errors import UserError
from frozen_jax.metrics import read_evaluations, read_metrics
from frozen_jax.runs import report
from frozen_jax.runs.collapse import by_mixture_size, rows_of
from frozen_jax.runs.curve_picture import Curve, draw_collapse, draw_curves, in_common
from frozen_jax.runs.modules import Given, by_row, expanded
from frozen_jax.templates import LOSS_TITLE

_PREFERRED = ("mean_nats_per_token", "mean")  # the first is much the less noisy
_NOTE = (
    "Values are those of the last evaluation that all seeds of a row have, mean ± standard deviation over the seeds. "
    "Examples seen are steps times the batch size, which is examples_per_second times seconds_per_step of the run's "
    "metrics.jsonl. Time is that of training up to there, compilation included, evaluations not; the mean over seeds."
)


@dataclasses.dataclass(frozen=True)
class _Run:
    """One seed's run.

    Attributes:
        path: its folder.
        batch_size: examples a step.
        seconds_per_step: on average.
        evaluations: its validation metrics, each with its step.
        trained: parameters.
    """

    path: str
    batch_size: int
    seconds_per_step: float
    evaluations: Sequence[Mapping[str, Any]]
    trained: int

    def curve(self, metric: str) -> Curve:
        """One metric, at the evaluations that have it."""
        found = [line for line in self.evaluations if metric in line]
        return Curve([line["step"] * self.batch_size for line in found], [line[metric] for line in found])


@gin.configurable
def curves(
    directory: str = gin.REQUIRED,
    runs: Given = gin.REQUIRED,
    metric: str | None = None,
    *,
    collapse: Mapping[str, str | Sequence[str]] | None = None,
    alone: Sequence[str] = (),
) -> None:
    """Draws the learning curves of runs, and writes and prints the table of where they ended.

    Args:
        directory: where to write, local or gs://.
        runs: {row: its seeds' run folders, or one}, or run folders; "run_{0,1}" is short for "run_0", "run_1".
        metric: of the validation metrics; None is mean_nats_per_token if all runs have it, else mean.
        collapse: {method: run folders on mixtures of different sizes}, for the picture of what is left of a method
            where it serves more data sets.
        alone: run folders of static prompts for one data set each, which that picture compares with.

    Raises:
        UserError: for a folder without metrics, evaluations or a checkpoint, an unknown metric, and as
            `collapse.by_mixture_size`.
    """
    rows = {row: [_read(path) for path in paths] for row, paths in by_row(runs, "curves.runs").items()}
    measure = _metric([run for found in rows.values() for run in found], metric)
    drawn = {row: [run.curve(measure) for run in found] for row, found in rows.items()}
    table = report.markdown(
        ["", "seeds", "examples seen", measure, "training time", "trained parameters"],
        [[row, *_cells(row, found, drawn[row])] for row, found in rows.items()],
    )
    folder = cloud_storage.open_path(directory)
    with cloud_storage.refusals_explained(folder):
        cloud_storage.write_whole(folder / "curves.png", drawing.png(draw_curves(drawn, measure)))
        text = f"# Learning curves\n\n![{measure} against examples seen](curves.png)\n\n{table}\n\n{_NOTE}\n"
        text += _collapse(folder, collapse, alone) if collapse else ""
        cloud_storage.write_whole(folder / "curves.md", text)
    print(f"{text}\nPictures: {folder}")


def _collapse(folder: epath.Path, methods: Mapping[str, str | Sequence[str]], alone: Sequence[str]) -> str:
    """Draws MODEL_DIR/collapse.png and returns what stands about it in curves.md."""
    paths = {method: expanded(given) for method, given in methods.items()}
    found, reference, averaged = by_mixture_size(paths, expanded(alone))
    cloud_storage.write_whole(folder / "collapse.png", drawing.png(draw_collapse(found, reference, LOSS_TITLE)))
    titles = ["", "averaged data sets", "seeds", LOSS_TITLE, "a static prompt for each alone", "difference"]
    picture = "![Methods against the number of data sets in their mixture](collapse.png)"
    return f"\n## Wider mixtures\n\n{picture}\n\n{report.markdown(titles, rows_of(found, reference, averaged))}\n"


def _read(path: str) -> _Run:
    evaluations = read_evaluations(path)
    steps = [line for line in read_metrics(path) if line["kind"] == "train"]
    sizes = {round(line["examples_per_second"] * line["seconds_per_step"]) for line in steps}
    if len(sizes) != 1:
        what = f"batches of {', '.join(map(str, sorted(sizes)))} examples" if sizes else "no training steps"
        raise UserError(f"{path}: its metrics.jsonl has {what}; how many examples a step has seen is not known")
    description = checkpoints.read_description(checkpoints.find(path))
    return _Run(
        path=path,
        batch_size=sizes.pop(),
        seconds_per_step=statistics.fmean(line["seconds_per_step"] for line in steps),
        evaluations=evaluations,
        trained=sum(math.prod(shape) for shape in description["trained"].values()),
    )


def _metric(runs: Sequence[_Run], wanted: str | None) -> str:
    """The metric to draw, which every run has."""
    known = [{name for line in run.evaluations for name in line.keys() - {"kind", "step"}} for run in runs]
    names = _PREFERRED if wanted is None else (wanted,)
    if everywhere := [name for name in names if all(name in found for found in known)]:
        return everywhere[0]
    run, found = next((run, found) for run, found in zip(runs, known, strict=True) if names[-1] not in found)
    close = difflib.get_close_matches(names[-1], sorted(found), n=3, cutoff=0.3) or sorted(found)
    raise UserError(f"{run.path}: no validation metric {names[-1]!r}; it has: {', '.join(close)}")


def _cells(row: str, runs: Sequence[_Run], found: Sequence[Curve]) -> list[str]:
    common = in_common(found)
    if not common:
        raise UserError(f"curves.runs: the seeds of {row!r} were never evaluated after the same number of examples")
    seen, values = max(common.items())
    seconds = statistics.fmean(seen / run.batch_size * run.seconds_per_step for run in runs)
    trained = " or ".join(dict.fromkeys(f"{run.trained:,}" for run in runs))
    shown = f"{statistics.fmean(values):.4f}{report.deviation(values, 4)}"
    return [str(len(runs)), f"{seen:,}", shown, _duration(seconds), trained]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
