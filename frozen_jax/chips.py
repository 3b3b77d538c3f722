"""TPU generations, and slices of them that are not here: what a program can be compiled for without having them.

Compiling needs `libtpu`, an extra requirement, and no TPU.
"""

from __future__ import annotations

import importlib.util
import math
import os
from typing import Any, NamedTuple

import jax

from frozen_jax.errors import UserError
from frozen_jax.silence import without_stderr

_TILES = "xla_tpu_scoped_vmem_limit_kib"
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_DEEP = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")


class Generation(NamedTuple):
    """What Google publishes of a chip (cloud.google.com/tpu/docs, one page a generation).

    Attributes:
        hbm_bytes: of memory.
        peak_flops: bfloat16, a second.
        flops_per_cycle: what the matrix units do in one cycle: two for each of their cells, 128 x 128 or 256 x 256.
        ici_bytes: that a chip can send to its neighbours in a second, all links together.
        axes: of the torus that the links make; a ring along one of them has that share of the links.
        slices: that can be had, smallest first.
        kinds: what JAX calls such a device.
        tile_kib: of a chip's own memory, what the tiles of one product may take; None leaves libtpu's choice. Our
            choice, by what the compiler estimates: docs/pods.md.
    """

    hbm_bytes: int
    peak_flops: float
    flops_per_cycle: int
    ici_bytes: float
    axes: int
    slices: tuple[str, ...]
    kinds: tuple[str, ...]
    tile_kib: int | None

    @property
    def clock(self) -> float:
        """Cycles a second, which follow from the two figures above."""
        return self.peak_flops / self.flops_per_cycle

    @property
    def ring_bytes(self) -> float:
        """What a chip can send in a second in a ring along one axis."""
        return self.ici_bytes / self.axes


GENERATIONS = {
    "v4": Generation(32 * 2**30, 275e12, 8 * 2 * 128**2, 300e9, 3, _DEEP, ("TPU v4",), None),
    "v5e": Generation(16 * 2**30, 197e12, 4 * 2 * 128**2, 200e9, 2, _FLAT, ("TPU v5 lite", "TPU v5e"), None),
    "v5p": Generation(95 * 2**30, 459e12, 8 * 2 * 128**2, 600e9, 3, _DEEP, ("TPU v5", "TPU v5p"), 49152),
    "v6e": Generation(32 * 2**30, 918e12, 4 * 2 * 256**2, 400e9, 2, _FLAT, ("TPU v6 lite", "TPU v6e"), None),
}


def generation(topology: str) -> Generation:
    """Returns the generation of `v5p:4x4x4` or `v5p`.

    Raises:
        UserError: for one that is not known.
    """
    name = topology.partition(":")[0]
    if name not in GENERATIONS:
        raise UserError(f"--topology={topology}: {name!r} is no TPU that is known here; {_known()}")
    return GENERATIONS[name]


def compiler_options(device_kind: str) -> dict[str, str]:
    """Returns what a training step is compiled with on a device of that kind; nothing where it is no TPU known here.

    What LIBTPU_INIT_ARGS says goes first.
    """
    found = [one for one in GENERATIONS.values() if device_kind in one.kinds and one.tile_kib]
    if not found or _TILES in os.environ.get("LIBTPU_INIT_ARGS", ""):
        return {}
    return {_TILES: str(found[0].tile_kib)}


def chips(topology: str) -> int:
    """Returns how many chips a topology has.

    Raises:
        UserError: for a topology without sizes.
    """
    sizes = topology.partition(":")[2]
    if not all(part.isdigit() and int(part) for part in sizes.split("x")):
        raise UserError(f"--topology={topology}: write GENERATION:SIZES, such as v5p:4x4x4; {_known()}")
    return math.prod(map(int, sizes.split("x")))


def devices(topology: str) -> list[Any]:
    """Returns stand-ins for the chips of a slice, which programs can be compiled for and nothing can be put on.

    Args:
        topology: `v5p:4x4x4`.

    Raises:
        UserError: if it is not known, or libtpu is not installed.
    """
    found, count = generation(topology), chips(topology)
    require_libtpu()
    from jax.experimental import topologies

    settings: dict[str, Any] = {"chip_config_name": "megacore"} if topology.startswith("v4") else {}
    if count < 4:
        settings["chips_per_host_bounds"] = (*map(int, topology.partition(":")[2].split("x")), 1)
    try:
        with without_stderr():
            described = topologies.get_topology_desc(topology, platform="tpu", **settings)
    except Exception as error:  # whatever libtpu says
        reason = " ".join(str(error).split())
        raise UserError(
            f"--topology={topology}: libtpu knows no such slice ({reason}); of {topology.partition(':')[0]} there are "
            f"{', '.join(found.slices)}"
        ) from error
    return list(described.devices)


def require_libtpu() -> None:
    """Raises UserError if libtpu is not installed; keeps it, and JAX, from looking for a TPU of this machine."""
    jax.config.update("jax_platforms", "cpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no TPU is used, so that several plans do not collide
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "--run_mode=plan compiles for TPUs with libtpu, which is not installed; pip install -r requirements-tpu.txt"
        )


def _known() -> str:
    shown = (f"{name} ({', '.join(found.slices)})" for name, found in GENERATIONS.items())
    return f"known are {'; '.join(shown)}"
