"""The container GGUF: names and values, then arrays, many of them quantized.

    "GGUF", version u32, number of arrays u64, number of values u64
    values    key, type u32, value
    arrays    name, number of dimensions u32, sizes u64 (the innermost first), type u32, offset u64
    padding, then the arrays' bytes, each at its offset

The header is read here, and not by the reader of the package `gguf`: that one makes several objects of every token and
merge, which takes seconds, and believes whatever length a file claims. The package dequantizes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
import struct
from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Float, UInt8

from frozen_jax.errors import UserError
from frozen_jax.lm.pretrained.stored import StoredArray, in_memory

VERSIONS = (2, 3)
ROWS = 1024  # dequantized at once, so that little memory is needed beside the result
_NUMBERS = dict(zip(range(8), "BbHhIif?", strict=True)) | {10: "Q", 11: "q", 12: "d"}  # type → letter of `struct`
_STRING, _ARRAY = 8, 9
_FLOATS: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    1: np.dtype("<f2"),
    28: np.dtype("<f8"),
    30: np.dtype(ml_dtypes.bfloat16),
}


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a GGUF holds.

    Attributes:
        values: numbers, strings, and lists of either (numbers as numpy arrays).
        arrays: under the file's names, as float32 if they are quantized.
    """

    values: dict[str, Any]
    arrays: dict[str, StoredArray]


def map_file(path: str) -> UInt8[np.ndarray, " bytes"]:
    """Maps a file into memory.

    Args:
        path: of the file.

    Returns:
        Its bytes, which are read when they are looked at.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        empty = not pathlib.Path(path).stat().st_size  # which numpy does not map
        return np.empty(0, np.uint8) if empty else np.asarray(np.memmap(path, np.uint8, "r"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def read_contents(source: str, content: UInt8[np.ndarray, " bytes"]) -> Contents:
    """Reads the header of a GGUF.

    Args:
        source: its name, for messages.
        content: the whole file.

    Returns:
        What it holds; arrays are read, and dequantized, part by part when they are asked for.

    Raises:
        UserError: if it is no GGUF, cut short, or of a type that nobody can dequantize.
    """
    cursor = _Cursor(source, content.data)
    if bytes(content[:4]) != b"GGUF":
        raise UserError(f"{source} is no GGUF file: it does not begin with the letters GGUF")
    cursor.take(4)
    if (version := cursor.number("I")) not in VERSIONS:
        raise UserError(f"{source} is a GGUF of version {version}, or of the other byte order; 2 and 3 can be read")
    arrays, entries = cursor.number(), cursor.number()
    values = _unique(source, ((cursor.string(), cursor.value(cursor.number("I"))) for _ in range(entries)))
    infos = _unique(source, ((cursor.string(), cursor.shape_type_offset()) for _ in range(arrays)))
    alignment = values.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1:
        raise UserError(f"{source} says general.alignment {alignment!r}, expected a positive whole number")
    data = content[-(-cursor.at // alignment) * alignment :]
    return Contents(values, {name: _stored(source, name, data, *info) for name, info in infos.items()})


class _Cursor:
    """A place in a header. Whatever length the header claims, no more is taken than the file holds."""

    def __init__(self, source: str, content: memoryview) -> None:
        self.source, self.content, self.at = source, content, 0

    def take(self, size: int) -> memoryview:
        start, self.at = self.at, self.at + size
        if self.at > len(self.content):
            raise UserError(f"{self.source} is cut short or corrupt: its header goes on behind its end")
        return self.content[start : self.at]

    def number(self, letter: str = "Q") -> Any:
        return struct.unpack(f"<{letter}", self.take(struct.calcsize(f"<{letter}")))[0]

    def string(self) -> str:
        return str(self.take(self.number()), "utf-8", "surrogateescape")

    def value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _STRING:
            return self.string()
        inner, count = (self.number("I"), self.number()) if kind == _ARRAY else (kind, 0)
        if inner in _NUMBERS:
            dtype = np.dtype(f"<{_NUMBERS[inner]}")
            return np.ndarray(count, dtype, self.take(count * dtype.itemsize))
        if inner == _STRING:
            return [self.string() for _ in range(count)]
        raise UserError(f"{self.source} is corrupt: a value of its header has the type {inner}, which GGUF has not")

    def shape_type_offset(self) -> tuple[tuple[int, ...], int, int]:
        dimensions = self.number("I")
        if not 1 <= dimensions <= 4:
            raise UserError(f"{self.source} is corrupt: it has an array of {dimensions} dimensions")
        shape = tuple(self.number() for _ in range(dimensions))[::-1]
        return shape, self.number("I"), self.number()


def _unique(source: str, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise UserError(f"{source} is corrupt: it has {name!r} twice")
        found[name] = value
    return found


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
