"""Passages in a file, read one by one as they are asked for: millions of them need no memory.

    wheels.cache_folder()/passages/5f0c63a9b2d41e77/offsets.npy    where each passage begins in the file, and its end
                                                   /hashes.npy     64 bits of each id, sorted
                                                   /order.npy      the numbers of the passages with these ids
                                                   /made.json      the file, its size, time and sum; written last

One scan of the file writes these, and looks at every passage: 24 bytes a passage, mapped into memory. The folder's name
is a hash of the file's path, size and time, so that a file that was changed is scanned again.
"""

from __future__ import annotations

import array
import contextlib
import hashlib
import json
import operator
import os
import pathlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, SupportsIndex

import gin
import numpy as np
from etils import epath
from jaxtyping import UInt64
from numpy import ndarray

from frozen_jax import cloud_storage, progress, wheels
from frozen_jax.errors import UserError
from frozen_jax.retrieval import corpora
from frozen_jax.retrieval.base import Passage
from frozen_jax.retrieval.passage_lines import PassageLines

_FORMAT = 1
_MADE = "made.json"


class Table(NamedTuple):
    """What is known of a file's N passages.

    Attributes:
        offsets: where each begins; behind the last, the file's size.
        hashes: of their ids, sorted.
        order: the number of the passage that each hash is of.
    """

    offsets: UInt64[ndarray, " N+1"]
    hashes: UInt64[ndarray, " N"]
    order: UInt64[ndarray, " N"]


@gin.configurable
class Passages:
    """The passages of a file, by number and by id; a `base.Corpus`.

    Any number of threads may read. On gs:// every passage costs an opening, which fetches megabytes: copy a file to a
    disk if more than a few passages are wanted one by one. Iterating reads the file through.

    Attributes:
        path: of the file.
        sha256: of the file.
    """

    def __init__(self, path: epath.PathLike) -> None:
        """Scans the file, or finds what an earlier scan has left.

        Args:
            path: of a `.jsonl` or `.tsv` file, see `passage_lines`, local or gs://; or a name out of
                `corpora.NAMED`.

        Raises:
            UserError: if there is no such file, it holds no passages or something that is none, or an id stands in it
                twice; or if the cache folder cannot be written.
        """
        path = corpora.path_of(str(path)) if path in corpora.NAMED else path
        self._lines = PassageLines(path)
        self.path = cloud_storage.open_path(path)
        file = _identity(self.path)
        self._read_bytes = _reader(self.path)
        key = hashlib.sha256(json.dumps(file).encode()).hexdigest()[:16]
        folder = wheels.cache_folder() / "passages" / key
        if (found := _read(folder, file)) is None:
            self._table, self.sha256 = _scan(self.path, self._lines, file["size"])
            self._check_ids()
            _write(folder, file, self._table, self.sha256)
            found = _read(folder, file) or (self._table, self.sha256)
        self._table, self.sha256 = found

    def __len__(self) -> int:
        return len(self._table.hashes)

    def __getitem__(self, number: SupportsIndex, /) -> Passage:
        number = operator.index(number)
        if not 0 <= number < len(self):  # a negative one is `base.NONE`, and no passage
            raise IndexError(f"{self.path} holds passages 0 to {len(self) - 1}; there is no {number}")
        start, end = map(int, self._table.offsets[number : number + 2])
        return self._lines.passage(self._read_bytes(start, end - start), number)

    def __iter__(self) -> Iterator[Passage]:
        with self.path.open("rb") as stream:
            stream.seek(int(self._table.offsets[0]))
            for number, line in enumerate(stream):
                yield self._lines.passage(line, number)

    def number(self, id: str) -> int:  # noqa: A002
        """Finds a passage.

        Args:
            id: its id.

        Returns:
            Its number.

        Raises:
            UserError: if there is none of that id.
        """
        wanted = np.uint64(_hash(id))
        first, last = (int(np.searchsorted(self._table.hashes, wanted, side)) for side in ("left", "right"))
        for number in map(int, self._table.order[first:last]):
            if self[number].id == id:
                return number
        raise UserError(f"{self.path} holds no passage {id!r}")

    def _check_ids(self) -> None:
        """Refuses an id that stands twice. Equal hashes of different ids are chance: once in 84,000 Wikipedias."""
        hashes, order = self._table.hashes, self._table.order
        for equal in np.unique(hashes[1:][hashes[1:] == hashes[:-1]]):
            first, last = (int(np.searchsorted(hashes, equal, side)) for side in ("left", "right"))
            seen: dict[str, int] = {}
            for number in sorted(map(int, order[first:last])):
                id_ = self[number].id
                if id_ in seen:
                    lines = " and ".join(str(self._lines.line_number(n)) for n in (seen[id_], number))
                    raise UserError(f"{self.path}, lines {lines}: both have the id {id_!r}; ids must differ")
                seen[id_] = number


