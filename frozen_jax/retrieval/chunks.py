"""Rows that a slow stage makes, on disk as they are made: a stage that was killed goes on behind its last whole chunk.

    directory/NAME-1f0c63a9b2d4/made.json        what decides the rows, in full; the folder's name has its sum
                               /00000000.npz     rows 0 ... 511, as arrays by name
                               /00000512.npz     ...

Every chunk is a file of its own, whole or not there, so that it may lie on gs:// as well. What is made otherwise lies
in another folder; nothing is ever taken for something else.

Several processes make every row together, as the work on devices has to be, or all alike, as texts are: the first one
writes it, and says what is there.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Shaped

from frozen_jax import cloud_storage, processes, progress
from frozen_jax.errors import UserError

FORMAT = 1  # another number makes everything anew: for the day on which stages make other rows of the same settings
Rows = dict[str, Shaped[np.ndarray, "..."]]  # name → [rows, ...]


class Chunks:
    """The rows of one stage.

    Attributes:
        folder: where they lie.
        total: how many rows there will be.
        size: rows of a chunk; the last may have fewer.
    """

    def __init__(
        self, directory: epath.PathLike, name: str, made: Mapping[str, Any], total: int, size: int = 512
    ) -> None:
        """Says where the rows lie; reads and writes nothing.

        Args:
            directory: for the stages of a run, local or gs://.
            name: of the stage.
            made: everything that decides the rows, as JSON.
            total: how many rows there will be.
            size: rows of a chunk: what a kill costs at most.
        """
        whole = {**made, "rows": total, "rows_a_chunk": size, "format": FORMAT}
        self._made = json.dumps(whole, sort_keys=True, indent=1)
        digest = hashlib.sha256(self._made.encode()).hexdigest()
        self.folder = cloud_storage.open_path(directory) / f"{name}-{digest[:12]}"
        self.total, self.size = total, size

    def fill(self, compute: Callable[[range], Rows], unit: str) -> None:
        """Makes the rows that are not there yet, chunk by chunk, with a progress bar.

        Args:
            compute: numbers of consecutive rows → the rows; each array has as many rows.
            unit: what a row is, for the progress bar.

        Raises:
            UserError: if the folder cannot be written.
        """
        missing = self.missing()
        if not missing:
            return
        done = self.total - sum(map(len, missing))
        with (
            cloud_storage.refusals_explained(self.folder),
            progress.bar(initial=done, total=self.total, desc=self.folder.name, unit=unit) as bar,
        ):
            cloud_storage.write_whole(self.folder / "made.json", self._made)
            for rows in missing:
                _write(self._file(rows.start), compute(rows))
                bar.update(len(rows))
        processes.wait(self.folder.name)  # only now can others read what the first has written

    def missing(self) -> list[range]:
        """The chunks that are not there yet, each by the numbers of its rows."""
        starts = processes.from_first(
            lambda: [rows.start for rows in self._chunks() if not self._file(rows.start).exists()]
        )
        return [rows for rows in self._chunks() if rows.start in starts]

    def __iter__(self) -> Iterator[Rows]:
        """The chunks, in order, one at a time; the first process reads them.

        Raises:
            UserError: if one is missing or damaged.
        """
        for rows in self._chunks():
            file = self._file(rows.start)
            yield _rows(file, processes.from_first(functools.partial(_content, file)))

    def part(self, start: int, stop: int) -> Rows:
        """The rows from `start` up to, but not with, `stop`; no other chunk than theirs is read.

        Raises:
            UserError: if one of those is missing or damaged.
        """
        parts = []
        for rows in self._chunks()[start // self.size : math.ceil(stop / self.size)]:
            file = self._file(rows.start)
            here = slice(max(0, start - rows.start), stop - rows.start)
            parts.append({name: array[here] for name, array in _rows(file, _content(file)).items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def whole(self) -> Rows:
        """All rows in one.

        Raises:
            UserError: if a chunk is missing or damaged.
        """
        chunks = list(self)
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def _chunks(self) -> list[range]:
        count = math.ceil(self.total / self.size)
        return [range(i * self.size, min((i + 1) * self.size, self.total)) for i in range(count)]

    def _file(self, start: int) -> epath.Path:
        return self.folder / f"{start:08}.npz"


def _write(file: epath.Path, rows: Rows) -> None:
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **rows)
    cloud_storage.write_whole(file, stream.getvalue())


def _content(file: epath.Path) -> bytes:
    with _damage_told(file):
        return file.read_bytes()


def _rows(file: epath.Path, content: bytes) -> Rows:
    with _damage_told(file):
        found = np.load(io.BytesIO(content), allow_pickle=False)
        return {name: found[name] for name in found.files}


@contextlib.contextmanager
def _damage_told(file: epath.Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is missing or damaged ({error}); delete it, and it is made anew") from error
