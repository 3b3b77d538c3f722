"""What the processes of one run agree on: who writes, what the first has found, and when all are there.

    every process    the same host data, the same calls in the same order; its devices' part of the work
    the first        looks at shared files and writes them; what it finds there goes for all

Evaluation, inference and preparing run everywhere alike, so that all hold the same answers without asking. What could
differ is asked of one: files, which a shared disk shows to some hosts later than to others, and clocks. An error
that is raised where one looks is raised everywhere, so that none waits for another that has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from flax.serialization import msgpack_restore, msgpack_serialize
from jax.experimental import multihost_utils
from jaxtyping import Shaped, UInt8

from frozen_jax.errors import UserError

T = TypeVar("T")


def are_several() -> bool:
    """Returns whether this is one process of several; before JAX knows of others, it is alone."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Returns whether this is the process that writes shared files and speaks to people."""
    return not are_several() or jax.process_index() == 0


def share(items: Sequence[T]) -> Sequence[T]:
    """Returns this process's part of things that are divided among all: of n processes, every n-th."""
    return items[jax.process_index() :: jax.process_count()] if are_several() else items


def wait(name: str) -> None:
    """Waits until all processes are here.

    Args:
        name: of the place; if processes wait at different ones, JAX says so.
    """
    if are_several():
        multihost_utils.sync_global_devices(name)


def from_first(look: Callable[[], T]) -> T:
    """Lets the first process look, and returns what it found in every process.

    Args:
        look: what is done there alone, such as reading a file. Returns what msgpack knows: texts, bytes, numbers, None,
            arrays, and lists and dictionaries of them.

    Raises:
        UserError: with the message of what `look` raised, which the first process itself raises as it is.
    """
    if not are_several():
        return look()
    packed, error = _packed(look) if is_first() else (b"", None)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(packed))))
    return _unpacked(multihost_utils.broadcast_one_to_all(_padded(packed, size)), size, error)


def from_each(look: Callable[[], T]) -> list[T]:
    """Lets every process look, and returns what all found, in the order of their numbers, in every process.

    Args:
        look: what each does; see `from_first`.

    Raises:
        UserError: as `from_first`, if it raised in any.
    """
    if not are_several():
        return [look()]
    packed, error = _packed(look)
    sizes = multihost_utils.process_allgather(np.int32(len(packed))).tolist()
    rows = multihost_utils.process_allgather(_padded(packed, max(sizes)))
    return [_unpacked(row, size, error) for row, size in zip(rows, sizes, strict=True)]


def whole(array: Shaped[Any, "..."]) -> Shaped[np.ndarray, "..."]:
    """Returns an array to every host, wherever its parts are; all processes have to ask for it.

    Args:
        array: on devices, or on the host already.
    """
    if isinstance(array, jax.Array) and not (array.is_fully_addressable or array.is_fully_replicated):
        return multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def _packed(look: Callable[[], Any]) -> tuple[bytes, Exception | None]:
    try:
        return msgpack_serialize({"found": look()}), None
    except Exception as error:
        return msgpack_serialize({"error": " ".join(f"{error or type(error).__name__}".split())}), error


def _padded(packed: bytes, size: int) -> UInt8[np.ndarray, " bytes"]:
    """To a power of two: every size is a program of its own."""
    found = np.zeros(1 << size.bit_length(), np.uint8)
    found[: len(packed)] = np.frombuffer(packed, np.uint8)
    return found


def _unpacked(packed: UInt8[np.ndarray, " bytes"], size: int, own: Exception | None) -> Any:
    found = msgpack_restore(packed[:size].tobytes())
    if "error" in found:
        raise own or UserError(found["error"])
    return found["found"]
