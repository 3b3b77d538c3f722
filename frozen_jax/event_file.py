"""TensorBoard's event files: length, checksum, protocol buffer, checksum, one record after the other.

Written here in a few lines because the libraries that write them either import TensorFlow or torch, or hand the events
to a thread that stops the run for ever when the disk is full.
"""

from __future__ import annotations

import struct
import time

from etils import epath

_POLYNOMIAL = 0x82F63B78  # CRC-32C, bits reversed


def _table_entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE = [_table_entry(byte) for byte in range(256)]


class EventFile:
    """A file of scalars, which TensorBoard reads.

    Attributes:
        path: of the file; it appears at the first `flush`.
    """

    def __init__(self, directory: epath.PathLike, first_step: int = 0) -> None:
        """Names a new file; those of runs before it stay.

        Args:
            directory: what TensorBoard's --logdir is to find.
            first_step: what earlier files say of this step and of later ones is no longer shown.
        """
        self.path = epath.Path(directory) / f"events.out.tfevents.{time.time_ns() // 1000}.frozen_jax"
        self._pending = [_event(_bytes(3, b"brain.Event:2"))]
        if first_step:
            self._pending.append(_event(_integer(2, first_step) + _bytes(7, _integer(1, 1))))  # a session starts

    def add(self, tag: str, value: float, step: int) -> None:
        """Takes one scalar."""
        summary = _bytes(1, _bytes(1, tag.encode()) + _float(2, value))
        self._pending.append(_event(_integer(2, step) + _bytes(5, summary)))

    def flush(self) -> None:
        """Writes what was taken."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(b"".join(self._pending))
        self._pending = []


def _event(what: bytes) -> bytes:
    event = _double(1, time.time()) + what
    length = struct.pack("<Q", len(event))
    return length + _masked_checksum(length) + event + _masked_checksum(event)


def _masked_checksum(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _integer(field: int, number: int) -> bytes:
    return _varint(field << 3) + _varint(number)


def _double(field: int, number: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", number)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _float(field: int, number: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", number)
