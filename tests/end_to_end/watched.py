"""run.py under watch: it tells of every file of a folder that it opens or changes, and can be made to die at one."""

import importlib
import os
import signal
import sys
import threading

from tests.end_to_end.forked import run_py

_CHANGES = {"os.rename": 1, "os.mkdir": 0, "os.remove": 0, "os.rmdir": 0}  # event → which argument is told
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def main(log, folder, die_at, after, *arguments):
    """Becomes run.py, in a process group of its own.

    Args:
        log: gets a line for each file: "r PATH" before it is opened to be read, "w PATH" before it is opened to be
            written, renamed, made or removed.
        folder: of the files.
        die_at: the change, from 1 on, at which the process group is killed; 0 at none.
        after: so many seconds later.
        arguments: run.py's.
    """
    os.setpgid(0, 0)
    _watch(os.open(log, os.O_WRONLY | os.O_APPEND), f"{folder}/", die_at, after)
    importlib.import_module("frozen_jax.runs.infer")._WRITE_SECONDS = 0  # of a longer run: these end within ten
    run_py(*arguments)


def _watch(log, folder, die_at, after):
    changes = 0

    def hook(event, given):
        nonlocal changes
        if event != "open" and event not in _CHANGES:
            return
        path = given[_CHANGES.get(event, 0)]
        if isinstance(path, int) or not os.fsdecode(path).startswith(folder):
            return
        changed = event != "open" or bool(given[2] & _WRITES)
        changes += changed
        os.write(log, f"{'w' if changed else 'r'} {os.fsdecode(path).removeprefix(folder)}\n".encode())
        if changed and changes == die_at:
            threading.Timer(after, _die).start() if after else _die()

    sys.addaudithook(hook)


def _die():
    os.killpg(0, signal.SIGKILL)
