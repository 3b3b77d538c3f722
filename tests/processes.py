"""Several processes of one run, on this machine: each has two CPU devices, and calls the same function of a test file.

The function is given a folder, and returns what is compared. One process alone is what a user runs without a pod.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import pathlib
import pickle
import socket
import subprocess
import sys
from typing import Any

import jax

from tests.xla_flags import COMPILED_QUICKLY

_SECONDS = 600
_ROOT = pathlib.Path(__file__).parents[1]


def run(function: str, count: int, folder: pathlib.Path) -> list[Any]:
    """Returns what `MODULE:FUNCTION` returns in each of so many processes."""
    folder.mkdir()
    with contextlib.closing(socket.create_server(("localhost", 0))) as server:
        port = server.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count=2 {COMPILED_QUICKLY}"
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "XLA_FLAGS": flags}
    arguments = [sys.executable, "-m", "tests.processes", function, str(port), str(count)]
    logs = [folder / f"log-{index}" for index in range(count)]
    with contextlib.ExitStack() as stack:
        started = [
            subprocess.Popen(
                [*arguments, str(index), str(folder)],
                stdout=stack.enter_context(log.open("w")),
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=_ROOT,
            )
            for index, log in enumerate(logs)
        ]
        try:
            codes = [process.wait(_SECONDS) for process in started]
        finally:
            for process in started:
                process.kill()
    assert not any(codes), "\n".join(log.read_text()[-3000:] for log in logs)
    return [pickle.loads((folder / f"found-{index}").read_bytes()) for index in range(count)]


def _main(function: str, port: str, count: str, index: str, folder: str) -> None:
    faulthandler.dump_traceback_later(_SECONDS - 30)  # where it hangs
    if int(count) > 1:
        address = f"localhost:{port}"
        jax.distributed.initialize(coordinator_address=address, num_processes=int(count), process_id=int(index))
    module, _, name = function.partition(":")
    found = getattr(importlib.import_module(module), name)(pathlib.Path(folder))
    (pathlib.Path(folder) / f"found-{index}").write_bytes(pickle.dumps(found))
    if int(count) > 1:
        jax.distributed.shutdown()  # all have come this far
    sys.stdout.flush()
    os._exit(0)  # taking Python and its threads down takes seconds


if __name__ == "__main__":
    _main(*sys.argv[1:])
