"""`--run_mode=train`: trains a module around a frozen LM and shows what the LM does without it and with it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import gin
import optax
from etils import epath

from frozen_jax import checkpoints, cloud_storage, freezing, gin_config, partitioning, templates, training
from frozen_jax.answering import EvalTask
from frozen_jax.checkpoints import Checkpointer, describe
from frozen_jax.errors import UserError
from frozen_jax.evaluation import evaluate
from frozen_jax.first_pass import keep
from frozen_jax.methods.base import Method, parameter_count
from frozen_jax.metrics import MetricWriter
from frozen_jax.runs import report
from frozen_jax.runs.job import Job


@gin.configurable
def train(
    job: Job = gin.REQUIRED,
    optimizer: optax.GradientTransformation = gin.REQUIRED,
    train_steps: int = gin.REQUIRED,
    *,
    eval_period: int = 0,
    best_metric: str | None = "mean",
    save_period: int = 100,
    report_split: str | None = "test",
    report_alone: bool = True,
    z_loss: float = 0.0,
    accumulation_steps: int = 1,
    log_period: int = 10,
    profile_steps: int = 0,
    first_pass: str | None = None,
    start_from: str | Callable[[], Any] | None = None,
) -> epath.Path:
    """Trains until `train_steps`, going on from the latest checkpoint in the run's folder if there is one.

    Args:
        job: the method, its data and the run's folder.
        optimizer: from optax.
        train_steps: in all, those before a resumption included.
        eval_period: evaluate on the validation split every so many steps; 0 never does.
        best_metric: of those in metrics.jsonl, the one by which the best state is kept in MODEL_DIR/best, which is then
            what is reported, evaluated and inferred with; the more, the better. None keeps none, so that this is the
            last state: for comparisons after the same number of steps, and where validation has few examples.
        save_period: save every so many steps, and at the end.
        report_split: at the end, evaluate the frozen LM alone and with its module on this split; None reports nothing.
        report_alone: also the frozen LM alone.
        z_loss: see `Method.loss`.
        accumulation_steps: microbatches a step.
        log_period: steps a line of metrics.
        profile_steps: how many steps to trace into MODEL_DIR/profile.
        first_pass: a folder in which neural recursion keeps what the first pass makes of every example; None keeps
            nothing, and computes it at every step.
        start_from: another run's folder or saved step, whose trained parameters this run begins with, such as a
            Connector's that was pretrained; or what trains it when it is first wanted (in gin, `@pretraining/train`).

    Returns:
        MODEL_DIR, so that gin can train what another run needs first: `Reranker.checkpoint = @reranker/train`. Nothing
        is read again where all steps were done and nothing is to be reported.

    Raises:
        UserError: for a batch that the mesh or the microbatches do not divide, packed rows where the method has none, a
            `best_metric` that validation does not give, and whatever the parts raise; at the very end, for metrics that
            failed. They do not stop the training.
    """
    if not report_split and _steps_done(job) >= train_steps:
        return job.directory
    partitioning.check_batch_size(job.data.batch_size, job.mesh, accumulation_steps)
    if job.data.pack and not job.method.packs:
        raise UserError(f"{type(job.method).__name__} needs a row for every example; set TaskData.pack = False")
    method = _started(job, start_from)
    state, split = training.start(method, optimizer, job.mesh, job.rules)  # first: preparing data may take hours
    batches = job.data.train_batches()
    if first_pass is not None:
        keep(job.method, job.mask(), batches, first_pass)
    validation = job.data.eval_tasks("validation") if eval_period else []
    best_metric = best_metric if eval_period else None
    _check_best_metric(best_metric, [task.name for task in validation])
    reported = job.data.eval_tasks(report_split) if report_split else []
    failures: list[str] = []
    description = describe(
        job.method,
        state.trained,
        seed=job.seed,
        gin_config=gin_config.current(),
        encoder_text=job.data.encoder_text,
        train_half=job.data.train_half,
    )
    step = training.make_train_step(
        split, state, optimizer, z_loss=z_loss, accumulation_steps=accumulation_steps, seed=job.seed
    )
    with Checkpointer(job.directory, description, best_metric=best_metric) as checkpointer:
        state = checkpointer.restore(state)
        first, began = int(state.step), time.perf_counter()
        job.save_gin_config()
        with batches.iterate(first) as iterator:
            training.fit(
                state,
                split,
                step,
                iterator,
                train_steps=train_steps,
                writer=MetricWriter(job.directory, first_step=first, log_period=log_period),
                checkpointer=checkpointer,
                save_period=save_period,
                evaluate=lambda model: _validated(model, validation, best_metric, failures),
                eval_period=eval_period,
                profile_steps=profile_steps,
            )
    job.save_gin_config()  # again: by now, more has been called
    if reported:
        steps, seconds = max(0, train_steps - first), time.perf_counter() - began
        failures += _report(job, reported, report_alone, steps=steps, seconds=seconds)
    report.raise_failures(failures)
    return job.directory


def _started(job: Job, start_from: str | Callable[[], Any] | None) -> Method:
    """The method as its first step finds it; of a run that goes on, its own checkpoint says more."""
    if start_from is None or _steps_done(job):
        return job.method
    return job.trained_method(start_from() if callable(start_from) else start_from)


def _steps_done(job: Job) -> int:
    try:
        return int(checkpoints.find(job.directory / "checkpoints").name)
    except UserError:  # none were
        return 0


def _check_best_metric(name: str | None, tasks: Sequence[str]) -> None:
    """Before training, as far as names tell; what a task's metrics are called is only known when they were measured."""
    means = ["mean", "mean_nats_per_token"] if templates.are_among(tasks) else ["mean"]
    data_sets = list(templates.by_data_set(tasks))
    if name is not None and name not in means and name.rpartition("/")[0] not in data_sets:
        raise UserError(
            f"train.best_metric: validation gives no {name!r}; take {', '.join(means)} or NAME/METRIC, where NAME is "
            f"one of {', '.join(data_sets)}"
        )