def _identity(path: epath.Path) -> dict[str, Any]:
    """What a file is known by before it is read."""
    try:
        if cloud_storage.is_cloud(path):
            stat = path.stat()
            size, modified, name = stat.length, stat.mtime, os.fspath(path)
        else:
            stat = os.stat(path)
            size, modified, name = stat.st_size, stat.st_mtime_ns, os.path.realpath(path)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    return {"format": _FORMAT, "file": name, "size": int(size), "modified": int(modified)}


def _reader(path: epath.Path) -> Callable[[int, int], bytes]:
    """Reads from a place so many bytes, in any thread: a local file is opened once, for opening takes longest."""
    if cloud_storage.is_cloud(path):

        def read(start: int, size: int) -> bytes:
            with path.open("rb") as stream:
                stream.seek(start)
                return stream.read(size)

        return read
    file = os.open(path, os.O_RDONLY)

    def read_open_file(start: int, size: int) -> bytes:
        return os.pread(file, size, start)

    weakref.finalize(read_open_file, os.close, file)
    return read_open_file


def _scan(path: epath.Path, lines: PassageLines, size: int) -> tuple[Table, str]:
    offsets, hashes, digest = array.array("Q"), array.array("Q"), hashlib.sha256()
    place = 0
    with path.open("rb") as stream, progress.bar(total=size, unit="B", unit_scale=True, desc=path.name) as bar:
        for index, line in enumerate(stream, -lines.header_lines):
            if index < 0:
                lines.check_header(line)
            else:
                offsets.append(place)
                hashes.append(_hash(lines.passage(line, index).id))
            digest.update(line)
            place += len(line)
            bar.update(len(line))
    if not hashes:
        raise UserError(f"{path} holds no passages")
    offsets.append(place)
    found = np.frombuffer(hashes, np.uint64)
    order = np.argsort(found, kind="stable").astype(np.uint64)
    return Table(np.frombuffer(offsets, np.uint64), found[order], order), digest.hexdigest()


def _hash(id_: str) -> int:
    return int.from_bytes(hashlib.blake2b(id_.encode(), digest_size=8).digest(), "little")


def _write(folder: pathlib.Path, file: dict[str, Any], table: Table, sha256: str) -> None:
    """Every file whole, `made.json` last: a scan that is killed leaves nothing that looks finished."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with cloud_storage.scratch_beside(folder / _MADE) as scratch:
            for name, values in table._asdict().items():
                np.save(pathlib.Path(scratch, f"{name}.npy"), values)
                os.replace(pathlib.Path(scratch, f"{name}.npy"), folder / f"{name}.npy")
        made = {"file": file, "sha256": sha256}
        cloud_storage.write_own(epath.Path(folder / _MADE), json.dumps(made, indent=1))
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}); set FROZEN_JAX_CACHE to a folder that can"
        ) from error


def _read(folder: pathlib.Path, file: dict[str, Any]) -> tuple[Table, str] | None:
    """What a scan has left; None if there was none, or what it left is damaged."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        made = json.loads((folder / _MADE).read_text())
        table = Table(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in Table._fields))
        whole = len(table.offsets) - 1 == len(table.hashes) == len(table.order)
        if whole and made["file"] == file:
            return table, made["sha256"]
    return None
