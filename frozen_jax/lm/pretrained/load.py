"""`load_lm`: from the name of a model to the model, its weights on their devices.

    lm = load_lm("titler-t5-small")
    lm = load_lm("google/flan-t5-small", revision="refs/pr/1")
    lm = load_lm("models/Llama-3.2-1B-Instruct-Q8_0.gguf")
    lm = load_lm("gs://bucket/t5_1_1_xxl/checkpoint_1000000", mesh=mesh, mlp_activations=("gelu", "linear"))
    lm = load_lm("titler-t5-small", num_decoder_layers=0)  # its encoder alone

A model stacks layers into one array a parameter (`encoder/layers/attention/query/kernel` [L, D, H*K]); sources keep
them apart (`encoder/layers_0/...`). With a mesh, each device's shard is read from the files on its own, so that no host
ever holds a parameter that it only needs a part of. Of what devices of several hosts hold alike each host reads a part,
and they send it to each other:

    mesh 4x2     mlp/wo/kernel [24, F, D]      lives     [24, F/2, D] on every device, four times in all
                                               is read   [6, F/2, D] for every device, once in all ──all-gather──▶ lives
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Float, Shaped

from frozen_jax import cloud_storage, hub, processes
from frozen_jax.errors import UserError
from frozen_jax.lm.base import LanguageModel
from frozen_jax.lm.llama import Llama, LlamaConfig
from frozen_jax.lm.pretrained import gguf, huggingface, smollm2, t5x, titler
from frozen_jax.lm.pretrained.llama_arrays import check_config
from frozen_jax.lm.pretrained.stored import Checkpoint, StoredArray, check_arrays, fingerprint
from frozen_jax.lm.t5 import T5, T5Config
from frozen_jax.partitioning import is_here, sharding_for, split_further

NAMED_SOURCES: dict[str, Callable[..., Checkpoint]] = {
    titler.NAME: titler.open_checkpoint,
    smollm2.NAME: smollm2.open_checkpoint,
}
FAMILIES: dict[type, Callable[..., LanguageModel]] = {T5Config: T5, LlamaConfig: Llama}  # config → model
DTYPES = ("float32", "bfloat16", "float16")


def load_lm(
    source: str, *, dtype: str | None = None, mesh: Mesh | None = None, revision: str | None = None, **config: Any
) -> LanguageModel:
    """Loads a pretrained language model.

    Args:
        source: a named source (`titler-t5-small`, `smollm2-135m`), a Hugging Face folder or hub id, a GGUF file, or a
            T5X checkpoint folder (also on `gs://`).
        dtype: of parameters and activations; None is float32 on CPU and bfloat16 on accelerators.
        mesh: where the parameters shall live, axes ('data', 'model'); None is the default device. On a mesh that is not
            here (see `partitioning.standing_in`) no weight is read, and a source not even opened where `config` tells
            the whole shape: to be called within `nnx.eval_shape`.
        revision: of a hub id.
        **config: fields of `T5Config` or `LlamaConfig` that the source does not tell, or that shall differ.

    Returns:
        The model, a `T5` or a `Llama`. Its `name` is the source, its `fingerprint` identifies the stored weights on
        every machine.

    Raises:
        UserError: for an unknown source or keyword, and for files that are corrupt or disagree with their config.
    """
    dtype = _dtype(dtype, mesh)
    if mesh is not None and not is_here(mesh):
        return _planned_lm(source, dtype, revision, config)
    checkpoint = open_checkpoint(source, revision=revision, **config)
    graph, state = nnx.split(_abstract_lm(dataclasses.replace(checkpoint.config, dtype=dtype), checkpoint))
    parameters = dict(nnx.to_flat_state(state))
    for path, parameter in parameters.items():
        name = "/".join(map(str, path))
        layers = [checkpoint.arrays[layer] for layer in _layer_names(name, parameter.shape)]
        parameters[path] = parameter.replace(_place(name, parameter.shape, layers, dtype, mesh))
    return nnx.merge(graph, nnx.from_flat_state(parameters))


def _planned_lm(source: str, dtype: str, revision: str | None, told: dict[str, Any]) -> LanguageModel:
    """The model with random weights, which cost nothing where everything is traced."""
    assert isinstance(jnp.zeros(()), Tracer), "arrays would be made: plan within nnx.eval_shape"
    config, mark = _whole_config(told), source
    if config is None:
        checkpoint = open_checkpoint(source, revision=revision, **told)
        config, mark = checkpoint.config, fingerprint(checkpoint.arrays)
    made = FAMILIES[type(config)](
        dataclasses.replace(config, dtype=dtype), rngs=nnx.Rngs(0), name=source, fingerprint=mark
    )
    graph, state = nnx.split(made)
    return nnx.merge(graph, jax.tree.map(lambda leaf: leaf.astype(dtype), state))


def _whole_config(told: dict[str, Any]) -> T5Config | LlamaConfig | None:
    """The shape of an LM, where a user tells all of it."""
    for kind in (T5Config, LlamaConfig):
        fields = dataclasses.fields(kind)
        wanted = {field.name for field in fields if field.default is field.default_factory is dataclasses.MISSING}
        if wanted <= told.keys() <= {field.name for field in fields}:
            return kind(**told)
    return None


def open_checkpoint(source: str, *, revision: str | None = None, **config: Any) -> Checkpoint:
    """Finds out what kind of source it is, reads its headers, and checks that config and arrays agree.

    Args:
        source: see `load_lm`.
        revision: of a hub id.
        **config: fields of the family's config.

    Returns:
        The checkpoint, which holds exactly the arrays that its config asks for.

    Raises:
        UserError: as `load_lm`.
    """
    checkpoint = _without_decoder(_opener(source, revision)(source, **config))
    layers = sum(value for field, value in vars(checkpoint.config).items() if field.endswith("_layers"))
    if layers > len(checkpoint.arrays):  # before a table of that length is made
        raise UserError(f"{source}: {layers} layers by the config, but {len(checkpoint.arrays)} arrays in the files")
    if isinstance(checkpoint.config, LlamaConfig):
        check_config(source, checkpoint.config)
    check_arrays(checkpoint, canonical_shapes(checkpoint.config))
    return checkpoint


def _without_decoder(checkpoint: Checkpoint) -> Checkpoint:
    """Leaves the decoder out of a T5 that shall have none: `num_decoder_layers=0` loads an encoder from any source."""
    if not isinstance(checkpoint.config, T5Config) or checkpoint.config.num_decoder_layers:
        return checkpoint
    arrays = {name: stored for name, stored in checkpoint.arrays.items() if not name.startswith("decoder/")}
    return dataclasses.replace(checkpoint, arrays=arrays)


def canonical_shapes(config: T5Config | LlamaConfig) -> dict[str, tuple[int, ...]]:
    """The parameters of a model under their canonical names, layers apart.

    Args:
        config: its shape.

    Returns:
        The shape of each.
    """
    shapes = {}
    abstract = nnx.eval_shape(lambda: FAMILIES[type(config)](config, rngs=nnx.Rngs(0)))
    for path, parameter in nnx.to_flat_state(nnx.state(abstract)):
        name = "/".join(map(str, path))
        names = _layer_names(name, parameter.shape)
        shapes.update(dict.fromkeys(names, parameter.shape if names == [name] else parameter.shape[1:]))
    return shapes


def _opener(source: str, revision: str | None) -> Callable[..., Checkpoint]:
    if source in NAMED_SOURCES:
        return NAMED_SOURCES[source]
    if source.endswith(".gguf"):
        return _gguf_opener(source)
    folder = cloud_storage.open_path(source)
    if source and folder.is_dir():
        return _folder_opener(source, folder)
    if hub.is_hub_id(source):
        return functools.partial(huggingface.open_checkpoint, revision=revision)
    close = difflib.get_close_matches(source, NAMED_SOURCES) or list(NAMED_SOURCES)
    raise UserError(
        f"unknown language model {source!r}: it is no named source ({', '.join(close)}), "
        "no folder, no GGUF file, no hub id"
    )


def _gguf_opener(source: str) -> Callable[..., Checkpoint]:
    if cloud_storage.is_cloud(source):  # the file is mapped into memory
        raise UserError(f"{source}: GGUF files are read from a local disk; `gcloud storage cp {source} FOLDER`")
    if not epath.Path(source).is_file():
        raise UserError(f"there is no file {source}")
    return gguf.open_checkpoint


def _folder_opener(source: str, folder: epath.Path) -> Callable[..., Checkpoint]:
    if t5x.find_checkpoint(folder) is not None:
        return t5x.open_checkpoint
    if (folder / "config.json").is_file():
        if cloud_storage.is_cloud(source):  # safetensors maps files into memory
            raise UserError(
                f"{source}: Hugging Face folders are read from a local disk; `gcloud storage cp -r {source} FOLDER`"
            )
        return huggingface.open_checkpoint
    raise UserError(
        f"{source} holds no language model: neither config.json (Hugging Face), "
        "nor a file `checkpoint` or a folder `state` or `checkpoint_N` (T5X)"
    )


def _dtype(dtype: str | None, mesh: Mesh | None) -> str:
    if dtype is None:
        platform = mesh.devices.flat[0].platform if mesh is not None else jax.default_backend()
        return "float32" if platform == "cpu" else "bfloat16"
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r} is not known; choose from {', '.join(DTYPES)}")
    return dtype


def _abstract_lm(config: T5Config | LlamaConfig, checkpoint: Checkpoint) -> LanguageModel:
    """The model without memory: shapes in place of arrays."""
    mark = fingerprint(checkpoint.arrays)
    lm_class = FAMILIES[type(config)]
    return nnx.eval_shape(lambda: lm_class(config, rngs=nnx.Rngs(0), name=checkpoint.name, fingerprint=mark))


def _layer_names(name: str, shape: tuple[int, ...]) -> list[str]:
    """The canonical names of what a parameter of the model stacks; its own name if it stacks nothing."""
    if "/layers/" not in name:
        return [name]
    return [name.replace("/layers/", f"/layers_{layer}/") for layer in range(shape[0])]


def _place(
    name: str, shape: tuple[int, ...], layers: list[StoredArray], dtype: str, mesh: Mesh | None
) -> Float[jax.Array, "*shape"]:
    """Reads one parameter to where it lives."""
    stacked = "/layers/" in name

    @functools.cache  # devices that hold the same part share one read
    def read(*bounds: tuple[int, int]) -> Shaped[np.ndarray, "*shape"]:
        part = tuple(slice(start, stop) for start, stop in bounds)
        if not stacked:
            return layers[0].read(part).astype(dtype)
        result = np.empty([stop - start for start, stop in bounds], jnp.dtype(dtype))
        for row, stored in zip(result, layers[part[0]], strict=True):
            row[...] = stored.read(part[1:])
        return result

    def read_index(index: tuple[slice, ...] | None) -> Shaped[np.ndarray, "*shape"]:
        index = index or (slice(None),) * len(shape)
        return read(*(part.indices(size)[:2] for part, size in zip(index, shape, strict=True)))

    if mesh is None:
        return jnp.asarray(read_index(None))
    sharding = sharding_for(name, shape, mesh)
    if not processes.are_several():
        return jax.make_array_from_callback(shape, sharding, read_index)
    return _sent(sharding)(jax.make_array_from_callback(shape, split_further(shape, sharding), read_index))


@functools.cache  # so that parameters of one shape share a program
def _sent(sharding: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda array: array, out_shardings=sharding)
