"""How far long work is: a bar in a terminal; a line a minute in a log, where each change of a bar would be one."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from frozen_jax.processes import is_first

_SECONDS = 60  # between lines; what ends earlier says nothing


class _Lines(tqdm):
    """Says on stderr what a bar would show."""

    monitor_interval = 0  # no thread: lines come with the work
    _said = 0  # how much was done at the last of them

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Prints a line if anything was done since the last; tqdm decides when."""
        del msg, pos
        if self.n != self._said:
            print(self, file=sys.stderr, flush=True)
            self._said = self.n


def bar(iterable: Iterable[Any] | None = None, *, desc: str, unit: str, **settings: Any) -> tqdm:
    """Returns a bar to count with; only the first process of several shows it.

    Args:
        iterable: whose items are counted as they are taken; None where `update` counts.
        desc: what is done.
        unit: what is counted.
        **settings: of tqdm.
    """
    settings = {"desc": desc, "unit": unit, "disable": not is_first(), **settings}
    if sys.stderr.isatty():
        return tqdm(iterable, **settings)
    form = "{desc}: {n_fmt} of {total_fmt} {unit}, {elapsed} so far, {remaining} to go{postfix}"
    if settings.get("total") is None and not hasattr(iterable, "__len__"):
        form = "{desc}: {n_fmt} {unit}, {elapsed} so far{postfix}"
    when: dict[str, Any] = {"mininterval": _SECONDS, "delay": _SECONDS, "miniters": 1}
    return _Lines(iterable, **settings, **when, bar_format=form, file=io.StringIO())
