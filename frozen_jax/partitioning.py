"""The mesh, and where every array lives on it.

Parameters have T5X's logical axes, declared once, in `LOGICAL_AXES`; a table of rules maps logical axes to the mesh
axes ('data', 'model'). Nothing else in the project names a mesh axis.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gin
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jaxtyping import Shaped

from frozen_jax.errors import UserError
from frozen_jax.types import Array, Batch, EncoderInputs

LOGICAL_AXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r".*token_embedder/embedding", ("vocab", "embed")),
    (r".*relpos_bias/rel_embedding", ("heads", "relpos_buckets")),
    (r".*attention/(query|key|value)/kernel", ("embed", "joined_kv")),
    (r".*attention/(query|key|value)/bias", ("joined_kv",)),
    (r".*attention/out/kernel", ("joined_kv", "embed")),
    (r".*mlp/wi(_\d)?/kernel", ("embed", "mlp")),
    (r".*mlp/wo/kernel", ("mlp", "embed")),
    (r".*attention/(query|key|value)/a", ("embed", "rank")),
    (r".*attention/(query|key|value)/b", ("rank", "joined_kv")),
    (r".*attention/out/a", ("joined_kv", "rank")),
    (r".*attention/out/b", ("rank", "embed")),
    (r".*mlp/wi(_\d)?/a", ("embed", "rank")),
    (r".*mlp/wi(_\d)?/b", ("rank", "mlp")),
    (r".*mlp/wo/a", ("mlp", "rank")),
    (r".*mlp/wo/b", ("rank", "embed")),
    (r".*logits_dense/kernel", ("embed", "vocab")),
    (r".*norm/scale", ("embed",)),
    (r".*(prompt|latents)", ("length", "embed")),
    (r".*/gate", ("embed",)),
    (r".*projection/kernel", ("embed", "embed")),
)
"""Parameter path → logical axes. A path through `layers/` has the axis `layers` in front."""

STANDARD_RULES: tuple[tuple[str, str | None], ...] = (
    ("batch", "data"),
    ("vocab", "model"),
    ("mlp", "model"),
    ("heads", "model"),
    ("joined_kv", "model"),
    ("embed", None),
    ("rank", None),
    ("relpos_buckets", None),
    ("length", None),
    ("layers", None),
)
"""T5X's standard rules: activations over `data`, the wide axes of parameters over `model`."""

TWO_DIMENSIONAL_RULES: tuple[tuple[str, str | None], ...] = (("embed", "data"), *STANDARD_RULES)
"""Also splits the width of parameters over `data` (T5X's 2-D parameter partitioning): less memory, more collectives."""

RULE_SETS = {"standard": STANDARD_RULES, "2d": TWO_DIMENSIONAL_RULES}


_STAND_INS: contextvars.ContextVar[Sequence[Any]] = contextvars.ContextVar("_STAND_INS", default=())


@contextlib.contextmanager
def standing_in(devices: Sequence[Any]) -> Iterator[None]:
    """Within, `make_mesh` makes its mesh of these devices, which need not be here: for planning."""
    token = _STAND_INS.set(devices)
    try:
        yield
    finally:
        _STAND_INS.reset(token)


def is_here(mesh: Mesh) -> bool:
    """Returns whether something can be put on a mesh; on one of `standing_in` there are shapes alone."""
    return mesh.devices.flat[0] not in _STAND_INS.get()


@gin.configurable
def make_mesh(data: int = -1, model: int = 1) -> Mesh:
    """Makes the mesh of all devices, axes ('data', 'model').

    Args:
        data: how many ways batches are split; -1 takes what `model` leaves.
        model: how many ways parameters are split.

    Raises:
        UserError: if data * model is not the number of devices.
    """
    devices = _STAND_INS.get() or jax.devices()
    data = len(devices) // model if data == -1 else data
    if data * model != len(devices):
        raise UserError(f"mesh {data}x{model} (data x model) needs {data * model} devices; there are {len(devices)}")
    types = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((data, model), ("data", "model"), axis_types=types, devices=devices)


def logical_axes(path: str, rank: int) -> tuple[str, ...]:
    """Returns the logical axes of the parameter at `path`.

    Raises:
        UserError: if `LOGICAL_AXES` does not know it, or knows it with another number of axes.
    """
    for pattern, axes in LOGICAL_AXES:
        if re.fullmatch(pattern, path):
            axes = ("layers", *axes) if "/layers/" in path else axes
            if len(axes) == rank:
                return axes
            raise UserError(f"parameter {path!r} has {rank} axes; LOGICAL_AXES in partitioning.py says {axes}")
    raise UserError(f"parameter {path!r} has no entry in LOGICAL_AXES of partitioning.py; add its logical axes there")


@gin.configurable(denylist=["path", "shape", "mesh"])
def sharding_for(path: str, shape: Sequence[int], mesh: Mesh, rules: str = "standard") -> NamedSharding:
    """Returns where the parameter at `path` lives.

    An axis that the mesh does not divide (6 heads over 4 devices) stays whole; so does a second axis that would claim
    the same mesh axis.

    Args:
        path: slash-joined path in the model.
        shape: its shape.
        mesh: axes ('data', 'model').
        rules: "standard" or "2d".
    """
    if rules not in RULE_SETS:
        raise UserError(f"partitioning rules {rules!r} are not known; choose from {sorted(RULE_SETS)}")
    table = {}
    for axis, mesh_axis in RULE_SETS[rules]:
        table.setdefault(axis, mesh_axis)
    spec: list[str | None] = []
    for axis, size in zip(logical_axes(path, len(shape)), shape, strict=True):
        mesh_axis = table[axis]
        fits = mesh_axis is not None and size % mesh.shape[mesh_axis] == 0 and mesh_axis not in spec
        spec.append(mesh_axis if fits else None)
    return NamedSharding(mesh, PartitionSpec(*spec))


