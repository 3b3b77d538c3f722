"""The arrays of a GGUF file: mapped into memory, and dequantized part by part by the package `gguf`."""

from __future__ import annotations

import functools
import math
import pathlib
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Float, UInt8

from frozen_jax import gguf_metadata
from frozen_jax.errors import UserError
from frozen_jax.lm.pretrained.stored import StoredArray, in_memory

ROWS = 1024  # dequantized at once, so that little memory is needed beside the result
_FLOATS: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    1: np.dtype("<f2"),
    28: np.dtype("<f8"),
    30: np.dtype(ml_dtypes.bfloat16),
}


def open_file(source: str, path: pathlib.Path) -> tuple[dict[str, Any], dict[str, StoredArray]]:
    """Opens a GGUF file.

    Args:
        source: its name, for messages.
        path: where it is.

    Returns:
        Its metadata, and its arrays under the file's names: as they are if they are floating-point numbers, as float32
        if they are quantized. Of the arrays nothing has been read.

    Raises:
        UserError: if it is no GGUF, cut short, or of a type that nobody can dequantize.
    """
    try:
        with path.open("rb") as stream:
            values, tensors = gguf_metadata.read_with_tensors(stream.read)
            end = stream.tell()
        alignment = values.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1:
            raise ValueError(f"its general.alignment is {alignment!r}")
        content = np.asarray(np.memmap(path, np.uint8, "r"))
    except (OSError, ValueError) as error:
        raise UserError(f"{source} is no GGUF file that can be read: {error}") from error
    data = content[-(-end // alignment) * alignment :]
    return values, {name: _stored(source, name, data, *tensor) for name, tensor in tensors.items()}


def _stored(
    source: str, name: str, data: UInt8[np.ndarray, " bytes"], shape: tuple[int, ...], kind: int, offset: int
) -> StoredArray:
    block, size = (1, _FLOATS[kind].itemsize) if kind in _FLOATS else _quantization(source, name, kind)
    if shape[-1] % block or 0 in shape:
        raise UserError(f"{source} is corrupt: {name} of shape {shape} is quantized in blocks of {block}")
    row = shape[-1] // block * size
    end = offset + math.prod(shape[:-1]) * row
    if end > len(data):
        raise UserError(f"{source} is cut short: {name} ends {end - len(data)} bytes behind its end")
    packed = data[offset:end].reshape(*shape[:-1], row)
    if kind in _FLOATS:
        return in_memory(packed.view(_FLOATS[kind]))
    return StoredArray(shape, np.dtype(np.float32), functools.partial(_dequantized, packed, kind, block, size))


def _quantization(source: str, name: str, kind: int) -> tuple[int, int]:
    """Numbers in a block, and its bytes; the package is asked whether it can dequantize one."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

    try:
        quantization = GGMLQuantizationType(kind)
        block, size = GGML_QUANT_SIZES[quantization]
        dequantize(np.zeros((1, size), np.uint8), quantization)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise UserError(f"{source}: {name} is quantized in a way that cannot be read: {error}") from error
    return block, size


def _dequantized(
    packed: UInt8[np.ndarray, "*rows bytes"], kind: int, block: int, size: int, part: tuple[slice, ...]
) -> Float[np.ndarray, "*shape"]:
    """The blocks that hold the part, dequantized a few rows at a time."""
    from gguf import GGMLQuantizationType, dequantize

    *rows, columns = part
    first, last = columns.start // block, -(-columns.stop // block)
    blocks = packed[(*rows, slice(first * size, last * size))]
    shape = (*blocks.shape[:-1], columns.stop - columns.start)
    blocks = blocks.reshape(-1, blocks.shape[-1])
    inside = slice(columns.start - first * block, columns.stop - first * block)
    result = np.empty((len(blocks), shape[-1]), np.float32)
    for start in range(0, len(blocks), ROWS):
        rows_here = slice(start, start + ROWS)
        result[rows_here] = dequantize(blocks[rows_here], GGMLQuantizationType(kind))[:, inside]
    return result.reshape(shape)
