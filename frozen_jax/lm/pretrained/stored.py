"""What every source of weights gives: a config, and arrays that are described now and read later, part by part.

Arrays carry T5X's parameter names, one array a layer (`encoder/layers_0/attention/query/kernel`), in T5X's orientation,
whatever the container they come from:

    token_embedder/embedding [V, D]                          encoder/relpos_bias/rel_embedding [H, buckets]
    encoder/layers_{i}/pre_attention_layer_norm/scale [D]    encoder/layers_{i}/pre_mlp_layer_norm/scale [D]
    encoder/layers_{i}/attention/query/kernel [D, H*K]       (also key, value)
    encoder/layers_{i}/attention/out/kernel [H*K, D]
    encoder/layers_{i}/mlp/wi/kernel [D, F]                  (or wi_0, wi_1)
    encoder/layers_{i}/mlp/wo/kernel [F, D]
    encoder/encoder_norm/scale [D]                           decoder/... likewise
    decoder/logits_dense/kernel [D, V]                       (untied heads only)

A decoder-only LM has the table, a decoder without cross-attention, and the head: see lm/llama.py, `layers_{i}` for
`layers`. The bytes of all arrays, so named and so turned, are also what a fingerprint covers: it is the same for every
container.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from frozen_jax import processes
from frozen_jax.errors import UserError
from frozen_jax.lm.llama import LlamaConfig
from frozen_jax.lm.t5 import T5Config

Part = tuple[slice, ...]  # one slice a dimension, with a start and a stop, without a step
HASH_BLOCK = 256 * 2**20  # bytes; a giant's embedding table is hashed in pieces of this size


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array in a file.

    Attributes:
        shape: its shape, in canonical orientation.
        dtype: as it is stored.
        read: reads one part, in the stored dtype and canonical orientation.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[Part], Shaped[np.ndarray, "*shape"]]

    def read_all(self) -> Shaped[np.ndarray, "*shape"]:
        """Reads the whole array."""
        return self.read(tuple(slice(0, size) for size in self.shape))


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model in files, of which only headers have been read.

    Attributes:
        name: the source, as the user gave it.
        config: the model's shape.
        arrays: every parameter under its canonical name.
    """

    name: str
    config: T5Config | LlamaConfig
    arrays: Mapping[str, StoredArray]


def in_memory(array: Shaped[np.ndarray, "*shape"]) -> StoredArray:
    """An array that is already in memory.

    Args:
        array: the array, in canonical orientation.

    Returns:
        It, as a stored array.
    """
    return StoredArray(array.shape, array.dtype, lambda part: array[part])


def transposed(stored: StoredArray) -> StoredArray:
    """The transpose of a matrix; reading a part of it reads that part only.

    Args:
        stored: a matrix.

    Returns:
        Its transpose.
    """
    return StoredArray(stored.shape[::-1], stored.dtype, lambda part: stored.read(part[::-1]).T)


def layer_of(stored: StoredArray, layer: int, axis: int) -> StoredArray:
    """One layer of an array that stacks layers.

    Args:
        stored: the stacked array.
        layer: which one.
        axis: the axis that counts layers.

    Returns:
        The layer's array, without that axis.
    """

    def read(part: Part) -> Shaped[np.ndarray, "*shape"]:
        stacked = (*part[:axis], slice(layer, layer + 1), *part[axis:])
        return np.squeeze(stored.read(stacked), axis)

    return StoredArray(stored.shape[:axis] + stored.shape[axis + 1 :], stored.dtype, read)


def check_arrays(checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Checks, before memory is taken, that the arrays are those that the config asks for.

    Args:
        checkpoint: config and arrays.
        shapes: the canonical names and shapes that belong to the config.

    Raises:
        UserError: naming the first array that is missing, is not used, has another shape, or holds no real numbers.
    """
    arrays = checkpoint.arrays
    for name, shape in shapes.items():
        if name not in arrays:
            raise UserError(
                f"{checkpoint.name}: the array {name} of shape {shape}, which the config asks for, is missing"
            )
        if arrays[name].shape != shape:
            raise UserError(
                f"{checkpoint.name}: {name} has shape {arrays[name].shape} in the file, but shape {shape} by the config"
            )
        if not _is_real(arrays[name].dtype):
            raise UserError(
                f"{checkpoint.name}: {name} is stored as {arrays[name].dtype}, expected a floating-point type"
            )
    unused = sorted(set(arrays) - set(shapes))
    if unused:
        name = unused[0]
        raise UserError(
            f"{checkpoint.name}: the config has no place for the array {name} of shape {arrays[name].shape}"
        )


def fingerprint(arrays: Mapping[str, StoredArray]) -> str:
    """What identifies weights, whatever container, machine, sharding or compute dtype they meet.

    Args:
        arrays: the parameters under their canonical names.

    Returns:
        sha256, in hexadecimal, over a sorted line an array: name, stored dtype, shape, sha256 of its bytes in C order.
        Several processes read each array once between them.
    """
    largest_first = sorted(arrays, key=lambda name: (-math.prod(arrays[name].shape), name))
    parts = processes.from_each(lambda: {name: _digest(arrays[name]) for name in processes.share(largest_first)})
    digests = {name: digest for part in parts for name, digest in part.items()}
    total = hashlib.sha256()
    for name in sorted(arrays):
        stored = arrays[name]
        total.update(f"{name} {stored.dtype.name} {stored.shape} {digests[name]}\n".encode())
    return total.hexdigest()


def _digest(stored: StoredArray) -> str:
    """Hashes block of rows by block of rows, so that a giant's table is never in memory as a whole."""
    digest = hashlib.sha256()
    row_bytes = max(1, math.prod(stored.shape[1:]) * stored.dtype.itemsize)
    rows = max(1, HASH_BLOCK // row_bytes)
    rest = tuple(slice(0, size) for size in stored.shape[1:])
    for start in range(0, stored.shape[0], rows):
        block = stored.read((slice(start, min(start + rows, stored.shape[0])), *rest))
        digest.update(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _is_real(dtype: np.dtype[Any]) -> bool:
    return dtype.name in ("float64", "float32", "float16", "bfloat16")
