"""The parent of a process of several: `run.py --distributed` starts itself once more, and waits.

    launcher ── parent, without JAX ── child, with JAX

When a process of a run dies, JAX ends all others from C++, by SIGABRT and with a page of stack traces; Python cannot
catch that. So the parent does: it hands signals down and output up, makes one line of that page, and ends with a status
that launchers know.

    0, 1, 2, 75, 130    the child's own
    75                  the child was ended because another process died: start all of them again
    128 + n             the child itself was killed by signal n
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from launch.config import DISTRIBUTED, RETRY

_PIPE = "FROZEN_JAX_PARENT"  # set in the child: the pipe on which it tells who the processes are
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl
_PATIENCE = 1.0  # seconds between two looks at a child that says nothing

# How the lines begin that C++ writes as it ends a process: coordination_service*.cc and client.h of jaxlib 0.10.
_BEGINS = re.compile(rb"^[EF]\d{4} [\d:.]+ +\d+ (coordination_service\w*\.cc|client\.h):", re.MULTILINE)
_ENDED = b"the JAX distributed service detected fatal errors"
_UNHEALTHY = re.compile(r"tasks are unhealthy \(stopped sending heartbeats\):\n((?:\S*\d+\n)+)")
_LEADER = "Failed to send RPC to coordination service"
_STATUS = re.compile(r"absl::Status: (.*)")


def is_wanted(arguments: Sequence[str]) -> bool:
    """Returns whether run.py is to be a parent: of several processes, and no child yet."""
    return DISTRIBUTED in arguments and _PIPE not in os.environ


def run(command: Sequence[str]) -> int:
    """Starts the child and returns the exit status, having said in one line what another's death did to it.

    Args:
        command: of the child.
    """
    told, tells = os.pipe()
    environment = {**os.environ, _PIPE: str(tells)}
    child = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, pass_fds=[tells], start_new_session=True)
    os.close(tells)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: child.send_signal(number))
    last_words = _forward(child)
    status = child.wait()
    hosts = _hosts(told)
    if status == -signal.SIGABRT and _ENDED in last_words:
        _say(f"{_dead(last_words.decode(errors='replace'), hosts)}; run the same command again in all processes")
        return RETRY
    _write(last_words)
    if status >= 0:
        return status
    memory = "; the machine may have run out of memory" if status == -signal.SIGKILL else ""
    _say(f"this process was killed by {signal.Signals(-status).name}{memory}")
    return 128 - status


def greet(hosts: Mapping[int, str]) -> None:
    """Tells the parent who the processes are, so that it can name one that dies.

    Args:
        hosts: process id → host name.
    """
    if _PIPE in os.environ:
        with os.fdopen(int(os.environ[_PIPE]), "w") as pipe:
            json.dump(hosts, pipe)


def die_with() -> None:
    """Lets a child die as soon as its parent does, however that ends. Only Linux can."""
    if _PIPE in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)


def _forward(child: subprocess.Popen[bytes]) -> bytes:
    """Passes the child's stderr on until it ends; returns what may be C++'s last words, which are kept back."""
    assert child.stderr
    kept = b""
    while True:
        if select.select([child.stderr], [], [], _PATIENCE)[0]:
            if not (read := os.read(child.stderr.fileno(), 1 << 16)):
                return kept
            kept += read
            begins = _BEGINS.search(kept)
            passed = begins.start() if begins else kept.rfind(b"\n") + 1
            _write(kept[:passed])
            kept = kept[passed:]
        elif child.poll() is not None:  # something that it has started holds its stderr
            return kept
        else:  # it lives on: those were no last words
            _write(kept)
            kept = b""


def _hosts(pipe: int) -> dict[str, str]:
    """What `greet` wrote; nothing where the child did not come that far."""
    os.set_blocking(pipe, False)  # the child is dead, but what it has started may hold the other end
    try:
        return json.loads(os.read(pipe, 1 << 20))
    except (BlockingIOError, ValueError):
        return {}


def _dead(words: str, hosts: Mapping[str, str]) -> str:
    """Says who has died, of whom C++ knows numbers at most."""
    found = _UNHEALTHY.search(words)
    numbers = re.findall(r"(\d+)\n", found[1]) if found else ["0"] if _LEADER in words else []
    named = " and ".join(f"process {number} ({hosts.get(number, 'host unknown')})" for number in numbers)
    if named:
        return f"{named} died"
    status = _STATUS.search(words)
    return f"another process died ({status[1] if status else 'JAX does not say which'})"


def _say(line: str) -> None:
    _write(f"ended: {line}\n".encode())


def _write(text: bytes) -> None:
    sys.stderr.buffer.write(text)
    sys.stderr.buffer.flush()
