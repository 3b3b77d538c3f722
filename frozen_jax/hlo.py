"""Reads the text of compiled programs: what stands in them, and how often each part runs.

XLA's own `cost_analysis` counts the body of a loop once, so a scanned model of 24 layers and one of 12 come out the
same. What is counted with `Program.runs` is weighted: along every call, and by the trip count of every loop.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_SIZES = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLS = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|called_computations)=(?:\{([^}]*)\}|%?([\w.\-]+))"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_UNCHANGED = {"copy", "bitcast", "convert", "copy-done", "copy-start"}
_BITS = {"pred": 8, "token": 0}


class Instruction(NamedTuple):
    """One line.

    Attributes:
        name: without the percent sign.
        shape: as it is printed; several in brackets.
        op: what is done.
        operands: names; of a constant, its value.
        attributes: all that is printed behind.
    """

    name: str
    shape: str
    op: str
    operands: tuple[str, ...]
    attributes: str

    def sizes(self) -> list[int]:
        """Returns the axes of the result, of the first where there are several."""
        return axes(self.shape)

    def nbytes(self) -> int:
        """Returns the bytes of the largest result: where there are several, the others are its operands and flags."""
        return max((_bytes(kind, text) for kind, text in _SIZES.findall(self.shape)), default=0)


class Computation(NamedTuple):
    """Instructions that run together.

    Attributes:
        instructions: by name, in order.
        root: name of the last.
    """

    instructions: dict[str, Instruction]
    root: str


class Program(NamedTuple):
    """A compiled program.

    Attributes:
        computations: by name.
        runs: how often each of them runs in one call of the program; loops whose trip count nobody knows (decoding
            until all rows have ended) count once.
        fused: those that are part of one instruction of another.
    """

    computations: dict[str, Computation]
    runs: dict[str, int]
    fused: set[str]

    def instructions(self, fused: bool = True) -> Iterator[tuple[int, Computation, Instruction]]:
        """Yields each instruction that runs, how often, and where it stands.

        Args:
            fused: also those that are part of another.
        """
        for name, times in self.runs.items():
            if fused or name not in self.fused:
                computation = self.computations[name]
                yield from ((times, computation, found) for found in computation.instructions.values())


def read(text: str) -> Program:
    """Reads what `Compiled.as_text` gives."""
    computations: dict[str, Computation] = {}
    entry, name, roots = "", "", {}
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            name = header[2]
            computations[name] = Computation({}, "")
            entry = name if header[1] else entry
        elif name and (begun := _INSTRUCTION.match(line)):
            computations[name].instructions[begun[2]] = _instruction(begun[2], line[begun.end() :])
            if begun[1]:
                roots[name] = begun[2]
    computations = {name: found._replace(root=roots.get(name, "")) for name, found in computations.items()}
    return Program(computations, *_runs(computations, entry))


def axes(shape: str) -> list[int]:
    """Returns the axes of a printed shape: `bf16[2,3]{1,0}` has 2 and 3."""
    found = _SIZES.search(shape)
    return [int(size) for size in found[2].split(",") if size] if found else []


def _bytes(kind: str, sizes: str) -> int:
    digits = re.search(r"\d+", kind)
    bits = _BITS.get(kind, int(digits[0]) if digits else 0)
    for size in sizes.split(","):
        bits *= int(size or 1)
    return bits // 8


def _instruction(name: str, text: str) -> Instruction:
    """Of what stands behind the equals sign."""
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    shape, text = text[:end], text[end:].lstrip()
    op, _, rest = text.partition("(")
    end = _closing(f"({rest}", 0) - 1
    operands = re.sub(r"/\*.*?\*/", "", rest[: end - 1])
    names = tuple(re.split(r"\s", part.strip())[-1].lstrip("%") for part in _parts(operands))
    return Instruction(name, shape, op, names, rest[end:])


def _closing(text: str, start: int) -> int:
    """Returns the place behind the bracket that closes the one at `start`."""
    depth = 0
    for place in re.finditer(r"[()]", text[start:]):
        depth += 1 if place[0] == "(" else -1
        if not depth:
            return start + place.end()
    return len(text)


def _parts(text: str) -> list[str]:
    """Splits at the commas that stand in no bracket."""
    parts, depth, begun = [], 0, 0
    for place in re.finditer(r"[(){}\[\],]", text):
        if place[0] != ",":
            depth += 1 if place[0] in "({[" else -1
        elif not depth:
            parts.append(text[begun : place.start()])
            begun = place.end()
    return [part for part in [*parts, text[begun:]] if part.strip()]


def _runs(computations: dict[str, Computation], entry: str) -> tuple[dict[str, int], set[str]]:
    runs, fused, left = collections.Counter[str](), set[str](), [(entry, 1)]
    while left:
        name, times = left.pop()
        runs[name] += times
        for found in computations[name].instructions.values():
            callees = _callees(found.attributes)
            each = times * trips(computations, computations[name], found) if found.op == "while" else times
            left += [(callee, each) for callee in callees]
            if found.op == "fusion" or name in fused:
                fused.update(callees)
    return dict(runs), fused


def _callees(attributes: str) -> list[str]:
    found = (one[1] or one[2] for one in _CALLS.finditer(attributes))
    return [name.strip("% ") for names in found for name in names.split(", ")]


def trips(computations: dict[str, Computation], around: Computation, loop: Instruction) -> int:
    """Returns how often a loop's body runs: by its `known_trip_count`, else by its condition; 1 if neither tells.

    Compiled for TPU, programs have lost the former. A loop of JAX counts up to a constant.

    Args:
        computations: of the program.
        around: where the loop stands.
        loop: its instruction.
    """
    if known := _TRIPS.search(loop.attributes):
        return int(known[1])
    parts = dict(re.findall(r"(condition|body)=%?([\w.\-]+)", loop.attributes))
    condition, body = computations[parts["condition"]], computations[parts["body"]]
    test = condition.instructions.get(condition.root)
    if test is None or test.op != "compare" or "direction=LT" not in test.attributes:
        return 1
    index, limit = _index(condition, test.operands[0]), _number(condition, test.operands[1])
    begins = around.instructions.get(loop.operands[0])
    if index is None or begins is None or begins.op != "tuple":
        return 1
    if limit is None and (place := _index(condition, test.operands[1])) is not None:
        limit = _number(around, begins.operands[place])
    start = _number(around, begins.operands[index]) or 0
    return 1 if limit is None else max(0, -(-(limit - start) // _step(body, index)))


def _index(computation: Computation, name: str) -> int | None:
    """Which part of what the loop carries something is."""
    found = computation.instructions.get(name)
    place = re.search(r"index=(\d+)", found.attributes) if found and found.op == "get-tuple-element" else None
    return int(place[1]) if place else None


def _number(computation: Computation, name: str) -> int | None:
    """The constant that something is."""
    found = computation.instructions.get(name)
    while found is not None and found.op in _UNCHANGED:
        found = computation.instructions.get(found.operands[0])
    is_number = found is not None and found.op == "constant" and re.fullmatch(r"-?\d+", found.operands[0])
    return int(found.operands[0]) if found is not None and is_number else None


def _step(body: Computation, index: int) -> int:
    """By how much a loop's counter grows."""
    root = body.instructions.get(body.root)
    grown = body.instructions.get(root.operands[index]) if root is not None and root.op == "tuple" else None
    if grown is None or grown.op != "add":
        return 1
    return next((step for step in (_number(body, one) for one in grown.operands) if step), 1)
