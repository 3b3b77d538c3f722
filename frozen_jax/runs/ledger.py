"""The versatility ledger: a frozen LM alone, then with one module after another, each on every task.

    rows        the frozen LM alone; then one a training, with a module for each of its seeds
    columns     tasks, or those of a mixture

    MODEL_DIR/ledger.json     every figure, written as soon as it is known: a killed evaluation goes on where it stopped
    MODEL_DIR/ledger.md       the matrix, and every module with its intervals
    MODEL_DIR/ledger.png      its picture
    MODEL_DIR/ledger.gin      makes the same again

Where tasks are templates, or rows are to be compared, `data_sets.md` and `templates.csv` take the place of `ledger.md`,
and the picture has a column a data set: see `data_sets`.

At the end the frozen LM is evaluated alone once more and its parameters are hashed, as they were at the start: with the
modules set aside nothing has changed, bit for bit.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from frozen_jax import cloud_storage, controls, gin_config, templates
from frozen_jax.errors import UserError
from frozen_jax.runs import picture, report
from frozen_jax.runs.data_sets import DataSets, Layout
from frozen_jax.runs.job import Job
from frozen_jax.runs.matrix import ALONE, FROZEN, Figure, Matrix
from frozen_jax.runs.modules import Given, Methods, Module, jobs_by_method, read_modules
from frozen_jax.runs.record import Column, Record
from frozen_jax.runs.task_data import TaskData

Tasks = str | Sequence[str] | Mapping[str, Any]


def evaluate_modules(
    job: Job,
    modules: Given,
    tasks: Tasks,
    split: str,
    methods: Methods = (),
    layout: Layout | None = None,
    encoder_inputs_of: str = controls.OWN,
) -> None:
    """Evaluates the frozen LM alone and beside every module on every task, and writes the matrix.

    Args:
        job: a method around the frozen LM, how data is read, and the ledger's folder.
        modules: {row: its seeds' run folders, or one}, or a list of run folders.
        tasks: names of tasks or mixtures, or {name: its feature lengths}.
        split: which split.
        methods: classes of methods; those of all modules, beside the job's own. Or {row: class}, where rows of one
            class differ in their settings.
        layout: of tables with a row a data set.
        encoder_inputs_of: see `controls.swapped`.

    Raises:
        UserError: for modules or tasks that do not fit, and whatever the data raises; at the end, for metrics that
            failed.
        RuntimeError: if a parameter of the frozen LM has changed: a defect.
    """
    jobs = jobs_by_method(job, methods)
    found = read_modules(modules, jobs)
    if layout:
        layout.check_rows([ALONE, *(module.subject.row for module in found)])
    columns = _swapped(read_tasks(job.data, tasks, split), encoder_inputs_of, job.data.seed)
    names = [column.task.name for column in columns]
    layout = layout or (Layout() if templates.are_among(names) else None)
    if layout:
        layout.check_data_sets(names)
    record = Record(job.directory / "ledger.json", job.method.lm)
    figures = record.figures(FROZEN, job.method.lm, columns)
    for module in found:
        read = _as_read_by(module, columns)
        # Fine-tuning's checkpoint is a whole LM: it is dropped before the next one is read.
        model = module.job.trained_method(module.step) if record.lacks(module.subject, read) else None
        figures += record.figures(module.subject, model, read)
        del model
    _write(job, figures, layout, record.set_aside(FROZEN, columns))


def read_tasks(data: TaskData, tasks: Tasks, split: str) -> list[Column]:
    """Reads the examples of all tasks; a mixture's tasks become columns of their own.

    Args:
        data: how data is read, and the feature lengths where the tasks have none of their own.
        tasks: names of tasks or mixtures, or {name: its feature lengths}.
        split: which split.

    Raises:
        UserError: for no tasks, for one that comes twice, and whatever the data raises.
    """
    given = [tasks] if isinstance(tasks, str) else tasks
    columns = []
    for name in given:
        lengths = given[name] if isinstance(given, Mapping) else data.task_feature_lengths
        if not isinstance(lengths, Mapping):
            raise UserError(f"evaluate_module.tasks: {name} has {lengths!r}; give its lengths: {{'inputs': 64, ...}}")
        found = dataclasses.replace(data, mixture_or_task_name=name, task_feature_lengths=lengths).eval_tasks(split)
        columns += [Column(task, lengths) for task in found]
    names = [column.task.name for column in columns]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"evaluate_module.tasks: {twice[0]} comes twice; name it once, alone or in one mixture")
    if not columns:
        raise UserError("evaluate_module.tasks is empty; name a task")
    return columns


def _swapped(columns: Sequence[Column], whose: str, seed: int) -> list[Column]:
    tasks = controls.swapped([column.task for column in columns], whose, seed)
    return [dataclasses.replace(column, task=task) for column, task in zip(columns, tasks, strict=True)]


def _as_read_by(module: Module, columns: Sequence[Column]) -> Sequence[Column]:
    """A control whose encoder read one text in training reads it here too, whatever the others read."""
    if (text := module.encoder_text) is None:
        return columns
    found = []
    for column in columns:
        data = dataclasses.replace(module.job.data, encoder_text=text, task_feature_lengths=column.lengths)
        tokens = data.encoder_tokens(text)
        assert tokens is not None, "a text is given"
        found += [dataclasses.replace(column, task=task) for task in controls.evaluate_on_text([column.task], tokens)]
    return found


def _write(job: Job, figures: Sequence[Figure], layout: Layout | None, set_aside: Mapping[str, Any]) -> None:
    found = DataSets(figures, layout) if layout else None
    matrix = Matrix(found.losses() if found else figures)
    tables = found.markdown() if found else matrix.markdown()
    title = "Data sets" if found else "Ledger"
    text = "\n\n".join([f"# {title}", tables, _verdict(set_aside), _where(figures)])
    bits = "bit-identical" if set_aside["parameters"] else "CHANGED"
    note = f"Means over seeds (lowest to highest). Frame: trained on it. All modules set aside, the LM is {bits}."
    files: dict[str, str | bytes] = {"ledger.gin": gin_config.current(), "ledger.png": picture.draw(matrix, note)}
    files |= {"data_sets.md": f"{text}\n", "templates.csv": found.csv()} if found else {"ledger.md": f"{text}\n"}
    for name, content in files.items():
        cloud_storage.write_whole(job.directory / name, content)
    print(f"\n{text}\n\nPicture: {job.directory / 'ledger.png'}")
    if not set_aside["parameters"]:
        raise RuntimeError("parameters of the frozen LM have changed while modules were evaluated")
    report.raise_failures(line for figure in figures for line in figure.result.failures)


def _verdict(set_aside: Mapping[str, Any]) -> str:
    parameters = "the same, bit for bit" if set_aside["parameters"] else "NOT the same"
    figures = "the same, bit for bit" if set_aside["figures"] else "not the same to the last bit"
    return (
        f"With all modules set aside the frozen LM was evaluated once more: its parameters are {parameters} "
        f"(sha256 {set_aside['sha256'][:16]}), its figures {figures} (largest difference "
        f"{set_aside['largest_difference']:.2g})."
    )


def _where(figures: Sequence[Figure]) -> str:
    devices = jax.devices()
    return (
        f"Evaluated in {sum(figure.seconds for figure in figures):.0f} s, on {len(devices)} "
        f"{devices[0].device_kind} device(s), {os.cpu_count()} CPU cores, jax {jax.__version__}. ledger.gin makes the "
        "same again; ledger.json has every figure."
    )
