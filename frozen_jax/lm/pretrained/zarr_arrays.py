"""Zarr arrays, in plain folders or inside an OCDBT database, opened with tensorstore and with suspicion."""

from __future__ import annotations

import contextlib
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorstore
from etils import epath
from jaxtyping import Shaped

from frozen_jax import cloud_storage
from frozen_jax.errors import UserError
from frozen_jax.lm.pretrained.stored import Part, StoredArray

# What is read of a chunk for one device is there for the next.
_CHUNKS_KEPT = tensorstore.Context({"cache_pool": {"total_bytes_limit": 2**28}})
KvSpec = dict[str, Any]  # what tensorstore calls the JSON of a key-value store


def folder_spec(folder: epath.Path) -> KvSpec:
    """How tensorstore names a folder.

    Args:
        folder: local, or on `gs://`.

    Returns:
        The spec of the key-value store of its files.
    """
    path = str(folder)
    if path.startswith("gs://"):
        bucket, _, inside = path.removeprefix("gs://").partition("/")
        return {"driver": "gcs", "bucket": bucket, "path": f"{inside.rstrip('/')}/"}
    return {"driver": "file", "path": f"{pathlib.Path(folder).resolve()}/"}


def array_paths(database: KvSpec, where: str) -> list[str]:
    """The zarr arrays of a key-value store.

    Args:
        database: spec of the store.
        where: its path, for messages.

    Returns:
        The path of every array inside it.

    Raises:
        UserError: if the store cannot be read.
    """
    with _reading(where):
        keys = tensorstore.KvStore.open(database).result().list().result()
    return [key.decode().removesuffix("/.zarray") for key in keys if key.endswith(b"/.zarray")]


def open_zarr(database: KvSpec, path: str, where: str) -> StoredArray:
    """Opens one array; only its metadata is read.

    Args:
        database: spec of the store that holds it.
        path: the array's path inside the store, which has been checked.
        where: the store's path, for messages.

    Returns:
        The array.

    Raises:
        UserError: if its metadata cannot be read, or one of its chunks is missing: zarr would take that for zeros.
    """
    spec = {"driver": "zarr", "kvstore": {**database, "path": f"{database.get('path', '')}{path}/"}}
    with _reading(f"{where}/{path}", "missing, corrupt or cut short"):
        opening = tensorstore.open(spec, open=True, read=True, context=_CHUNKS_KEPT)
        store: Any = opening.result()  # its stubs make every property optional
        keys = store.kvstore.list().result()
    chunks = sum(not key.startswith(b".z") for key in keys)
    grid = zip(store.shape, store.chunk_layout.write_chunk.shape, strict=True)
    wanted = math.prod(-(-size // chunk) for size, chunk in grid)
    if chunks != wanted:
        raise UserError(f"{where}/{path} has {chunks} chunks, but its shape {tuple(store.shape)} needs {wanted}")

    def read(part: Part) -> Shaped[np.ndarray, "*shape"]:
        with _reading(f"{where}/{path}"):
            return np.asarray(store[part].read().result())

    return StoredArray(tuple(store.shape), np.dtype(store.dtype.numpy_dtype), read)


@contextlib.contextmanager
def _reading(what: str, state: str = "corrupt or cut short") -> Iterator[None]:
    """Turns the library's errors into one line, without the specs and source locations that it adds."""
    try:
        with cloud_storage.refusals_explained(what):
            yield
    except ValueError as error:
        raise UserError(f"{what} is {state}: {' '.join(str(error).partition(' [')[0].split())}") from error
