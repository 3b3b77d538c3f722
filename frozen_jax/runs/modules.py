"""The modules of a ledger: which checkpoints they are, and that they fit, said before anything slow is begun."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from frozen_jax import checkpoints
from frozen_jax.errors import UserError
from frozen_jax.lm.base import LanguageModel
from frozen_jax.methods.base import Method
from frozen_jax.runs.job import Job
from frozen_jax.runs.matrix import ALONE, Subject

MakesMethod = Callable[[LanguageModel], Method] | Method  # a made one is a mistake that is explained
Methods = Sequence[MakesMethod] | Mapping[str, MakesMethod]
Given = Mapping[str, str | Sequence[str]] | Sequence[str]


@dataclasses.dataclass(frozen=True)
class Module:
    """One module checkpoint, not loaded yet.

    Attributes:
        step: the saved step.
        subject: what it is.
        job: with its method.
        encoder_text: what its method's encoder read in training in place of every example's inputs.
    """

    step: epath.Path
    subject: Subject
    job: Job
    encoder_text: str | None


def read_modules(given: Given, jobs: Mapping[str, Job]) -> list[Module]:
    """Reads the descriptions of all modules, row by row.

    Args:
        given: {row: its seeds' run folders, or one}, or a list of run folders whose names are the rows. "run_{0,1}" is
            short for "run_0", "run_1".
        jobs: row or method's name → a job with that method; that of its row comes first.

    Raises:
        UserError: for a folder without a checkpoint, one of another LM, of a method that is not among the jobs', of
            other settings or of another shape; for a row without folders or with a name that is taken; for a job of a
            row that is not given.
    """
    rows = by_row(given, "evaluate_module.modules")
    for name, job in jobs.items():
        if name not in rows and name != type(job.method).__name__:
            raise UserError(f"evaluate_module.methods: there is no row {name!r}; there are {', '.join(rows)}")
    return [_read(row, path, jobs) for row, paths in rows.items() for path in paths]


def jobs_by_method(job: Job, methods: Methods) -> dict[str, Job]:
    """Returns row or method's name → a job with that method, all around the one frozen LM that `job` has loaded.

    Args:
        job: a method around the frozen LM, found by its name.
        methods: classes, found by their names, or {row: class}.

    Raises:
        UserError: for something that is no class of a method, and for two of one name.
    """
    jobs = {type(job.method).__name__: job}
    if isinstance(methods, Mapping):
        return jobs | {row: _with_method(job, make) for row, make in methods.items()}
    for make in methods:
        name = getattr(make, "__name__", "")
        if name not in jobs:
            jobs[name] = _with_method(job, make)
        elif make is not type(jobs[name].method):  # out of one of gin's scopes
            raise UserError(f"evaluate_module.methods has another {name}; name its row: {{'ROW': @SCOPE/{name}}}")
    return jobs


def _with_method(job: Job, make: MakesMethod) -> Job:
    """The job around the same frozen LM; the method's freezing rules are its own."""
    if isinstance(make, Method) or not hasattr(make, "__name__"):
        name = type(make).__name__
        raise UserError(f"evaluate_module.methods holds a made {name}; write @{name}, without brackets behind it")
    return dataclasses.replace(job, method=make(job.method.lm), rules=None)


def by_row(given: Given, where: str) -> dict[str, list[str]]:
    """Returns row → its seeds' run folders.

    Args:
        given: see `read_modules`.
        where: what the user has bound it to, for messages.

    Raises:
        UserError: for a row without folders or with a name that is taken.
    """
    if isinstance(given, Mapping):
        rows = {row: expanded(paths) for row, paths in given.items()}
    else:
        folders = expanded(given)
        rows = {epath.Path(path).name: [path] for path in folders}
        if len(rows) < len(folders):
            raise UserError(f"{where}: two of {list(folders)} have the same name; name the rows")
    for row, paths in rows.items():
        if not paths or row == ALONE:
            raise UserError(f"{where}: the row {row!r} {'has that name already' if paths else 'is empty'}")
    return rows


def expanded(paths: str | Sequence[str]) -> list[str]:
    """Returns folders, "run_{0,1}" as "run_0", "run_1". Not patterns: they would keep quiet about a missing seed."""
    if not isinstance(paths, str):
        return [path for given in paths for path in expanded(given)]
    if not (braces := re.search(r"\{([^{}]*,[^{}]*)\}", paths)):
        return [paths]
    before, after = paths[: braces.start()], paths[braces.end() :]
    return [path for part in braces[1].split(",") for path in expanded(before + part + after)]


def _read(row: str, path: str, jobs: Mapping[str, Job]) -> Module:
    step = checkpoints.find(path)
    method = checkpoints.read_description(step)["method"]
    job = jobs.get(row) or jobs.get(method)
    if job is None:
        raise UserError(
            f"{step}: holds a module of {method}; evaluate_module.methods has {', '.join(jobs)}; add @{method}"
        )
    if (expected := type(job.method).__name__) != method:
        raise UserError(f"{step}: holds a module of {method}; evaluate_module.methods gives its row {row!r} {expected}")
    _, description = checkpoints.find_beside(step, job.method)
    job.check_trains(step, description["trained"])
    return Module(step, _subject(row, step, description), job, description["encoder_text"])


def _subject(row: str, step: epath.Path, description: Mapping[str, Any]) -> Subject:
    trained = description["trained"]
    return Subject(
        row=row,
        identity=_identity(step, description),
        module=_shown(step),
        method=description["method"],
        seed=description["seed"],
        trained_on=_trained_on(description),
        trained=sum(math.prod(shape) for shape in trained.values()),
        keeps_lm=not any(name.startswith("lm/") for name in trained),
    )


def _shown(step: epath.Path) -> str:
    """Short where that is possible: ledgers are handed on."""
    with contextlib.suppress(ValueError):
        return str(step.relative_to(os.getcwd()))
    return str(step)


def _trained_on(description: Mapping[str, Any]) -> str:
    """The task or mixture; empty if the gin configuration of the training does not say."""
    named = re.search(r"^MIXTURE_OR_TASK_NAME = ['\"](.+)['\"]$", description.get("gin_config", ""), re.M)
    return named[1] if named else ""


def _identity(step: epath.Path, description: Mapping[str, Any]) -> str:
    """From what orbax notes when it saves, the time among it: the arrays themselves may be gigabytes."""
    noted = step / "_CHECKPOINT_METADATA"
    text = json.dumps(description, sort_keys=True) + (noted.read_text() if noted.exists() else "")
    return hashlib.sha256(text.encode()).hexdigest()
