"""What a program compiled for TPUs costs by its compiler's own figures: cycles, and what chips send each other.

The TPU compiler writes the cycles that it expects beside every instruction that it lowers, but not beside collectives,
nor beside copies that run along with other work. They are summed here, every loop weighted by its trip count.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from frozen_jax import hlo

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_UNKNOWN = 2**63 - 1
_GROUPS = re.compile(r"replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]*)\})")
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class Collective(NamedTuple):
    """All collectives of one kind.

    Attributes:
        times: how many run in one call.
        bytes_held: of their results, on one chip.
        bytes_sent: by one chip, in a ring.
    """

    times: int
    bytes_held: int
    bytes_sent: int


def cycles(program: hlo.Program) -> tuple[int, int]:
    """Returns the cycles that the compiler expects of one call on one chip, and how many instructions it cannot tell.

    Those are lookups on the sparse cores; collectives are not among them.
    """
    found = [
        (times, int(told[1]))
        for times, _, one in program.instructions(fused=False)
        if (told := _CYCLES.search(one.attributes))
    ]
    known = sum(times * count for times, count in found if count != _UNKNOWN)
    return known, sum(times for times, count in found if count == _UNKNOWN)


def collectives(program: hlo.Program) -> dict[str, Collective]:
    """Returns the collectives of one call by kind, on one chip."""
    sums: dict[str, Collective] = {}
    for times, _, one in program.instructions():
        kind = one.op.removesuffix("-start")
        if kind in COLLECTIVES:
            held = one.nbytes()
            sent = _sent(kind, held, _group(one.attributes))
            before = sums.get(kind, Collective(0, 0, 0))
            sums[kind] = Collective(
                before.times + times, before.bytes_held + times * held, before.bytes_sent + times * sent
            )
    return dict(sorted(sums.items()))


def _group(attributes: str) -> int:
    """How many chips take part; 2 where a permutation does not say."""
    found = _GROUPS.search(attributes)
    if found is None:
        return 2
    return int(found[1]) if found[1] else len(found[2].split(","))


def _sent(kind: str, held: int, group: int) -> int:
    """What a chip sends of a ring of `group` chips, for a result of so many bytes."""
    others = group - 1
    if kind == "reduce-scatter":
        return held * others
    if kind == "collective-permute":
        return held
    return held * others * (2 if kind == "all-reduce" else 1) // group
