"""What the tests of sources share: T5X's fixtures, and checkpoints in every format written anew, whole or broken."""

from __future__ import annotations

import json
import pathlib
import shutil

import msgpack
import numpy as np
import safetensors.numpy
import tensorstore
from flax import nnx

FIXTURES = pathlib.Path(__file__).parents[2] / "fixtures" / "t5x"
GATED = ("gelu", "linear")


def fixture_params(case: str = "t5_1_1_tiny_legacy") -> dict[str, np.ndarray]:
    return dict(np.load(FIXTURES / case / "params.npz"))


def copied(case: str, folder: pathlib.Path) -> pathlib.Path:
    """A copy of a fixture's checkpoint that a test may break."""
    return pathlib.Path(shutil.copytree(FIXTURES / case / "checkpoint_7", folder / "checkpoint_7"))


def loaded_params(lm: nnx.Module) -> dict[str, np.ndarray]:
    """The parameters of a live model under their canonical names, layers apart."""
    found = {}
    for path, parameter in nnx.to_flat_state(nnx.state(lm)):
        name, value = "/".join(map(str, path)), np.asarray(parameter[...])
        if "/layers/" in name:
            found |= {name.replace("/layers/", f"/layers_{i}/"): layer for i, layer in enumerate(value)}
        else:
            found[name] = value
    return found


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def inline(array: np.ndarray, shape: tuple[int, ...] | None = None) -> msgpack.ExtType:
    """An array as flax puts it into msgpack; `shape` lies about it."""
    content = (shape or array.shape, array.dtype.name, array.tobytes())
    return msgpack.ExtType(1, msgpack.packb(content))


def zarr(folder: pathlib.Path, name: str, array: np.ndarray, chunks: tuple[int, ...] | None = None) -> dict:
    """Writes an array as a zarr folder and gives the spec that T5X keeps of it."""
    path = f"target.{name.replace('/', '.')}/"
    metadata = {"shape": array.shape, "chunks": chunks or array.shape, "compressor": {"id": "gzip", "level": 1}}
    kvstore = {"driver": "file", "path": f"{folder.resolve()}/{path}"}
    spec = {"driver": "zarr", "kvstore": kvstore, "metadata": metadata, "dtype": array.dtype.name, "create": True}
    tensorstore.open(spec).result().write(array).result()
    return {"driver": "zarr", "kvstore": {"driver": "gfile", "path": path}, "metadata": metadata}


def legacy(folder: pathlib.Path, leaves: dict[str, object]) -> pathlib.Path:
    """Writes the msgpack of a legacy checkpoint."""
    folder.mkdir(exist_ok=True)
    target: dict = {}
    for name, leaf in leaves.items():
        node = target
        *parents, last = name.split("/")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    tree = {"version": 3, "optimizer": {"state": {"step": inline(np.asarray(7, np.int32))}, "target": target}}
    (folder / "checkpoint").write_bytes(msgpack.packb(tree))
    return folder


def ocdbt(folder: pathlib.Path, arrays: dict[str, np.ndarray]) -> pathlib.Path:
    """Writes an orbax checkpoint's database."""
    base = {"driver": "file", "path": f"{(folder / 'state').resolve()}/"}
    for name, array in arrays.items():
        kvstore = {"driver": "ocdbt", "base": base, "path": f"target.{name.replace('/', '.')}/"}
        metadata = {"shape": array.shape, "chunks": array.shape, "compressor": {"id": "zstd", "level": 1}}
        spec = {"driver": "zarr", "kvstore": kvstore, "metadata": metadata, "dtype": array.dtype.name, "create": True}
        tensorstore.open(spec).result().write(array).result()
    return folder


def scanned(arrays: dict[str, np.ndarray], *, per_layer_bias: bool = True) -> dict[str, np.ndarray]:
    """The arrays of a fixture as `scalable_t5` stacks them; its biases are made to differ from layer to layer."""
    stacked, layers = {}, {}
    for name, array in arrays.items():
        stack, _, rest = name.partition("/")
        if rest.startswith("layers_"):
            layers.setdefault(f"{stack}/{stack}/{rest.partition('/')[2]}", []).append(array)
        elif rest.startswith("relpos_bias") and per_layer_bias:
            layers[f"{stack}/{stack}/{rest}"] = [array, 2 * array]
        else:
            stacked[name] = array
    return stacked | {name: np.stack(parts, axis=1) for name, parts in layers.items()}


def transformers_name(name: str) -> str:
    """transformers' name of a parameter, told the other way round than the table under test tells it."""
    top = {
        "token_embedder/embedding": "shared.weight",
        "decoder/logits_dense/kernel": "lm_head.weight",
        "encoder/relpos_bias/rel_embedding": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "decoder/relpos_bias/rel_embedding": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "encoder/encoder_norm/scale": "encoder.final_layer_norm.weight",
        "decoder/decoder_norm/scale": "decoder.final_layer_norm.weight",
    }
    if name in top:
        return top[name]
    stack, layer, block, rest = name.split("/", 3)
    inside = {
        "pre_attention_layer_norm/scale": "layer.0.layer_norm",
        "pre_self_attention_layer_norm/scale": "layer.0.layer_norm",
        "pre_cross_attention_layer_norm/scale": "layer.1.layer_norm",
        "pre_mlp_layer_norm/scale": "layer.1.layer_norm" if stack == "encoder" else "layer.2.layer_norm",
        "relpos_bias/rel_embedding": "layer.0.SelfAttention.relative_attention_bias",
    }
    for module, place in (
        ("attention", "layer.0.SelfAttention"),
        ("self_attention", "layer.0.SelfAttention"),
        ("encoder_decoder_attention", "layer.1.EncDecAttention"),
    ):
        for matrix in ("query", "key", "value", "out"):
            inside[f"{module}/{matrix}/kernel"] = f"{place}.{'o' if matrix == 'out' else matrix[0]}"
    for matrix in ("wi", "wi_0", "wi_1", "wo"):
        inside[f"mlp/{matrix}/kernel"] = f"layer.{1 if stack == 'encoder' else 2}.DenseReluDense.{matrix}"
    return f"{stack}.block.{layer.removeprefix('layers_')}.{inside[f'{block}/{rest}']}.weight"


def transformers_tensors(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters as transformers names and turns them."""
    turned = ("/kernel", "/rel_embedding")
    return {
        transformers_name(name): np.ascontiguousarray(array.T if name.endswith(turned) else array)
        for name, array in params.items()
    }


def transformers_folder(folder: pathlib.Path, params: dict[str, np.ndarray], **config: object) -> pathlib.Path:
    """Writes a folder as transformers 4 wrote it; the widths are those of the T5 1.1 fixture."""
    widths = {"vocab_size": 128, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_heads": 3}
    depth = {"num_layers": 2, "num_decoder_layers": 2}
    kind = {"model_type": "t5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(widths | depth | kind | config))
    safetensors.numpy.save_file(transformers_tensors(params), folder / "model.safetensors")
    return folder