def split_further(shape: Sequence[int], sharding: NamedSharding) -> NamedSharding:
    """Returns how to split an array so that no two devices have the same part, as far as its sizes allow.

    The mesh's axes that a sharding leaves out split the first axis that they divide: layers, or rows, which files keep
    together.
    """
    mesh, spec = sharding.mesh, list(sharding.spec) + [None] * (len(shape) - len(sharding.spec))
    split: list[tuple[str, ...]] = [(axes,) if isinstance(axes, str) else tuple(axes or ()) for axes in spec]
    taken = {name for axes in split for name in axes}
    for axis in (name for name in mesh.axis_names if name not in taken):  # the same order in every process
        for place, size in enumerate(shape):
            if size % math.prod(mesh.shape[name] for name in (*split[place], axis)) == 0:
                split[place] = (*split[place], axis)
                break
    return NamedSharding(mesh, PartitionSpec(*split))


def place(parameters: Mapping[str, Shaped[Array, "..."]], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts parameters where they live, see `sharding_for`.

    Args:
        parameters: path → array.
        mesh: axes ('data', 'model').
    """
    return {path: put(array, sharding_for(path, array.shape, mesh)) for path, array in parameters.items()}


def put(array: Shaped[Array, "..."], sharding: Sharding) -> jax.Array:
    """Puts an array onto devices, which may be those of several processes: each has the array, and fills its own.

    Args:
        array: on the host, the same everywhere, or on devices.
        sharding: where it shall live.
    """
    if sharding.is_fully_addressable or (isinstance(array, jax.Array) and not array.is_fully_addressable):
        return jax.device_put(array, sharding)
    host = np.asarray(array)  # device_put would ask all processes whether theirs is the same, at every call
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def mesh_of(parameter: Shaped[Array, "..."]) -> Mesh | None:
    """Returns the mesh on which a parameter lives; None if it is on none, or is an array of the host."""
    mesh = getattr(getattr(parameter, "sharding", None), "mesh", None)
    return mesh if isinstance(mesh, Mesh) else None


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: rows over `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(batch_size: int, mesh: Mesh, accumulation_steps: int = 1) -> None:
    """Raises UserError if the rows of a batch cannot be split evenly over the mesh and the microbatches."""
    ways = mesh.shape["data"] * accumulation_steps
    if batch_size % ways:
        below, above = max(1, batch_size // ways) * ways, (batch_size // ways + 1) * ways
        raise UserError(
            f"batch size {batch_size} is not divisible by {ways} (data axis of the mesh {mesh.shape['data']} x "
            f"{accumulation_steps} microbatches); use {below} or {above}"
        )


def check_heads(heads: int, mesh: Mesh, name: str) -> None:
    """Raises UserError if the `model` axis does not split the heads of an LM evenly."""
    ways = mesh.shape["model"]
    if heads % ways:
        divisors = ", ".join(str(size) for size in range(1, heads + 1) if heads % size == 0)
        raise UserError(f"make_mesh.model = {ways} does not divide the {heads} heads of {name}; take one of {divisors}")


def row_share(mesh: Mesh) -> tuple[int, int]:
    """Returns which part of a batch's rows this process makes, and of how many.

    Processes make different parts, unless the `model` axis reaches across them: those that it joins make the same one.

    Args:
        mesh: axes ('data', 'model').

    Raises:
        UserError: if two processes have rows in common and others not.
    """
    return _share([[device.process_index for device in devices] for devices in mesh.devices], jax.process_index())


def _share(processes: Sequence[Sequence[int]], own: int) -> tuple[int, int]:
    """As `row_share`, from the processes of the devices along `data` and `model`."""
    rows: dict[int, list[int]] = {}
    for row, along_model in enumerate(processes):
        for process in set(along_model):
            rows.setdefault(process, []).append(row)
    parts = sorted(set(map(tuple, rows.values())))
    if sum(map(len, parts)) != len(processes):
        raise UserError(
            f"make_mesh.model = {len(processes[0])} splits a host's devices unevenly; let it divide their number, or "
            "be a multiple of it"
        )
    return parts.index(tuple(rows[own])), len(parts)


def put_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Puts this process's rows of a batch onto the mesh as one global batch."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), batch)


Rows = Shaped[Array, "..."] | EncoderInputs | None


def spread_rows(arrays: Sequence[Rows], like: Shaped[Array, "..."]) -> Sequence[Rows]:
    """Splits rows over the `data` axis of the mesh on which the parameter `like` lives.

    Where the axis does not divide them, every device has them all.

    Args:
        arrays: the first has B rows, the others B or a multiple of it; those of `EncoderInputs` too.
        like: any parameter of the model that will read them.
    """
    if (mesh := mesh_of(like)) is None:
        return arrays
    uneven = len(jax.tree.leaves(arrays)[0]) % mesh.shape["data"]
    sharding = replicated(mesh) if uneven else batch_sharding(mesh)
    return [jax.tree.map(lambda rows: put(rows, sharding), array) for array in arrays]
