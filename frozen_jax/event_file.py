"""TensorBoard's event files, in tensorboardX's messages and checksums.

Not by its SummaryWriter: that hands events to a thread, which stops a run for ever when the disk is full.
"""

from __future__ import annotations

import struct
import time

from etils import epath
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from frozen_jax import cloud_storage


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
        self._appends = not cloud_storage.is_cloud(self.path)
        self._pending = [Event(wall_time=time.time(), file_version="brain.Event:2")]
        if first_step:
            start = SessionLog(status=SessionLog.START)
            self._pending.append(Event(wall_time=time.time(), step=first_step, session_log=start))

    def add(self, tag: str, value: float, step: int) -> None:
        """Takes one scalar."""
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
        self._pending.append(Event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        """Writes what was taken. On `gs://`, where nothing can be appended to, that is all that was ever taken."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab" if self._appends else "wb") as file:
            file.write(b"".join(map(_record, self._pending)))
        if self._appends:
            self._pending = []


def _record(event: Event) -> bytes:
    """TFRecord's framing: length, its checksum, the event, its checksum."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))
