"""Several processes, one a host, as one run: how they find each other, stop at one step, and end.

Two things of JAX 0.10 are private. What a pod says of its processes is asked of `jax._src.clusters`, as
`jax.distributed.initialize` does itself, because who does not come can only be named before that is called. The
coordination service's keys and barriers belong to the client in `jax._src.distributed.global_state`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gin
import jax
from jax._src import distributed as jax_distributed
from jax._src.clusters import ClusterEnv

from frozen_jax import rendezvous
from frozen_jax.errors import UserError
from frozen_jax.rendezvous import Process

HEARTBEAT_SECONDS = 30
"""A process that has not been heard of for so long is dead, and JAX ends all others."""

_STOP = "frozen_jax/stop_after"
_PART = "frozen_jax/part"
_PART_SECONDS = 10
_CODE = ("frozen_jax", "tasks", "run.py")


@gin.configurable(denylist=["coordinator_address", "process_count", "process_index", "settings"])
def start(
    coordinator_address: str | None = None,
    process_count: int | None = None,
    process_index: int | None = None,
    *,
    settings: str = "",
    timeout_seconds: float = 300.0,
) -> list[Process]:
    """Connects this process with the others of its run, if there are any; before anything asks JAX for devices.

    Args:
        coordinator_address: HOST:PORT of process 0; None looks into JAX_COORDINATOR_ADDRESS, then asks the pod (Cloud
            TPU, GKE, Slurm or MPI). So do the others, with JAX_PROCESS_COUNT and JAX_PROCESS_INDEX.
        process_count: how many there are.
        process_index: which of them this is, from 0.
        settings: what all are to have in common beside the code.
        timeout_seconds: to wait for the others.

    Returns:
        All of them, by number.

    Raises:
        UserError: if nothing tells who the others are, and see `rendezvous.meet`.
    """
    address, count, index, devices = _identity(coordinator_address, process_count, process_index)
    if not 0 <= index < count:
        raise UserError(f"--process_index is {index}; of {count} processes they go from 0 to {count - 1}")
    own = Process(index, count, socket.gethostname(), _code_digest(), hashlib.sha256(settings.encode()).hexdigest())
    if count == 1:
        return [own]
    found = rendezvous.meet(own, address, timeout_seconds)
    # Its notifier would take SIGTERM over from Python. `all_stop` does what it is for.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        address,
        count,
        index,
        local_device_ids=devices,
        cluster_detection_method="deactivate",
        initialization_timeout=int(max(timeout_seconds, 1)),
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )
    return found


def _identity(address: str | None, count: int | None, index: int | None) -> tuple[str, int, int, Sequence[int] | None]:
    """Address, count and index from flags, else from the environment, else from the pod; and which devices are ours."""
    address = address or os.environ.get("JAX_COORDINATOR_ADDRESS")
    count = _from_environment("JAX_PROCESS_COUNT") if count is None else count
    index = _from_environment("JAX_PROCESS_INDEX") if index is None else index
    devices = None
    if None in (address, count, index):
        with contextlib.suppress(Exception):  # whatever comes of asking a pod's server that is not there
            address, count, index, devices = ClusterEnv.auto_detect_unset_distributed_params(
                address, count, index, None, None, _POD_SECONDS
            )
    if address is None or count is None or index is None:
        raise UserError(
            "--distributed: neither flags nor environment nor the machine tell who the other processes are; give "
            "--coordinator_address=HOST:PORT --process_count=N --process_index=I, or run on Cloud TPU, GKE or Slurm"
        )
    return address, count, index, devices


_POD_SECONDS = 300  # until a pod's first host has a name


def _from_environment(name: str) -> int | None:
    value = os.environ.get(name)
    if value is not None and not value.isdecimal():
        raise UserError(f"{name} is {value!r} in the environment; it should be a number")
    return None if value is None else int(value)


def _code_digest() -> str:
    """Of all Python that this project brings along."""
    root, found = Path(__file__).parents[1], hashlib.sha256()
    for name in _CODE:
        for file in sorted((root / name).rglob("*.py")) if (root / name).is_dir() else [root / name]:
            found.update(f"{file.relative_to(root)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def _client() -> Any:
    """Of the coordination service; None in a process that is alone."""
    return jax_distributed.global_state.client


def all_stop(told: bool, done: int) -> bool:
    """Returns whether to stop behind this step, the same in every process, if one of them was told to.

    Whoever was told names the next step. Nobody can be through with that before: every step needs all processes.

    Args:
        told: whether this process was.
        done: steps done; every process has to ask behind every step, and to have waited for the step's result.
    """
    if (client := _client()) is None:
        return told
    if told:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another has named a step already
            client.key_value_set(_STOP, str(done + 1), allow_overwrite=False)
    try:
        return done >= int(client.key_value_try_get(_STOP))
    except jax.errors.JaxRuntimeError:  # no such key
        return False


@contextlib.contextmanager
def ends_explained() -> Iterator[None]:
    """Around a run of several processes: lets an error that another's death has brought about wait for JAX's verdict.

    Where a process dies, what the others compute with it fails first; who it was is known when its heartbeats are
    missed, and then JAX ends this process from C++. A defect of our own, or memory that is full, ends it here.
    """
    try:
        yield
    except Exception as error:
        if _client() is None or isinstance(error, UserError | OSError | FloatingPointError):
            raise
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            time.sleep(2 * HEARTBEAT_SECONDS)
        traceback.print_exc()
        part()
        os._exit(1)  # leaving Python, JAX would wait for the others, which wait for this process


def part() -> None:
    """Before this process ends early: gives others the time to do the same, lest its end ends them as a death would."""
    if (client := _client()) is not None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # they go on, and will hear of it
            client.wait_at_barrier(_PART, _PART_SECONDS * 1000)
            jax.distributed.shutdown()
