"""The processes of a run meet before JAX connects them, so that what is wrong with them can be said in one line.

JAX's own connecting ends a process from C++ when somebody is missing, and cannot tell who. Here process 0 listens at
the coordinator's address, before JAX's coordinator does, and gives to everyone what everyone has said: who is there,
and what they are about to run. A line of JSON goes each way.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import socket
import threading
import time
from collections.abc import Callable, Sequence

from frozen_jax.errors import UserError

_TRY_SECONDS = 5.0  # for one connection, or for whoever connects to say something
_AGAIN_SECONDS = 0.2
_LONGEST = 1 << 16


@dataclasses.dataclass(frozen=True)
class Process:
    """What a process says of itself.

    Attributes:
        index: its number, from 0.
        count: of how many it is one.
        host: where it runs.
        code: digest of the code.
        settings: digest of gin's configuration and the flags.
    """

    index: int
    count: int
    host: str
    code: str
    settings: str

    def __str__(self) -> str:
        return f"process {self.index} ({self.host})"


def meet(own: Process, address: str, seconds: float) -> list[Process]:
    """Waits for all processes and returns them, sorted by number.

    Args:
        own: this one.
        address: HOST:PORT of process 0.
        seconds: to wait at most.

    Raises:
        UserError: in every process that is there, if nobody answers, some are missing, two have one number, or they run
            different things.
    """
    host, port = _split(address)
    deadline = time.monotonic() + seconds
    server = None
    if own.index == 0:
        with contextlib.suppress(OSError):  # another process 0, or a stranger: who answers there will tell
            server = threading.Thread(target=_serve, args=(_listener(port), own.count, deadline), daemon=True)
            server.start()
    found = _ask(own, host, port, deadline)
    if server:
        server.join()  # JAX's coordinator needs the port
    if found is None:
        raise UserError(
            f"nobody has answered at {address} for {seconds:g} s: process 0 has to run there, in the same run, and its "
            "port has to be free and open; give another as --coordinator_address, or more time as "
            "distributed.start.timeout_seconds"
        )
    if wrong := objection(found, seconds):
        raise UserError(wrong)
    return found


def objection(found: Sequence[Process], seconds: float) -> str | None:
    """Returns what is wrong with the processes that have met, or None.

    Args:
        found: sorted by number.
        seconds: that others had to come.
    """
    first = found[0]
    for process, following in zip(found, [*found[1:], first], strict=True):
        if process.count != first.count:
            return f"{process} is one of {process.count}, {first} one of {first.count}; give all the same number"
        if process.index == following.index and process is not following:
            hosts = f"on {process.host} and on {following.host}"
            return f"two processes have the number {process.index}, {hosts}; give each its own --process_index"
    if missing := sorted(set(range(first.count)) - {process.index for process in found}):
        there, absent = (", ".join(map(str, some)) for some in ([process.index for process in found], missing))
        return f"of {first.count} processes only {there} came within {seconds:g} s; missing: {absent}"
    return _unlike(found, lambda process: process.code, "other code", "start all of them from one commit") or _unlike(
        found, lambda process: process.settings, "another gin configuration", "give all the same gin files and flags"
    )


def _unlike(found: Sequence[Process], digest: Callable[[Process], str], what: str, advice: str) -> str | None:
    """Names those that differ from most, of which the first is one where there is no majority."""
    most = collections.Counter(map(digest, found)).most_common(1)[0][0]
    others = [process for process in found if digest(process) != most]
    if not others:
        return None
    same = next(process for process in found if digest(process) == most)
    has = "has" if len(others) == 1 else "have"
    return f"{' and '.join(map(str, others))} {has} {what} than {same}; {advice}"


def _split(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise UserError(f"--coordinator_address is {address!r}; write HOST:PORT, those of process 0")
    return host.strip("[]"), int(port)


def _listener(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True)
    return socket.create_server(("", port), backlog=1024)


def _serve(listener: socket.socket, count: int, deadline: float) -> None:
    """Listens until as many processes have come as there should be, then tells all of them who has."""
    with listener, contextlib.ExitStack() as stack:
        came: list[tuple[socket.socket, Process]] = []
        while len(came) < count and (left := deadline - time.monotonic()) > 0:
            listener.settimeout(left)
            with contextlib.suppress(OSError, ValueError, TypeError):  # whoever is no process of ours
                connection = stack.enter_context(listener.accept()[0])
                connection.settimeout(_TRY_SECONDS)
                came.append((connection, Process(**json.loads(_line(connection)))))
        found = sorted((process for _, process in came), key=lambda process: (process.index, process.host))
        answer = json.dumps([dataclasses.asdict(process) for process in found]).encode() + b"\n"
        for connection, _ in came:
            with contextlib.suppress(OSError):
                connection.sendall(answer)
        for connection, _ in came:  # who closes first keeps the port busy for a minute
            with contextlib.suppress(OSError):
                connection.recv(1)


def _ask(own: Process, host: str, port: int, deadline: float) -> list[Process] | None:
    """Says who this is, and returns who has come; None if there was no answer in time."""
    said = json.dumps(dataclasses.asdict(own)).encode() + b"\n"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), min(left, _TRY_SECONDS)) as connection:
                connection.sendall(said)
                connection.settimeout(left + _TRY_SECONDS)  # process 0 may have begun to wait later
                return [Process(**process) for process in json.loads(_line(connection, own.count * _LONGEST))]
        except (OSError, ValueError, TypeError):  # nobody is there yet, or nobody who understands
            time.sleep(_AGAIN_SECONDS)
    return None


def _line(connection: socket.socket, longest: int = _LONGEST) -> bytes:
    with connection.makefile("rb") as file:
        return file.readline(longest)