def _validated(model: Any, tasks: Sequence[EvalTask], best_metric: str | None, failures: list[str]) -> dict[str, float]:
    """The metrics on the validation split, `mean` among them; adds to the failures."""
    results = evaluate(model, tasks)
    metrics, failed = report.flat(results), report.failures(results)
    if failed and best_metric is not None and math.isnan(metrics.setdefault(best_metric, math.nan)):
        failed.append(
            f"without that there was no validation {best_metric} to choose by: MODEL_DIR/best holds no state of then"
        )
    failures += failed
    return metrics


def _report(job: Job, tasks: Sequence[EvalTask], alone: bool, *, steps: int, seconds: float) -> list[str]:
    """Prints and writes MODEL_DIR/report.md; returns what failed."""
    method, lm, folder = job.trained_method(), job.method.lm, job.directory / "predictions"
    columns = {"frozen LM alone": evaluate(lm, tasks, kept=job.kept(lm))} if alone else {}
    columns[f"with {type(method).__name__}"] = evaluate(method, tasks, predictions_dir=folder, kept=job.kept(method))
    text = "\n".join(
        [
            report.table(columns),
            "",
            _what_was_trained(job),
            f"This run: {steps} steps of {job.data.batch_size} examples in {seconds:.0f} s, validation included.",
            f"Results: {job.directory}",
        ]
    )
    cloud_storage.write_whole(job.directory / "report.md", text + "\n")
    print(text)
    return report.failures(*columns.values())


def _what_was_trained(job: Job) -> str:
    _, trained, frozen = freezing.split(job.method, job.mask())
    count, of = parameter_count(trained), parameter_count(trained) + parameter_count(frozen)
    return f"Trained: {count:,} of {of:,} parameters ({100 * count / of:.3g}%)."
