"""The ledger's memory: every figure in one JSON file, a line each, found again by what it was measured on.

The file is written whole again and again, but only while that takes little of the time: a kill costs the figures of a
moment, and thousands of them, with what was measured on every example, are as quickly kept as ten.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from flax import nnx

from frozen_jax import cloud_storage, freezing, gin_config
from frozen_jax.answering import EvalExample, EvalTask
from frozen_jax.errors import UserError
from frozen_jax.evaluation import PerExample, TaskResult, evaluate
from frozen_jax.lm.base import LanguageModel
from frozen_jax.processes import from_first
from frozen_jax.runs.matrix import Figure, Subject

FORMAT = 2
_SHARE_OF_WRITING = 0.05  # of the time
_INDIFFERENT = ("batch_size", "buckets")  # settings of `evaluate` that change no figure beyond rounding


@dataclasses.dataclass(frozen=True)
class Column:
    """A task, and the lengths that it was read with.

    Attributes:
        task: its examples.
        lengths: the most tokens of its features.
    """

    task: EvalTask
    lengths: Mapping[str, int]

    @property
    def identity(self) -> str:
        """A hash of examples, as tokens, and metrics: another length, split, seed or tokenizer makes another column."""
        examples = [_tokens(example) for example in self.task.examples]
        metrics = [getattr(metric, "__name__", "") for metric in (*self.task.predict_metrics, *self.task.score_metrics)]
        return _hash(self.task.name, self.task.split, json.dumps(examples), *metrics)


def _tokens(example: EvalExample) -> list[Any]:
    """All that a model is given; what an encoder reads is left out where there is none, as it always was."""
    encoder_inputs = [] if example.encoder_inputs is None else [example.encoder_inputs.tolist()]
    choices = [tokens.tolist() for tokens in example.choices.values()]
    return [example.inputs.tolist(), example.targets.tolist(), choices, *encoder_inputs]


class Record:
    """All figures that were measured beside one frozen LM, and what became of it."""

    def __init__(self, path: epath.Path, lm: LanguageModel) -> None:
        """Reads what an earlier evaluation wrote.

        Args:
            path: of the JSON file.
            lm: the frozen LM.

        Raises:
            UserError: if the file is damaged.
        """
        self._path, self._lm = path, lm
        self._digest = digest(lm)
        settings = {name: value for name, value in gin_config.bound_to("evaluate").items() if name not in _INDIFFERENT}
        self._settings = json.dumps(settings, sort_keys=True, default=str)
        self._figures, self._set_aside = _read(path)
        self._lines = {key: _line(figure) for key, figure in self._figures.items()}
        self._not_before = 0.0
        if self._figures:
            print(f"{len(self._figures)} figures were there already; to have them anew, delete {path}")

    def lacks(self, subject: Subject, columns: Sequence[Column]) -> bool:
        """Returns whether anything remains to be measured."""
        return any(self._key(subject, column) not in self._figures for column in columns)

    def figures(self, subject: Subject, model: LanguageModel | None, columns: Sequence[Column]) -> list[Figure]:
        """Returns what a model does on the tasks, measured now where it was not before.

        Args:
            subject: what the model is.
            model: None if nothing is lacking.
            columns: the tasks.
        """
        found = []
        try:
            for column in columns:
                key = self._key(subject, column)
                if key not in self._figures and model is not None:
                    self._add(key, measure(subject, model, column, self._path.parent / "predictions"))
                found.append(dataclasses.replace(self._figures[key], subject=subject))
        finally:
            if model is not None:
                self._write()
        return found

    def set_aside(self, subject: Subject, columns: Sequence[Column]) -> dict[str, Any]:
        """Evaluates the frozen LM alone once more, after all modules, and hashes it, unless nothing was measured since.

        Args:
            subject: the frozen LM alone.
            columns: the tasks.

        Returns:
            `parameters` and `figures`: whether they are bit-identical to those at the start; `largest_difference` of a
            figure.
        """
        if not self._set_aside:
            first = self.figures(subject, None, columns)
            again = [measure(subject, self._lm, column) for column in columns]
            pairs = [(one.values(), other.values()) for one, other in zip(first, again, strict=True)]
            now = digest(self._lm)
            self._set_aside = {
                "sha256": now,
                "parameters": now == self._digest,
                "figures": json.dumps([one for one, _ in pairs]) == json.dumps([other for _, other in pairs]),
                "largest_difference": max(abs(one[name] - other[name]) for one, other in pairs for name in one),
            }
            self._write()
        return self._set_aside

    def _key(self, subject: Subject, column: Column) -> str:
        return _hash(self._digest, subject.identity, column.identity, self._settings)

    def _add(self, key: str, figure: Figure) -> None:
        self._figures[key], self._lines[key] = figure, _line(figure)
        self._set_aside = {}
        if time.monotonic() >= self._not_before:
            self._write()
        print(figure.line(), flush=True)

    def _write(self) -> None:
        began = time.monotonic()
        lm = {"name": vars(self._lm)["name"], "fingerprint": vars(self._lm)["fingerprint"], "sha256": self._digest}
        head = json.dumps({"format": FORMAT, "frozen_lm": lm, "set_aside": self._set_aside})
        figures = ",\n".join(f'"{key}": {line}' for key, line in self._lines.items())
        cloud_storage.write_whole(self._path, f'{head[:-1]}, "figures": {{\n{figures}\n}}}}\n'.encode())
        now = time.monotonic()
        self._not_before = now + (now - began) / _SHARE_OF_WRITING


def measure(subject: Subject, model: LanguageModel, column: Column, predictions: epath.Path | None = None) -> Figure:
    """Evaluates a model on one task.

    Args:
        subject: what the model is.
        model: the frozen LM, or a method around it.
        column: the task.
        predictions: where to write them, in a folder of the subject's.
    """
    began = time.perf_counter()
    folder = predictions / subject.folder if predictions else None
    result = evaluate(model, [column.task], predictions_dir=folder)[column.task.name]
    return Figure(subject, dict(column.lengths), time.perf_counter() - began, result)


def digest(model: nnx.Module) -> str:
    """Returns a hash of all parameters of a model, see `freezing.digest`."""
    return freezing.digest({path: variable[...] for path, variable in nnx.to_flat_state(nnx.state(model))})


def _hash(*texts: str) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def _read(path: epath.Path) -> tuple[dict[str, Figure], dict[str, Any]]:
    """The figures and the last verdict. Where a metric failed the figure is left out, to be measured anew."""
    try:
        text = from_first(lambda: path.read_text() if path.exists() else None)
        if text is None:
            return {}, {}
        found = json.loads(text)
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']}, not {FORMAT}")
        figures = {key: _figure(stored) for key, stored in found["figures"].items()}
        whole = {key: figure for key, figure in figures.items() if not any(map(math.isnan, figure.values().values()))}
        return whole, found["set_aside"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is damaged or of another version ({reason}); delete it to measure anew") from error


def _line(figure: Figure) -> str:
    return json.dumps(dataclasses.asdict(figure))


def _figure(stored: Mapping[str, Any]) -> Figure:
    result = dict(stored["result"])
    result["intervals"] = {name: tuple(bounds) for name, bounds in result["intervals"].items()}
    result["nats_interval"] = result["nats_interval"] and tuple(result["nats_interval"])
    result["per_example"] = PerExample(**result["per_example"])
    return Figure(**{**stored, "subject": Subject(**stored["subject"]), "result": TaskResult(**result)})
