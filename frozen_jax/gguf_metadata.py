"""What a GGUF file says about itself, read from its beginning; what its tensors hold is never touched.

    "GGUF"  version  number of tensors  number of entries  │ key  type  value │ ...  │ name  shape  type  place │ ...

The package `gguf` reads tensors, and does it well. It also wants a file on a local disk, maps all of it, and makes two
arrays of every token, which takes seconds; and it believes a length that lies behind the end of the file. Hence this:
any stream will do, such as one inside a wheel or on `gs://`, and no length is believed before its bytes are there.

Source: ggml's docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

VERSIONS = (2, 3)
LONGEST = 1 << 28  # bytes of one value: the merges of the largest vocabularies take about 1 << 23
MOST_DIMENSIONS = 4
_NUMBERS = {number: np.dtype(f"<{kind}") for number, kind in enumerate(("u1", "i1", "u2", "i2", "u4", "i4", "f4"))}
_NUMBERS |= {7: np.dtype("?"), 10: np.dtype("<u8"), 11: np.dtype("<i8"), 12: np.dtype("<f8")}
_TEXT, _ARRAY = 8, 9

Read = Callable[[int], bytes]


class Tensor(NamedTuple):
    """Where a tensor lies.

    Attributes:
        shape: its shape, rows first.
        kind: the number of its type or quantization.
        offset: where it begins, counted from the first tensor.
    """

    shape: tuple[int, ...]
    kind: int
    offset: int


def read(stream: Read) -> dict[str, Any]:
    """Reads the metadata of a GGUF file.

    Args:
        stream: gives the next so many bytes, fewer at the end; the file's `read`, from its beginning on.

    Returns:
        Key to value: a text, a number, a truth, or a list of one of them.

    Raises:
        ValueError: if it is no GGUF file of a known version, or ends within its metadata.
    """
    return _values(stream)[0]


def read_with_tensors(stream: Read) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads the metadata of a GGUF file, and where its tensors lie; padding, and then they, come next in `stream`.

    Args:
        stream: as for `read`.

    Returns:
        What `read` gives, and name to tensor.

    Raises:
        ValueError: as `read`, and for tensors that have no or too many dimensions.
    """
    values, count = _values(stream)
    return values, {_text(stream): _tensor(stream) for _ in range(count)}


def _values(stream: Read) -> tuple[dict[str, Any], int]:
    if (magic := stream(4)) != b"GGUF":
        raise ValueError(f"it begins with {magic!r} and not with b'GGUF'")
    version = _number(stream, 4)
    if version not in VERSIONS:
        raise ValueError(f"it is GGUF of version {version}; {' and '.join(map(str, VERSIONS))} can be read")
    tensors, entries = _number(stream, 10), _number(stream, 10)
    return {_text(stream): _value(stream) for _ in range(entries)}, tensors


def _tensor(stream: Read) -> Tensor:
    dimensions = _number(stream, 4)
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise ValueError(f"one of its tensors has {dimensions} dimensions")
    shape = tuple(_number(stream, 10) for _ in range(dimensions))[::-1]
    return Tensor(shape, _number(stream, 4), _number(stream, 10))


def _value(stream: Read) -> Any:
    kind = _number(stream, 4)
    if kind != _ARRAY:
        return _text(stream) if kind == _TEXT else _number(stream, kind)
    kind, count = _number(stream, 4), _number(stream, 10)
    if kind == _TEXT:
        return [_text(stream) for _ in range(count)]
    dtype = _dtype(kind)
    return np.frombuffer(_bytes(stream, count * dtype.itemsize), dtype).tolist()


def _dtype(kind: int) -> np.dtype:
    if kind not in _NUMBERS:
        raise ValueError(f"its metadata hold a value of the unknown type {kind}")
    return _NUMBERS[kind]


def _number(stream: Read, kind: int) -> Any:
    dtype = _dtype(kind)
    return np.frombuffer(_bytes(stream, dtype.itemsize), dtype)[0].item()


def _text(stream: Read) -> str:
    (length,) = struct.unpack("<Q", _bytes(stream, 8))  # of a hundred thousand tokens; NumPy would take a second
    return _bytes(stream, length).decode()


def _bytes(stream: Read, count: int) -> bytes:
    found = stream(count) if count <= LONGEST else b""
    if len(found) < count:
        raise ValueError(f"it ends within its metadata: of {count:,} bytes {len(found):,} are there")
    return found
