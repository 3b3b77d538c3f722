"""How well a model does a task: seqio metrics with their intervals, log-likelihoods, and the predictions as a file.

A task's metrics are seqio's: functions of (targets, predictions) or of (targets, scores), after the task's
postprocessor. The whole split is evaluated, the last batch filled up with rows that do not count. seqio itself is not
needed: `data.eval_tasks` hands over what is.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gin
import numpy as np
from etils import epath
from jaxtyping import Int

from frozen_jax import cloud_storage, intervals
from frozen_jax.answering import Answers, EvalExample, EvalTask, Model, Rows, answer
from frozen_jax.errors import UserError
from frozen_jax.intervals import Interval
from frozen_jax.prepared import SHOWN, texts
from frozen_jax.retrieval.chunks import Chunks


@dataclasses.dataclass(frozen=True)
class PerExample:
    """What a model did on each example, for what is measured again on resampled ones.

    Attributes:
        index: places in the split.
        nats: log-likelihoods of the targets.
        tokens: lengths of the targets.
        metrics: the values of each metric that is a mean over the examples; nan for one that it says nothing of.
    """

    index: list[int]
    nats: list[float]
    tokens: list[int]
    metrics: dict[str, list[float]]


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """How well a model does a task.

    Attributes:
        task: its name.
        split: which split.
        examples: how many were evaluated.
        split_size: how many the task makes of the split; more than `examples` if a sample of them was evaluated. It
            is no more than `p3.limits` lets a template of P3 have, however large the data set's split.
        metrics: what the task's metrics say; of one that failed its name, and nan.
        intervals: their 95% intervals over the examples, where one could be had.
        nats_per_example: mean log-likelihood of a target.
        nats_per_token: the same for one target token.
        majority_rate: the share of the most frequent target, where all choose among the same: what one answer earns.
        failures: a line for each metric that failed, naming it and the task.
        nats_interval: the 95% interval of nats_per_token over the examples.
        per_example: the figures behind the means.
    """

    task: str
    split: str
    examples: int
    split_size: int
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    nats_per_example: float
    nats_per_token: float
    majority_rate: float | None
    failures: list[str] = dataclasses.field(default_factory=list)
    nats_interval: Interval | None = None
    per_example: PerExample | None = None


class Kept(NamedTuple):
    """Where answers that are written lie while a split is worked on, so that a killed evaluation goes on.

    Attributes:
        directory: for all of a run's.
        made: what the model is, as JSON.
    """

    directory: epath.PathLike
    made: Mapping[str, Any]


@gin.configurable(denylist=["model", "tasks", "predictions_dir", "kept"])
def evaluate(
    model: Model,
    tasks: Sequence[EvalTask],
    *,
    batch_size: int = 32,
    buckets: Sequence[int] | None = None,
    decode_length: int | None = None,
    normalize_by_length: bool = False,
    scored: bool = True,
    predictions_dir: epath.PathLike | None = None,
    kept: Kept | None = None,
) -> dict[str, TaskResult]:
    """Evaluates a model on tasks.

    Args:
        model: a frozen LM, or a method around one.
        tasks: see `data.eval_tasks`.
        batch_size: the most examples of a batch; the choices of one are scored beside one reading of its inputs.
        buckets: the lengths to which inputs are padded; see `answering.Rows`.
        decode_length: the most tokens to write; by default as many as a target may have.
        normalize_by_length: judge choices by log-likelihood per token instead of their whole.
        scored: whether log-likelihoods are wanted where answers are written; without, they and nats are nan, and inputs
            are read once instead of twice.
        predictions_dir: where to write `TASK-SPLIT.jsonl`, one line an example.
        kept: where to keep written answers, for long inputs and many examples; None keeps none.

    Returns:
        The results, by the task's name. A metric that fails ends nothing: see `TaskResult.failures`.

    Raises:
        UserError: if the longest bucket does not hold an example.
        FloatingPointError: if the model gives a score that is not a number.
    """
    results = {}
    for task in tasks:
        rows = Rows(model, batch_size, buckets, task.name)
        how = (decode_length or task.targets_length, normalize_by_length, scored)
        answers = answer(rows, task, *how) if kept is None else _answered(rows, task, how, kept, 2 * batch_size)
        if predictions_dir is not None:
            write_predictions(epath.Path(predictions_dir) / f"{task.name}-{task.split}.jsonl", task, answers)
        results[task.name] = judge(task, answers)
    return results


def _answered(rows: Rows, task: EvalTask, how: tuple[int, bool, bool], kept: Kept, size: int) -> Answers:
    """What a model says, kept on disk every so many examples; choices are scored too fast to be worth it."""
    if task.examples[0].choices:
        return answer(rows, task, *how)

    def compute(numbers: range) -> dict[str, Any]:
        part = dataclasses.replace(task, examples=task.examples[numbers.start : numbers.stop])
        began, found = time.perf_counter(), answer(rows, part, *how)
        seconds = np.full(len(numbers), (time.perf_counter() - began) / len(numbers))
        texts = found.predictions or [""] * len(numbers)
        return {"text": np.array([text.encode() for text in texts]), "score": found.target_scores, "seconds": seconds}

    read = hashlib.sha256()
    for example in task.examples:
        for tokens in (example.inputs, example.targets, example.encoder_inputs):
            read.update(b"-" if tokens is None else len(tokens).to_bytes(4) + np.asarray(tokens, np.int32).tobytes())
    made = {**kept.made, "task": task.name, "how": list(how), "read": read.hexdigest()}
    chunks = Chunks(kept.directory, f"{task.name}-{task.split}", made, len(task.examples), size)
    if not chunks.missing():
        print(f"{task.name}: the answers were there already; to have them anew, delete {chunks.folder}")
    chunks.fill(compute, "example")
    found = chunks.whole()
    texts = [text.decode() for text in found["text"].tolist()]
    nothing = [{} for _ in task.examples]
    return Answers(texts if task.predict_metrics else None, found["score"], nothing, found["seconds"])


def judge(task: EvalTask, answers: Answers) -> TaskResult:
    """Applies a task's metrics.

    Args:
        task: the task.
        answers: what the model said.

    Returns:
        The result. Where a metric, or the task's postprocessor, raises an exception, it is in `failures`.
    """
    metrics: dict[str, float] = {}
    bounds: dict[str, Interval] = {}
    singles: dict[str, list[float]] = {}
    failures: list[str] = []
    targets = functools.cache(lambda: [_postprocessed(task, e, e.targets_text, True) for e in task.examples])
    for metric, given in _metrics(task, answers):
        try:
            figures = _figures(task, metric, targets(), given())
            found, means = _intervals(task, metric, targets(), given(), figures)
            bounds, singles = bounds | found, singles | means
        except UserError as error:
            failures.append(str(error))
            figures = {_name(metric): math.nan}
        metrics |= figures
    tokens = np.array([len(example.targets) for example in task.examples])
    return TaskResult(
        task=task.name,
        split=task.split,
        examples=len(task.examples),
        split_size=task.split_size,
        metrics=metrics,
        intervals=bounds,
        nats_per_example=float(answers.target_scores.mean()),
        nats_per_token=float(answers.target_scores.sum() / tokens.sum()),
        majority_rate=_majority_rate(task),
        failures=failures,
        nats_interval=None if np.isnan(answers.target_scores[0]) else intervals.of_ratio(answers.target_scores, tokens),
        per_example=PerExample(
            [example.index for example in task.examples], answers.target_scores.tolist(), tokens.tolist(), singles
        ),
    )


def write_predictions(path: epath.Path, task: EvalTask, answers: Answers) -> None:
    """Writes predictions as JSON lines; a file of that name is whole or not there.

    Args:
        path: of the file.
        task: the task.
        answers: what the model said.
    """
    lines = [json.dumps(_prediction(answers, row, example)) for row, example in enumerate(task.examples)]
    with cloud_storage.refusals_explained(path):
        cloud_storage.write_whole(path, "".join(f"{line}\n" for line in lines))


def _metrics(
    task: EvalTask, answers: Answers
) -> Iterator[tuple[Callable[..., Mapping[str, Any]], Callable[[], Sequence[Any]]]]:
    """Each metric with what gives the things that it compares to the targets."""
    texts = answers.predictions
    if texts is not None:
        pairs = list(zip(task.examples, texts, strict=True))
        predictions = functools.cache(lambda: [_postprocessed(task, e, text, False) for e, text in pairs])
        yield from ((metric, predictions) for metric in task.predict_metrics)
    yield from ((metric, answers.target_scores.tolist) for metric in task.score_metrics)


def _postprocessed(task: EvalTask, example: EvalExample, text: str, is_target: bool) -> Any:
    try:
        return task.postprocess(text, example=example.raw, is_target=is_target)
    except Exception as error:
        what = f"the postprocessor of task {task.name} failed on example {example.index} of {task.split}"
        raise UserError(f"{what}: {_cause(error)}") from error


def _figures(
    task: EvalTask, metric: Callable[..., Mapping[str, Any]], targets: Sequence[Any], given: Sequence[Any]
) -> dict[str, float]:
    try:
        return _scalars(metric(targets, given))
    except Exception as error:
        what = f"metric {_name(metric)} of task {task.name} failed on {task.split}"
        raise UserError(f"{what}: {_cause(error)}") from error


def _name(metric: Callable[..., Mapping[str, Any]]) -> str:
    """Of a function, also of one whose arguments `functools.partial` has bound."""
    return getattr(getattr(metric, "func", metric), "__name__", type(metric).__name__)


def _cause(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _scalars(figures: Mapping[str, Any]) -> dict[str, float]:
    """Plain numbers, and those in seqio's `Scalar`; its texts and pictures are left out."""
    values = {name: np.asarray(getattr(figure, "value", figure)) for name, figure in figures.items()}
    return {name: float(value) for name, value in values.items() if value.ndim == 0 and value.dtype.kind in "biuf"}


