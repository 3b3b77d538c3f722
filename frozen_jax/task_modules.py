"""Importing the modules that register tasks, and saying what is wrong with them. Knows seqio only by its messages."""

from __future__ import annotations

import importlib
import pathlib
import re
import sys
import traceback
from typing import Any

from frozen_jax.errors import UserError


def load_task_module(name: str) -> None:
    """Imports a module that registers tasks, of this tree or a collaborator's (MIXTURE_OR_TASK_MODULE).

    Args:
        name: of the module, such as `tasks`.

    Raises:
        UserError: if it does not import, or registers a name that is taken; says why, and in which line.
    """
    try:
        module = importlib.import_module(name)
        getattr(module, "register_from_gin", lambda: None)()  # tasks that gin describes, see frozen_jax.text_files
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        if taken := re.search(r"duplicate provider: (.*)", str(error)):
            cause = f"it registers the task or mixture {taken[1]!r}, which is there already{_where_named(taken[1])}"
        raise UserError(f"task module {name!r} does not import: {cause}{_place(error)}") from error


def _place(error: BaseException) -> str:
    """The innermost line that was being imported; modules import others."""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [(f.f_globals.get("__name__"), line) for f, line in frames if f.f_code.co_name == "<module>"]
    return f" ({lines[-1][0]}, line {lines[-1][1]})" if lines else ""


def _where_named(task: str) -> str:
    """The modules in which a task's name stands; seqio keeps no record of who registered it."""
    seqio: Any = sys.modules["seqio"]  # it has raised the error
    seqios = {id(seqio), id(seqio.TaskRegistry), id(seqio.MixtureRegistry)}
    files = {
        name: pathlib.Path(str(getattr(module, "__file__", "")))
        for name, module in list(sys.modules.items())
        if seqios & set(map(id, vars(module).values())) and not name.startswith(("seqio", "frozen_jax"))
    }
    quoted = (f'"{task}"', f"'{task}'")
    found = [name for name, file in files.items() if file.is_file() and any(q in file.read_text() for q in quoted)]
    return f"; its name stands in {', '.join(sorted(found))}" if found else ""
