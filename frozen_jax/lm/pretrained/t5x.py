"""T5X checkpoints of T5s, read by format: T5X itself is not needed. Both formats, local or on `gs://`.

    checkpoint_1000000/checkpoint                      legacy: msgpack; a tree of small arrays and of zarr specs
    checkpoint_1000000/target.encoder....kernel/       legacy: one zarr folder an array, named by those specs
    checkpoint_1000000/state/manifest.ocdbt            orbax: one OCDBT database of zarr arrays, named by their paths

A checkpoint does not hold its config. Widths, heads, depth and the kind of head are read off the arrays; the
activations of a gated MLP cannot be, and are a keyword: `mlp_activations=("gelu", "linear")`.

`scalable_t5` scans over layers. Its arrays stack them on axis 1, under `encoder/encoder/` and `decoder/decoder/`, and
every layer has its own position bias. They are taken apart:

    encoder/encoder/attention/query/kernel [D, L, H*K]           encoder/layers_{i}/attention/query/kernel [D, H*K]
    encoder/encoder/relpos_bias/rel_embedding [H, L, buckets]    encoder/layers_{i}/relpos_bias/rel_embedding
"""

from __future__ import annotations

import math
import pathlib
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
from etils import epath

from frozen_jax.errors import UserError
from frozen_jax.lm.pretrained.settings import checked_keywords
from frozen_jax.lm.pretrained.stored import Checkpoint, StoredArray, in_memory, layer_of
from frozen_jax.lm.pretrained.zarr_arrays import array_paths, folder_spec, open_zarr
from frozen_jax.lm.t5 import T5Config

MAX_DEPTH = 32  # of the tree in a legacy checkpoint; T5X's has 8
MAX_LAYERS = 1000  # of a scanned stack
MAX_COMPRESSION = 1100  # gzip packs at most 1032 bytes into one
SCAN_AXIS = 1
_NDARRAY = 1  # flax's msgpack extension code for arrays
_DTYPES = {
    b"float64": np.dtype(np.float64),
    b"float32": np.dtype(np.float32),
    b"float16": np.dtype(np.float16),
    b"bfloat16": np.dtype(ml_dtypes.bfloat16),
}


def find_checkpoint(folder: epath.Path) -> epath.Path | None:
    """Looks for a T5X checkpoint.

    Args:
        folder: a checkpoint, or a folder of several `checkpoint_N`.

    Returns:
        The checkpoint, of several the latest as in T5X; None if there is none.
    """
    if _is_legacy(folder) or (folder / "state").is_dir():
        return folder
    steps: dict[int, epath.Path] = {}
    for child in folder.iterdir():
        match = re.fullmatch(r"checkpoint_(\d+)", child.name)
        if match and (_is_legacy(child) or (child / "state").is_dir()):
            steps[int(match[1])] = child
    return steps[max(steps)] if steps else None


def open_checkpoint(source: str, **config: Any) -> Checkpoint:
    """Opens a T5X checkpoint.

    Args:
        source: a folder `checkpoint_N`, or one that holds several; local or on `gs://`.
        **config: fields of `T5Config` that cannot be read off the arrays, or shall differ: `mlp_activations`,
            `relative_position_max_distance`, `layer_norm_epsilon`, ...

    Returns:
        The checkpoint; of the arrays, only metadata has been read.

    Raises:
        UserError: if there is no such checkpoint, it is corrupt, its paths leave its folder, or a keyword is missing.
    """
    keywords = checked_keywords(T5Config, config)
    folder = find_checkpoint(epath.Path(source))
    if folder is None:
        raise UserError(f"{source} holds no T5X checkpoint: neither a file `checkpoint` nor a folder `state`")
    arrays = _open_legacy(folder) if _is_legacy(folder) else _open_orbax(folder)
    _check_claims(folder, arrays)
    arrays = _unstacked(source, arrays)
    return Checkpoint(source, _read_config(source, arrays, keywords), arrays)


def _is_legacy(folder: epath.Path) -> bool:
    return (folder / "checkpoint").is_file()


def _open_orbax(folder: epath.Path) -> dict[str, StoredArray]:
    state = folder / "state"
    database = folder_spec(state)
    if (state / "manifest.ocdbt").is_file():
        database = {"driver": "ocdbt", "base": database}
    paths = [path for path in array_paths(database, str(state)) if path.startswith("target.")]
    return {
        path.removeprefix("target.").replace(".", "/"): open_zarr(database, path, str(state)) for path in sorted(paths)
    }


def _open_legacy(folder: epath.Path) -> dict[str, StoredArray]:
    return {name: _open_leaf(folder, name, leaf) for name, leaf in _leaves(_target_tree(folder / "checkpoint"))}


