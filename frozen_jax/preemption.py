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

    def __init__(self, saved: str = "") -> None:
        """Says how to go on, and what was saved, such as ": step 7 is saved"."""
        super().__init__(f"told to end by SIGTERM{saved}; run the same command again{'' if saved else ' to go on'}")


_noted, _put_off = False, False


def listen() -> None:
    """From now on SIGTERM raises `Preempted` in the main thread, which has to call this."""
    signal.signal(signal.SIGTERM, _told)


def _told(number: int, frame: object) -> None:
    del number, frame
    global _noted
    _noted = True
    _end_if_told()


def _end_if_told() -> None:
    if _noted and not _put_off:
        raise Preempted


@contextlib.contextmanager
def put_off() -> Iterator[Callable[[], bool]]:
    """Within it SIGTERM is only noted: what it gives says whether it was.

    Raises:
        Preempted: at its end, if it was.
    """
    with _putting_off(True):
        yield lambda: _noted
    _end_if_told()


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Within `put_off`, for what need not come to its end: SIGTERM raises `Preempted` again.

    Raises:
        Preempted: also if it was noted already.
    """
    with _putting_off(False):
        _end_if_told()
        yield


@contextlib.contextmanager
def _putting_off(value: bool) -> Iterator[None]:
    global _put_off
    before, _put_off = _put_off, value
    try:
        yield
    finally:
        _put_off = before