def _intervals(
    task: EvalTask,
    metric: Callable[..., Mapping[str, Any]],
    targets: Sequence[Any],
    given: Sequence[Any],
    figures: Mapping[str, float],
) -> tuple[dict[str, Interval], dict[str, list[float]]]:
    """Intervals of a metric: of a mean where it is one over the examples, else by measuring resampled examples.

    And, where it is such a mean, its values for the examples. A figure that is about some of the examples is left out,
    or nan, of any other one alone, and a mean over those.
    """

    def measure(rows: Sequence[int] | Int[np.ndarray, " N"]) -> dict[str, float]:
        return _figures(task, metric, [targets[row] for row in rows], [given[row] for row in rows])

    try:
        singles = [measure([row]) for row in range(len(targets))]
        values = {name: np.array([single.get(name, math.nan) for single in singles]) for name in figures}
        told = {name: numbers[~np.isnan(numbers)] for name, numbers in values.items()}
        if all(len(told[name]) and np.isclose(told[name].mean(), figure) for name, figure in figures.items()):
            bounds = {name: intervals.of_mean(numbers) for name, numbers in told.items()}
            return bounds, {name: numbers.tolist() for name, numbers in values.items()}
        return intervals.bootstrap(measure, len(targets)), {}
    except (UserError, KeyError):  # the metric cannot do with some of the examples
        return {}, {}


def _majority_rate(task: EvalTask) -> float | None:
    if len({frozenset(example.choices) for example in task.examples}) != 1 or not task.examples[0].choices:
        return None
    return max(collections.Counter(example.targets_text for example in task.examples).values()) / len(task.examples)


def _prediction(answers: Answers, row: int, example: EvalExample) -> dict[str, Any]:
    line: dict[str, Any] = {"index": example.index, "inputs": example.inputs_text, "targets": example.targets_text}
    if answers.predictions is not None:
        line["prediction"] = answers.predictions[row]
    if not math.isnan(score := float(answers.target_scores[row])):
        line["target_score"] = score
    if answers.seconds is not None:
        line["seconds"] = round(float(answers.seconds[row]), 3)
    known = texts(example)
    line |= {name: known[name] for name in ("question", "answers", "gold", *SHOWN) if name in known}
    return line | ({"choice_scores": answers.choice_scores[row]} if answers.choice_scores[row] else {})
