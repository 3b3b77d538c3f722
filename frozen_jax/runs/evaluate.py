"""`--run_mode=eval`: the frozen LM alone and with its module, side by side; or with many modules, on many tasks."""

from __future__ import annotations

from collections.abc import Sequence

import gin

from frozen_jax import controls
from frozen_jax.evaluation import evaluate
from frozen_jax.runs import ledger, report
from frozen_jax.runs.data_sets import Layout
from frozen_jax.runs.job import Job
from frozen_jax.runs.modules import Given, Methods


@gin.configurable
def evaluate_module(
    job: Job = gin.REQUIRED,
    split: str = "validation",
    checkpoint: str | None = None,
    alone: bool = True,
    *,
    modules: Given | None = None,
    tasks: ledger.Tasks | None = None,
    methods: Methods = (),
    encoder_inputs_of: str = controls.OWN,
    held_out: Sequence[str] = (),
    averaged: Sequence[str] | None = None,
    compare: Sequence[tuple[str, str]] = (),
) -> None:
    """Evaluates on a split, writes predictions to MODEL_DIR/predictions and prints the table.

    With `modules`, `tasks` or what follows them it makes the ledger instead: every module on every task, see `ledger`.
    Tasks that are templates, `p3.glue_sst2.review`, are summed up by data set, `p3.glue_sst2`: see `data_sets`.

    Args:
        job: the method, its data and the run's folder.
        split: which split; "test" is for the last look.
        checkpoint: a module checkpoint; None is the best, else the latest, of MODEL_DIR; "none" evaluates the LM alone.
        alone: also evaluate the frozen LM without the module.
        modules: of the ledger: {row: its seeds' run folders}, or run folders; None is the one of `checkpoint`.
        tasks: of the ledger: tasks or mixtures, or {name: feature lengths}; None is the job's.
        methods: classes of the modules' methods beside the job's own: [@PromptTuning, @FineTuning]; or by row, for rows
            that gin's scopes make different: {"ID-PT without p'": @no_prompt/InputDependentPromptTuning}.
        encoder_inputs_of: whose inputs the encoder of a method reads: each example's "own", or as a control those of
            another one of the "same task" or an "other data set", see `controls.swapped`. Predictions then go to
            MODEL_DIR/predictions_same_task and the like; give a ledger another MODEL_DIR.
        held_out: of the ledger: data sets that nothing was trained on, for tables of their own.
        averaged: of the ledger: the data sets over which figures are averaged; None is all.
        compare: of the ledger: pairs of rows, for their paired differences: [("ID-PT", "static prompt")].

    Raises:
        UserError: for a missing checkpoint, one of another LM, and whatever the data raises; at the end, for failed
            metrics.
    """
    layout = Layout(held_out, averaged, compare)
    if modules is not None or tasks is not None or layout != Layout():
        one = [] if checkpoint == "none" else [checkpoint or job.model_dir]
        names = job.data.mixture_or_task_name if tasks is None else tasks
        asked = layout if layout != Layout() else None
        ledger.evaluate_modules(
            job, one if modules is None else modules, names, split, methods, asked, encoder_inputs_of
        )
        return
    columns = {}
    method = None if checkpoint == "none" else job.trained_method(checkpoint)
    eval_tasks = controls.swapped(job.data.eval_tasks(split), encoder_inputs_of, job.data.seed)
    own = encoder_inputs_of == controls.OWN
    folder = job.directory / ("predictions" if own else f"predictions_{encoder_inputs_of.replace(' ', '_')}")
    if alone or method is None:
        lm, to = job.method.lm, folder / "frozen_lm_alone"
        columns["frozen LM alone"] = evaluate(lm, eval_tasks, predictions_dir=to, kept=job.kept(lm))
    if method is not None:
        found = evaluate(method, eval_tasks, predictions_dir=folder, kept=job.kept(method))
        columns[f"with {type(method).__name__}"] = found
    print(report.table(columns))
    report.raise_failures(report.failures(*columns.values()))
