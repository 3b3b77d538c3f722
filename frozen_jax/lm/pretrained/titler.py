"""The named source `titler-t5-small`: a real T5 of flan-t5-small's shape, from a wheel on the package index.

The wheel holds two ONNX graphs, encoder and decoder, whose matrices onnxruntime quantized to 8 bits with one scale
each. They are dequantized here to float32, `(quantized - zero_point) * scale`, and what that gives is the model:
onnxruntime's own run also quantizes activations, so that its logits differ from ours (cosine 0.994 to 0.998).

Matrices have lost their names in export (`onnx::MatMul_1022_quantized`). The node that multiplies by one still carries
the module's path (`/enc/block.0/layer.0/SelfAttention/q/MatMul_quant`), which gives the name back.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Shaped

from frozen_jax import wheels
from frozen_jax.lm.pretrained.huggingface_t5 import canonical_name
from frozen_jax.lm.pretrained.settings import checked_keywords
from frozen_jax.lm.pretrained.stored import Checkpoint, StoredArray, in_memory, transposed
from frozen_jax.lm.t5 import T5Config

NAME = "titler-t5-small"
WHEEL = "traceforge-title-model"
GRAPHS = ("encoder", "decoder")
CONFIG = T5Config(
    vocab_size=32128,
    emb_dim=512,
    num_heads=6,
    head_dim=64,
    mlp_dim=1024,
    num_encoder_layers=8,
    num_decoder_layers=8,
)
_ROOTS = {"enc.embed_tokens.": "shared.", "enc.": "encoder.", "m.": ""}  # the exporter's module → transformers' name


def open_checkpoint(source: str = NAME, **config: Any) -> Checkpoint:
    """Opens the titler; fetches its wheel if need be.

    Args:
        source: its name.
        **config: fields of `T5Config` that shall differ.

    Returns:
        The checkpoint; its arrays are dequantized as they are read.

    Raises:
        UserError: if the wheel cannot be fetched.
        ValueError: if the wheel's two copies of the embedding table differ.
    """
    keywords = checked_keywords(T5Config, config)
    arrays: dict[str, StoredArray] = {}
    for graph in GRAPHS:
        for name, array in _graph_arrays(graph).items():
            canonical = canonical_name(name)
            if canonical == "token_embedder/embedding" and canonical in arrays:
                _check_equal(array, arrays[canonical])
            # Matrices lie as [in, out] in ONNX already; only the position bias is a table [buckets, H].
            arrays[canonical] = transposed(array) if canonical.endswith("rel_embedding") else array
    return Checkpoint(source, dataclasses.replace(CONFIG, **keywords), arrays)


def _graph_arrays(graph_name: str) -> dict[str, StoredArray]:
    """The arrays of one graph under transformers' names."""
    import onnx  # here, since only this source needs it

    content = wheels.read_member(WHEEL, f"traceforge_title_model/data/span/{graph_name}.onnx")
    graph = onnx.ModelProto.FromString(content).graph
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    paths = {name.removesuffix("_quantized"): name.removesuffix("_quantized") for name in tensors if "::" not in name}
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            path = node.name.strip("/").removesuffix("/MatMul_quant").replace("/", ".")
            paths[node.input[1].removesuffix("_quantized")] = f"{path}.weight"
    return {
        _transformers_name(path): _stored(tensors, tensor)
        for tensor, path in paths.items()
        if not tensor.endswith(("_scale", "_zero_point"))
    }


def _stored(tensors: dict[str, Shaped[np.ndarray, "*shape"]], name: str) -> StoredArray:
    if name in tensors:
        return in_memory(tensors[name])
    quantized, scale, zero_point = (tensors[f"{name}_{part}"] for part in ("quantized", "scale", "zero_point"))

    def read(part: tuple[slice, ...]) -> Shaped[np.ndarray, "*shape"]:
        return (quantized[part].astype(np.float32) - zero_point.astype(np.float32)) * scale

    return StoredArray(quantized.shape, np.dtype(np.float32), read)


def _transformers_name(path: str) -> str:
    for root, name in _ROOTS.items():
        if path.startswith(root):
            return name + path.removeprefix(root)
    raise ValueError(f"the titler's graph has an unknown module {path}")


def _check_equal(one: StoredArray, other: StoredArray) -> None:
    if not np.array_equal(one.read_all(), other.read_all()):
        raise ValueError("the titler's encoder and decoder hold different embedding tables")
