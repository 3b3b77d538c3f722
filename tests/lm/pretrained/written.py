"""What the tests of sources share: T5X's fixtures, and checkpoints in every format written anew, whole or broken."""

from __future__ import annotations

import json
import pathlib
import re
import shutil

import gguf
import msgpack
import numpy as np
import safetensors.numpy
import tensorstore
from flax import nnx

from frozen_jax.lm.llama import LlamaConfig
from frozen_jax.lm.pretrained import load

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


_LLAMA_NAMES = {  # canonical module → transformers', llama.cpp's
    "pre_self_attention_layer_norm/scale": ("input_layernorm.weight", "attn_norm.weight"),
    "pre_mlp_layer_norm/scale": ("post_attention_layernorm.weight", "ffn_norm.weight"),
    "self_attention/query/kernel": ("self_attn.q_proj.weight", "attn_q.weight"),
    "self_attention/key/kernel": ("self_attn.k_proj.weight", "attn_k.weight"),
    "self_attention/value/kernel": ("self_attn.v_proj.weight", "attn_v.weight"),
    "self_attention/query/bias": ("self_attn.q_proj.bias", "attn_q.bias"),
    "self_attention/key/bias": ("self_attn.k_proj.bias", "attn_k.bias"),
    "self_attention/value/bias": ("self_attn.v_proj.bias", "attn_v.bias"),
    "self_attention/out/kernel": ("self_attn.o_proj.weight", "attn_output.weight"),
    "mlp/wi_0/kernel": ("mlp.gate_proj.weight", "ffn_gate.weight"),
    "mlp/wi_1/kernel": ("mlp.up_proj.weight", "ffn_up.weight"),
    "mlp/wo/kernel": ("mlp.down_proj.weight", "ffn_down.weight"),
    "token_embedder/embedding": ("model.embed_tokens.weight", "token_embd.weight"),
    "decoder/decoder_norm/scale": ("model.norm.weight", "output_norm.weight"),
    "decoder/logits_dense/kernel": ("lm_head.weight", "output.weight"),
}


def llama_tensors(params: dict[str, np.ndarray], *, gguf: bool = False) -> dict[str, np.ndarray]:
    """Parameters of a Llama as transformers names and turns them, or llama.cpp."""
    tensors = {}
    for name, array in params.items():
        layer = re.fullmatch(r"decoder/layers_(\d+)/(.*)", name)
        found = _LLAMA_NAMES[layer[2] if layer else name][gguf]
        prefix = f"{'blk' if gguf else 'model.layers'}.{layer[1]}." if layer else ""
        tensors[prefix + found] = np.ascontiguousarray(array.T if name.endswith("/kernel") else array)
    return tensors


def llama_params(config: LlamaConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Random parameters, norms and biases too, under canonical names."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in load.canonical_shapes(config).items()}


def llama_folder(folder: pathlib.Path, config: LlamaConfig, **settings: object) -> pathlib.Path:
    """Writes a folder as transformers 4 wrote a Llama, or a Qwen2 if there are biases."""
    said = {
        "model_type": "qwen2" if config.qkv_bias else "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.emb_dim,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "rms_norm_eps": config.layer_norm_epsilon,
        "tie_word_embeddings": config.logits_via_embedding,
        "bos_token_id": config.bos_id,
        "eos_token_id": config.eos_id,
        "pad_token_id": config.pad_id,
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(said | settings))
    safetensors.numpy.save_file(llama_tensors(llama_params(config)), folder / "model.safetensors")
    return folder


def woven(rows: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a Llama's queries or keys as llama.cpp's converter orders them."""
    return rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def gguf_file(
    path: pathlib.Path,
    config: LlamaConfig,
    quantization: str = "F32",
    *,
    tensors: dict[str, np.ndarray] | None = None,
    **values: object,
) -> str:
    """Writes a GGUF with the package's own writer; `tensors` are more of them, or None for one to be left out.

    Args:
        quantization: of all matrices.
        tensors: see above.
        **values: metadata, `__` for a dot; None leaves an entry out.
    """
    architecture = "qwen2" if config.qkv_bias else "llama"
    said = {
        f"{architecture}.embedding_length": config.emb_dim,
        f"{architecture}.attention.head_count": config.num_heads,
        f"{architecture}.attention.head_count_kv": config.num_kv_heads,
        f"{architecture}.attention.key_length": config.head_dim,
        f"{architecture}.feed_forward_length": config.mlp_dim,
        f"{architecture}.block_count": config.num_layers,
        f"{architecture}.attention.layer_norm_rms_epsilon": config.layer_norm_epsilon,
        "tokenizer.ggml.bos_token_id": config.bos_id,
        "tokenizer.ggml.eos_token_id": config.eos_id,
        "tokenizer.ggml.padding_token_id": config.pad_id,
        "tokenizer.ggml.tokens": [f"token {i}" for i in range(config.vocab_size)],
    }
    said |= {key.replace("__", "."): value for key, value in values.items()}
    writer = gguf.GGUFWriter(path, str(said.pop("general.architecture", architecture)))
    for key, value in said.items():
        if value is not None:
            writer.add_key_value(key, value, *_gguf_types(value))
    for name, array in (llama_tensors(llama_params(config), gguf=True) | (tensors or {})).items():
        if architecture == "llama" and name.endswith((".attn_q.weight", ".attn_k.weight")):
            array = woven(array, len(array) // config.head_dim)
        if array is not None:
            kind = gguf.GGMLQuantizationType[quantization if array.ndim == 2 else "F32"]
            writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def _gguf_types(value: object) -> tuple[gguf.GGUFValueType, ...]:
    kinds = {
        bool: gguf.GGUFValueType.BOOL,
        int: gguf.GGUFValueType.UINT32,
        float: gguf.GGUFValueType.FLOAT32,
        str: gguf.GGUFValueType.STRING,
    }
    if isinstance(value, list):
        return gguf.GGUFValueType.ARRAY, kinds[type(value[0])]
    return (kinds[type(value)],)