def _target_tree(file: epath.Path) -> dict[str, Any]:
    try:
        # No size in the file can make this take more memory than the file itself: msgpack checks them as it goes.
        tree = msgpack.unpackb(file.read_bytes())
    except ValueError as error:  # of which msgpack's own errors are kinds
        raise UserError(f"{file} is corrupt or cut short: it is no msgpack ({error})") from error
    for key in ("optimizer", "target"):
        tree = tree.get(key) if isinstance(tree, dict) else None
    if not isinstance(tree, dict):
        raise UserError(f"{file} is no T5X checkpoint: it has no optimizer/target")
    return tree


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The leaves of the tree under their slash-joined names; a zarr spec, a dictionary too, is a leaf."""
    for key, value in tree.items():
        if isinstance(value, dict) and "kvstore" not in value and len(path) < MAX_DEPTH:
            yield from _leaves(value, (*path, str(key)))
        else:
            yield "/".join((*path, str(key))), value


def _open_leaf(folder: epath.Path, name: str, leaf: Any) -> StoredArray:
    if isinstance(leaf, msgpack.ExtType) and leaf.code == _NDARRAY:
        return _inline_array(folder, name, leaf.data)
    store = leaf.get("kvstore") if isinstance(leaf, dict) else None
    path = store.get("path") if isinstance(store, dict) else None
    if not isinstance(path, str):
        raise UserError(f"{folder}/checkpoint: {name} is neither an array nor the path of one")
    return open_zarr(folder_spec(folder), _inside(folder, path), str(folder))


def _inside(folder: epath.Path, path: str) -> str:
    """The path, which may come from anybody, if it stays inside the checkpoint, symbolic links followed."""
    clean = posixpath.normpath(path)
    outside = clean.startswith(("/", "..")) or clean == "."
    if not outside and not str(folder).startswith("gs://"):
        outside = not pathlib.Path(folder, clean).resolve().is_relative_to(pathlib.Path(folder).resolve())
    if outside:
        raise UserError(f"{folder}/checkpoint: the path {path!r} leaves the checkpoint's folder")
    return clean


def _inline_array(folder: epath.Path, name: str, data: bytes) -> StoredArray:
    """An array that lies in the msgpack itself: its shape, its dtype's name, its bytes."""
    try:
        shape, dtype_name, content = msgpack.unpackb(data, raw=True)
        dtype = _DTYPES[dtype_name]
        if math.prod(shape) * dtype.itemsize != len(content):
            raise ValueError(f"shape {tuple(shape)} of {dtype} does not fit {len(content)} bytes")
        return in_memory(np.frombuffer(content, dtype).reshape(shape))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder}/checkpoint: the array {name} is corrupt: {error}") from error


def _check_claims(folder: epath.Path, arrays: Mapping[str, StoredArray]) -> None:
    """Refuses shapes that the folder's bytes cannot hold, however compressed. On `gs://` that takes too many calls."""
    if str(folder).startswith("gs://"):
        return
    held = sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file())
    for name, stored in arrays.items():
        claimed = math.prod(stored.shape) * stored.dtype.itemsize
        if claimed > held * MAX_COMPRESSION:
            raise UserError(
                f"{folder}: {name} claims shape {stored.shape}, {claimed:,} bytes; the folder holds {held:,}"
            )


def _unstacked(source: str, arrays: Mapping[str, StoredArray]) -> dict[str, StoredArray]:
    """The arrays, with those that stack layers taken apart."""
    flat: dict[str, StoredArray] = {}
    for name, stored in arrays.items():
        match = re.fullmatch(r"(encoder/encoder|decoder/decoder)/(.+)", name)
        if match is None:
            flat[name] = stored
            continue
        if len(stored.shape) <= SCAN_AXIS or stored.shape[SCAN_AXIS] > MAX_LAYERS:
            raise UserError(f"{source}: {name} has shape {stored.shape}; axis {SCAN_AXIS} should count layers")
        stack = match[1].split("/")[0]
        for layer in range(stored.shape[SCAN_AXIS]):
            flat[f"{stack}/layers_{layer}/{match[2]}"] = layer_of(stored, layer, SCAN_AXIS)
    return flat


def _read_config(source: str, arrays: Mapping[str, StoredArray], config: Mapping[str, Any]) -> T5Config:
    """What the arrays tell, under what the user says."""
    gated = "encoder/layers_0/mlp/wi_0/kernel" in arrays
    if gated and "mlp_activations" not in config:
        raise UserError(
            f"{source} does not say what its gated MLP's activations are; give "
            'mlp_activations=("gelu", "linear") for T5 1.1, LM-adapted, T0, Flan and mT5, ("silu", "linear") for UL2'
        )
    per_layer = "encoder/layers_0/relpos_bias/rel_embedding" in arrays
    bias = "encoder/layers_0/relpos_bias/rel_embedding" if per_layer else "encoder/relpos_bias/rel_embedding"
    vocab_size, emb_dim = _matrix_shape(source, arrays, "token_embedder/embedding")
    num_heads, buckets = _matrix_shape(source, arrays, bias)
    joined = _matrix_shape(source, arrays, "encoder/layers_0/attention/query/kernel")[1]
    if joined % num_heads:
        raise UserError(
            f"{source}: query/kernel has {joined} columns, which {num_heads} heads (of {bias}) do not divide"
        )
    read_off: dict[str, Any] = {
        "vocab_size": vocab_size,
        "emb_dim": emb_dim,
        "num_heads": num_heads,
        "head_dim": joined // num_heads,
        "mlp_dim": _matrix_shape(source, arrays, f"encoder/layers_0/mlp/{'wi_0' if gated else 'wi'}/kernel")[1],
        "num_encoder_layers": _count_layers(arrays, "encoder"),
        "num_decoder_layers": _count_layers(arrays, "decoder"),
        "mlp_activations": ("relu",),  # of T5 1.0; a gated MLP's come with `config`
        "logits_via_embedding": "decoder/logits_dense/kernel" not in arrays,
        "relative_position_buckets": buckets,
        "relative_position_bias_per_layer": per_layer,
    }
    return T5Config(**{**read_off, **config})


def _matrix_shape(source: str, arrays: Mapping[str, StoredArray], name: str) -> tuple[int, int]:
    if name not in arrays:
        raise UserError(
            f"{source} is no T5: it has no array {name}; it begins with {', '.join(sorted(arrays)[:3]) or 'none'}"
        )
    shape = arrays[name].shape
    if len(shape) != 2 or 0 in shape:
        raise UserError(f"{source}: {name} has shape {shape}, expected two axes")
    return shape[0], shape[1]


def _count_layers(arrays: Mapping[str, StoredArray], stack: str) -> int:
    return len({name.split("/")[1] for name in arrays if name.startswith(f"{stack}/layers_")})
