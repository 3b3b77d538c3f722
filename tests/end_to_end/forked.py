"""run.py as a process of its own that begins with everything imported: seqio and JAX take six seconds, here only once.

A server process imports, starts no thread, and forks a child for every run. The child is run.py's whole process: its
environment, its standard streams, its exit status.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from tests.xla_flags import COMPILED_QUICKLY

ONE_DEVICE = COMPILED_QUICKLY  # XLA_FLAGS of a process
ROOT = pathlib.Path(__file__).parents[2]
_SECONDS = 600
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["frozen_jax.data", "run"])


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs run.py in the root of the project."""
    return Running(run_py, arguments, environment).ended()


class Running:
    """A function in a process, whose end can be waited for."""

    def __init__(self, main: Callable[..., None], arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts it in the root of the project."""
        self._arguments, self._folder = list(map(str, arguments)), tempfile.TemporaryDirectory()
        self._streams = [pathlib.Path(self._folder.name) / name for name in ("stdout", "stderr")]
        self._child = start(main, self._arguments, environment, self._streams)

    def send(self, signal: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.runs() and self._child.pid is not None:
            os.kill(self._child.pid, signal)

    def runs(self) -> bool:
        """Whether it has not ended yet."""
        return self._child.exitcode is None

    def ended(self, seconds: float = _SECONDS) -> subprocess.CompletedProcess[str]:
        """Waits for its end; when it is late it is killed, and this raises."""
        self._child.join(seconds)
        if late := self.runs():
            self._child.kill()
            self._child.join()
        with self._folder:
            stdout, stderr = (stream.read_text() if stream.exists() else "" for stream in self._streams)
        if late:
            raise subprocess.TimeoutExpired(self._arguments, seconds, stdout, stderr)
        return subprocess.CompletedProcess(self._arguments, self._child.exitcode or 0, stdout, stderr)


def start(
    main: Callable[..., None],
    arguments: Sequence[str],
    environment: Mapping[str, str],
    streams: Sequence[pathlib.Path],
) -> multiprocessing.process.BaseProcess:
    """Starts a function in a process; of the environment, JAX has read its settings already, in the server."""
    child = _server.Process(target=_run, args=(main, list(arguments), dict(environment), *streams))
    with _one_thread():  # of the server, when the first child starts it: threads do not survive a fork
        child.start()
    return child


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """numpy's linear algebra makes its threads when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBLAS_NUM_THREADS", "1")
        yield


def _run(
    main: Callable[..., None],
    arguments: list[str],
    environment: dict[str, str],
    stdout: pathlib.Path,
    stderr: pathlib.Path,
) -> None:
    for stream, file in ((1, stdout), (2, stderr)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(stream, "wb"), line_buffering=True) for stream in (1, 2))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    main(*arguments)


def run_py(*arguments: str) -> None:
    """Becomes run.py."""
    sys.argv = ["run.py", *arguments]
    runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
