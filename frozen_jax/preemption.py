"""Preemption: SIGTERM says that the machine will be taken away, so training saves its state and the process ends.

It ends with `EXIT_STATUS`, on which launchers start it again. What is kept in chunks on disk (prepared texts, answers,
samples) loses the chunk that was being made, as by a kill; a training loses nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

EXIT_STATUS = os.EX_TEMPFAIL
"""75 of sysexits.h: try again later."""


class Preempted(BaseException):
    """The process was told to end, and has saved what it could; no `Exception`, which a metric's failure would be."""


_noted, _put_off = False, False


def listen() -> None:
    """From now on SIGTERM raises `Preempted` in the main thread, which has to call this."""
    signal.signal(signal.SIGTERM, _told)


def _told(number: int, frame: object) -> None:
    del number, frame
    global _noted
    _noted = True
    if not _put_off:
        raise Preempted("told to end by SIGTERM; run the same command again to go on")


@contextlib.contextmanager
def put_off() -> Iterator[Callable[[], bool]]:
    """Within it SIGTERM is only noted: what it gives says whether it was."""
    global _put_off
    before, _put_off = _put_off, True
    try:
        yield lambda: _noted
    finally:
        _put_off = before


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Within `put_off`, for what need not come to its end: SIGTERM raises `Preempted` again.

    Raises:
        Preempted: also if it was noted already.
    """
    global _put_off
    before, _put_off = _put_off, False
    try:
        if _noted:
            raise Preempted("told to end by SIGTERM; run the same command again to go on")
        yield
    finally:
        _put_off = before
