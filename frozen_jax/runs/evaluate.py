"""`--run_mode=eval`: the frozen LM alone and with its module on a split, side by side."""

from __future__ import annotations

import gin

from frozen_jax.evaluation import evaluate
from frozen_jax.runs import report
from frozen_jax.runs.job import Job


@gin.configurable
def evaluate_module(
    job: Job = gin.REQUIRED, split: str = "validation", checkpoint: str | None = None, alone: bool = True
) -> None:
    """Evaluates on a split, writes predictions to MODEL_DIR/predictions and prints the table.

    Args:
        job: the method, its data and the run's folder.
        split: which split; "test" is for the last look.
        checkpoint: a module checkpoint; None is the best, else the latest, of MODEL_DIR; "none" evaluates the LM alone.
        alone: also evaluate the frozen LM without the module.

    Raises:
        UserError: for a missing checkpoint, one of another LM, and whatever the data raises; at the end, for failed
            metrics.
    """
    columns = {}
    method = None if checkpoint == "none" else job.trained_method(checkpoint)
    tasks = job.data.eval_tasks(split)
    folder = job.directory / "predictions"
    if alone or method is None:
        columns["frozen LM alone"] = evaluate(job.method.lm, tasks, predictions_dir=folder / "frozen_lm_alone")
    if method is not None:
        columns[f"with {type(method).__name__}"] = evaluate(method, tasks, predictions_dir=folder)
    print(report.table(columns))
    report.raise_failures(report.failures(*columns.values()))
