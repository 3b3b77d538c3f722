"""Counts the matrix-product FLOPs of a compiled function, every loop weighted by its trip count.

XLA's own `cost_analysis` counts the body of a loop once, so a scanned model of 24 layers and one of 12 come out the
same. Here the optimised HLO is read: 2 * (size of the result) * (size of the contracted axes) for every `dot`,
multiplied along the calls and the loops that lead to it. Element-wise work is left out: it is memory, not matrix units,
that it waits for.
"""

from __future__ import annotations

import functools
import math
import re
from typing import NamedTuple

import jax

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = \(?(\w+)\[([\d,]*)\]")
_DOT = re.compile(r" dot\((?:\w+\[[\d,]*\]\S* )?%?([\w.\-]+), .*lhs_contracting_dims=\{([\d,]*)\}")
_CALLS = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|called_computations)=(?:\{([^}]*)\}|%?([\w.\-]+))"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class _Computation(NamedTuple):
    dots: list[int]  # FLOPs of each
    calls: list[tuple[int, str]]  # times, computation


def count_flops(compiled: jax.stages.Compiled) -> int:
    """Returns the FLOPs of the matrix products that one call of a compiled function makes, on one device.

    Loops whose trip count the compiler does not know (decoding until all rows have ended) count once.
    """
    entry, computations = _parse(compiled.as_text() or "")

    @functools.cache
    def total(name: str) -> int:
        computation = computations[name]
        return sum(computation.dots) + sum(times * total(callee) for times, callee in computation.calls)

    return total(entry)


def _parse(text: str) -> tuple[str, dict[str, _Computation]]:
    computations: dict[str, _Computation] = {}
    entry, current, shapes = "", _Computation([], []), {}
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current, shapes = computations.setdefault(header[2], _Computation([], [])), {}
            entry = header[2] if header[1] else entry
        elif instruction := _INSTRUCTION.match(line):
            shapes[instruction[1]] = _sizes(instruction[3])
            _read_instruction(line, shapes[instruction[1]], shapes, current)
    return entry, computations


def _read_instruction(line: str, result: list[int], shapes: dict[str, list[int]], current: _Computation) -> None:
    if dot := _DOT.search(line):
        contracted = math.prod(shapes[dot[1]][axis] for axis in _sizes(dot[2]))
        current.dots.append(2 * math.prod(result) * contracted)
    trips = _TRIPS.search(line)
    times = int(trips[1]) if trips and " while(" in line else 1
    for called in _CALLS.finditer(line):
        current.calls.extend((times, name.strip("% ")) for name in (called[1] or called[2]).split(", "))


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",") if size]
