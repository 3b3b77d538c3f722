"""A folder of safetensors: one file, or shards and their index. Never a pickle.

Headers alone are read when a folder is opened; the files are mapped into memory, and arrays read part by part.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from frozen_jax import hub, processes
from frozen_jax.errors import UserError
from frozen_jax.lm.pretrained.stored import StoredArray

ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


def open_tensors(source: str, folder: pathlib.Path) -> dict[str, StoredArray]:
    """Opens every tensor of a folder.

    Args:
        source: the folder as the user gave it, or the hub id that it was fetched for.
        folder: where it is.

    Returns:
        The tensors under the names and in the orientation of the file.

    Raises:
        UserError: if a file is missing, corrupt or cut short, or the weights are pickled.
    """
    if (folder / INDEX).is_file() and not (folder / ONE_FILE).is_file():
        return _open_shards(folder)
    if not (folder / ONE_FILE).is_file():
        raise UserError(_no_safetensors(folder, None if pathlib.Path(source).is_dir() else source))
    return _open_file(folder / ONE_FILE)


def check_tied_head(source: str, arrays: Mapping[str, StoredArray], table: str) -> None:
    """Checks that a head which the config ties to the embeddings, but which is stored as well, is their table.

    Args:
        source: for the message.
        arrays: under canonical names.
        table: the file's name of the embedding table.

    Raises:
        UserError: if it differs.
    """
    embedding, head = arrays.get("token_embedder/embedding"), arrays.get("decoder/logits_dense/kernel")
    if embedding is None or head is None:
        return
    equal = processes.from_first(lambda: bool(np.array_equal(head.read_all().T, embedding.read_all())))
    if not equal:
        raise UserError(
            f"{source}: config.json ties the head to the embeddings, but lm_head.weight differs from {table}; "
            "give logits_via_embedding=False to use lm_head.weight, or True to ignore it"
        )


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: of the file.

    Returns:
        What it holds.

    Raises:
        UserError: if there is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is missing or no JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no JSON object")
    return content


def _open_shards(folder: pathlib.Path) -> dict[str, StoredArray]:
    shard_of = read_json(folder / INDEX).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(shard, str) for shard in shard_of.values()):
        raise UserError(f"{folder / INDEX} has no `weight_map` from tensor names to files")
    outside = [shard for shard in shard_of.values() if pathlib.PurePath(shard).name != shard]
    if outside:
        raise UserError(f"{folder / INDEX} names the file {outside[0]!r}, which is not in its own folder")
    shards = {shard: _open_file(folder / shard) for shard in set(shard_of.values())}
    lost = [name for name, shard in shard_of.items() if name not in shards[shard]]
    if lost:
        raise UserError(f"{folder / shard_of[lost[0]]} lacks the tensor {lost[0]}, which {INDEX} says it holds")
    return {name: shards[shard][name] for name, shard in shard_of.items()}


def _open_file(path: pathlib.Path) -> dict[str, StoredArray]:
    """Maps one file into memory; the library checks every size in its header against the file's."""
    import safetensors

    try:
        handle = safetensors.safe_open(path, framework="numpy")
        views = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 (it is no mapping)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path} is missing, corrupt or cut short: {error}") from error
    return {name: _stored(path, name, view) for name, view in views.items()}


def _stored(path: pathlib.Path, name: str, view: Any) -> StoredArray:
    if view.get_dtype() not in _DTYPES:
        raise UserError(f"{path}: {name} is stored as {view.get_dtype()}; {', '.join(_DTYPES)} can be read")
    read: Callable[[tuple[slice, ...]], np.ndarray] = view.__getitem__
    return StoredArray(tuple(view.get_shape()), _DTYPES[view.get_dtype()], read)


def _no_safetensors(folder: pathlib.Path, hub_id: str | None) -> str:
    """What to say to someone whose model has no safetensors."""
    if hub_id is None:
        pickles = [path.name for pattern in PICKLES for path in folder.glob(pattern)]
        found = f"only {pickles[0]}, a pickle, which could run code and is never opened" if pickles else "no weights"
        hint = "; on the hub, a revision such as 'refs/pr/1' often has them" if pickles else ""
        return f"{folder} holds {found}; {ONE_FILE} or {INDEX} is needed{hint}"
    revision = hub.find_revision(hub_id, (ONE_FILE, INDEX))
    advice = f"revision={revision!r}, which has them" if revision else "a revision='refs/pr/N' that has them"
    return f"{hub_id} holds no safetensors at this revision, and pickles are never opened; try {advice}"
