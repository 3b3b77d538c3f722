"""Zarr arrays, in plain folders or inside an OCDBT database, opened with tensorstore and with suspicion."""

from __future__ import annotations

import math
import pathlib
from typing import Any

import numpy as np
import tensorstore
from etils import epath
from jaxtyping import Shaped

from frozen_jax.errors import UserError
from frozen_jax.lm.pretrained.stored import Part, StoredArray

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
    try:
        keys = tensorstore.KvStore.open(database).result().list().result()
    except ValueError as error:
        raise UserError(f"{where} is corrupt or cut short: {_reason(error)}") from error
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
    try:
        store: Any = tensorstore.open(spec, open=True, read=True).result()  # its stubs make every property optional
        keys = store.kvstore.list().result()
    except ValueError as error:
        raise UserError(f"{where}/{path} is missing, corrupt or cut short: {_reason(error)}") from error
    chunks = sum(not key.startswith(b".z") for key in keys)
    grid = zip(store.shape, store.chunk_layout.write_chunk.shape, strict=True)
    wanted = math.prod(-(-size // chunk) for size, chunk in grid)
    if chunks != wanted:
        raise UserError(f"{where}/{path} has {chunks} chunks, but its shape {tuple(store.shape)} needs {wanted}")

    def read(part: Part) -> Shaped[np.ndarray, "*shape"]:
        try:
            return np.asarray(store[part].read().result())
        except ValueError as error:
            raise UserError(f"{where}/{path} is corrupt or cut short: {_reason(error)}") from error

    return StoredArray(tuple(store.shape), np.dtype(store.dtype.numpy_dtype), read)


def _reason(error: ValueError) -> str:
    """The library's message without the specs and source locations that follow it."""
    return " ".join(str(error).partition(" [")[0].split())
