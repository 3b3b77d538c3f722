"""Where the figures of a run go: beside its progress, into JSON lines and TensorBoard in the run's folder."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from frozen_jax import cloud_storage, progress
from frozen_jax.errors import UserError
from frozen_jax.event_file import EventFile
from frozen_jax.processes import is_first

_FILE = "metrics.jsonl"
_FLUSH_SECONDS = 10


class MetricWriter:
    """Writes metrics of training and evaluation.

    `metrics.jsonl` holds one object a line, with `step` and `kind` ("train" or "eval"). A resumed run first drops the
    lines of steps that will be done again, so that the file reads like that of a run that was never killed.

    Attributes:
        directory: the run's folder.
    """

    def __init__(self, directory: epath.PathLike, *, first_step: int = 0, log_period: int = 10) -> None:
        """Reads what an earlier run wrote.

        Args:
            directory: the run's folder, local or gs://; it is made.
            first_step: the step at which this run starts or resumes.
            log_period: training steps a line; speeds are means over them.
        """
        self.directory = epath.Path(directory)
        self.log_period = log_period
        self._file = self.directory / _FILE
        self._primary = is_first()
        self._lines = _lines_before(self._file, first_step) if self._primary else []
        self._board = EventFile(self.directory / "tensorboard", first_step + 1 if first_step else 0)
        self._bar: Any = None
        self._shown: dict[str, str] = {}  # beside the bar
        self._since = time.perf_counter()
        self._flushed = self._ended = self._since
        self._steps, self._examples, self._real, self._all = 0, 0, 0.0, 0

    @contextlib.contextmanager
    def progress(self, first: int, last: int) -> Iterator[None]:
        """Shows how far it is, and writes what is left at the end."""
        with progress.bar(initial=first, total=last, desc="train", unit="steps") as self._bar:
            self._since = time.perf_counter()
            try:
                yield
            except BaseException:
                with contextlib.suppress(UserError):  # what ended the run matters more
                    self.flush()
                raise
            self.flush()

    def step(self, index: int, metrics: Mapping[str, float], *, examples: int, tokens: int) -> None:
        """Takes the metrics of one training step.

        Args:
            index: the step.
            metrics: as `training.check_finite` returns them.
            examples: rows of the global batch.
            tokens: token positions of the global batch, padding included.
        """
        self._steps += 1
        self._examples += examples
        self._real += metrics["real_tokens"]
        self._all += tokens
        self._shown |= {name: f"{metrics[name]:.3f}" for name in ("loss", "accuracy")}
        if self._bar is not None:
            self._bar.set_postfix(self._shown, refresh=False)
            self._bar.update()
        if (index + 1) % self.log_period == 0:
            self._write("train", index + 1, {**metrics, **self._speed()})
        self._ended = time.perf_counter()

    def _speed(self) -> dict[str, float]:
        now = time.perf_counter()
        seconds = now - self._since
        speed = {
            "seconds_per_step": seconds / self._steps,
            "examples_per_second": self._examples / seconds,
            "real_tokens_per_second": self._real / seconds,
            "padding_tokens_per_second": (self._all - self._real) / seconds,
        }
        self._since, self._steps, self._examples, self._real, self._all = now, 0, 0, 0.0, 0
        return speed

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of an evaluation after `step` steps, without nan; its time does not count as training."""
        self._write("eval", step, {name: value for name, value in metrics.items() if not math.isnan(value)})
        if "mean" in metrics:
            self._shown["validation mean"] = f"{metrics['mean']:.3f}"
        self._since += time.perf_counter() - self._ended

    def _write(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        if not self._primary:
            return
        self._lines.append(json.dumps({"kind": kind, "step": step, **metrics}))
        for name, value in metrics.items():
            self._board.add(f"{kind}/{name}", value, step)
        if time.perf_counter() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes the lines; before every checkpoint, so that a resumed run misses none.

        Raises:
            UserError: if the disk is full, or the bucket refuses.
        """
        self._flushed = time.perf_counter()
        if not self._primary:
            return
        try:
            with cloud_storage.refusals_explained(self.directory):
                cloud_storage.write_whole(self._file, "".join(f"{line}\n" for line in self._lines))
                self._board.flush()
        except OSError as error:
            raise UserError(f"cannot write metrics to {self.directory}: {error.strerror or error}") from error


def read_metrics(directory: epath.PathLike) -> list[dict[str, Any]]:
    """Returns the lines of a run, each with its "kind" and "step".

    Args:
        directory: the run's folder, local or gs://.

    Raises:
        UserError: if it has no metrics.jsonl.
    """
    file = cloud_storage.open_path(directory) / _FILE
    if not file.exists():
        raise UserError(f"{directory}: no {_FILE} there; give the MODEL_DIR of a training")
    return [json.loads(line) for line in _lines_before(file, sys.maxsize)]


def read_evaluations(directory: epath.PathLike) -> list[dict[str, Any]]:
    """Returns the validation metrics of a run, each line with its "step".

    Args:
        directory: the run's folder, local or gs://.

    Raises:
        UserError: if it has no metrics.jsonl, or was never evaluated.
    """
    found = [line for line in read_metrics(directory) if line["kind"] == "eval"]
    if not found:
        raise UserError(f"{directory}: its {_FILE} has no evaluations; train with EVAL_PERIOD")
    return found


def _lines_before(file: epath.Path, step: int) -> list[str]:
    """The lines of an earlier run up to `step`; a last line cut short by a kill is dropped."""
    lines = []
    for line in file.read_text().splitlines() if file.exists() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["step"] <= step:
                lines.append(line)
    return lines
