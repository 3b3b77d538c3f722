"""GGUF files of Llamas and Qwen2s, whose arrays are dequantized as they are read.

    llama.cpp's name                 canonical name
    token_embd.weight [V, D]         token_embedder/embedding
    blk.3.attn_q.weight [H*K, D]     decoder/layers_3/self_attention/query/kernel [D, H*K]
    blk.3.ffn_gate.weight [F, D]     decoder/layers_3/mlp/wi_0/kernel [D, F]
    output.weight [V, D]             decoder/logits_dense/kernel [D, V]; without it the head is tied
    rope_freqs.weight [K/2]          (`LlamaConfig.rope_factors`)

llama.cpp rotates neighbours against each other in a Llama, half against half in a Qwen2; here it is halves in both. So
the rows of a Llama's queries and keys are put back into their order.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from frozen_jax.errors import UserError
from frozen_jax.lm.llama import LlamaConfig
from frozen_jax.lm.pretrained import gguf_files
from frozen_jax.lm.pretrained.llama_arrays import HEAD, WIDEST_HEAD, canonical_arrays
from frozen_jax.lm.pretrained.settings import Settings, checked_keywords
from frozen_jax.lm.pretrained.stored import Checkpoint, Part, StoredArray

ARCHITECTURES = ("llama", "qwen2")
_TOP_NAMES = {
    "token_embd.weight": "token_embedder/embedding",
    "output_norm.weight": "decoder/decoder_norm/scale",
    "output.weight": HEAD,
}
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_MODULES = {
    "attn_norm": "pre_self_attention_layer_norm",
    "attn_q": "self_attention/query",
    "attn_k": "self_attention/key",
    "attn_v": "self_attention/value",
    "attn_output": "self_attention/out",
    "ffn_norm": "pre_mlp_layer_norm",
    "ffn_gate": "mlp/wi_0",
    "ffn_up": "mlp/wi_1",
    "ffn_down": "mlp/wo",
}
_WOVEN = re.compile(r"blk\.\d+\.attn_[qk]\.weight")
_BOS_FIRST = ("llama3", "llama-v3", "llama-bpe")  # kinds of BPE to which llama.cpp adds the token unless told not to


def open_checkpoint(source: str, **config: Any) -> Checkpoint:
    """Opens a GGUF file.

    Args:
        source: a local path.
        **config: fields of `LlamaConfig` that shall differ from what the file says.

    Returns:
        The checkpoint; of the file, only the header has been read.

    Raises:
        UserError: if it is no GGUF, cut short, of another architecture, or its parts disagree.
    """
    return open_file(source, pathlib.Path(source), config)


def open_file(source: str, path: pathlib.Path, config: Mapping[str, Any]) -> Checkpoint:
    """Opens a GGUF file that goes by another name.

    Args:
        source: its name.
        path: where it is.
        config: see `open_checkpoint`.

    Returns:
        The checkpoint.

    Raises:
        UserError: as `open_checkpoint`.
    """
    keywords = checked_keywords(LlamaConfig, config)
    values, tensors = gguf_files.open_file(source, path)
    settings = Settings(source, values)
    architecture = settings.one_of("general.architecture", ARCHITECTURES)
    if settings.count("split.count", 1) > 1:
        raise UserError(f"{source} is one of several parts; join them with `llama-gguf-split --merge`")
    frequencies = tensors.pop("rope_freqs.weight", None)
    found = _config(settings, architecture, tensors)
    found = dataclasses.replace(found, rope_factors=_rope_factors(settings, architecture, frequencies, found.head_dim))
    found = dataclasses.replace(found, **keywords)
    if architecture == "llama":
        tensors |= {n: _unwoven(stored, found.head_dim) for n, stored in tensors.items() if _WOVEN.fullmatch(n)}
    if found.logits_via_embedding:
        tensors.pop("output.weight", None)
    return Checkpoint(source, found, canonical_arrays(tensors, _TOP_NAMES, _LAYER, _MODULES))


def _config(settings: Settings, architecture: str, tensors: dict[str, StoredArray]) -> LlamaConfig:
    """What the metadata says."""

    def count(key: str, *default_most: int | None) -> int:
        return settings.count(f"{architecture}.{key}", *default_most)

    heads, width = count("attention.head_count"), count("embedding_length")
    head_dim = count("attention.key_length", width // heads, WIDEST_HEAD)
    for key in ("attention.value_length", "rope.dimension_count"):
        settings.one_of(f"{architecture}.{key}", (head_dim,), head_dim)
    eos = settings.token("tokenizer.ggml.eos_token_id")
    bos, eot = (settings.get(f"tokenizer.ggml.{which}_token_id") for which in ("bos", "eot"))
    return LlamaConfig(
        vocab_size=_vocabulary(settings, tensors),
        emb_dim=width,
        num_heads=heads,
        num_kv_heads=count("attention.head_count_kv", heads),
        head_dim=head_dim,
        mlp_dim=count("feed_forward_length"),
        num_layers=count("block_count"),
        context_length=count("context_length", 2048),
        logits_via_embedding="output.weight" not in tensors,
        qkv_bias=architecture == "qwen2",
        rope_theta=settings.number(f"{architecture}.rope.freq_base", 10000.0),
        layer_norm_epsilon=settings.number(f"{architecture}.attention.layer_norm_rms_epsilon"),
        bos_id=None if bos is None else settings.token("tokenizer.ggml.bos_token_id"),
        bos_first=bos is not None and _bos_first(settings),
        eos_id=eos,
        stop_ids=() if eot in (None, eos) else (settings.token("tokenizer.ggml.eot_token_id"),),
        pad_id=settings.token("tokenizer.ggml.padding_token_id", eos),
    )


def _vocabulary(settings: Settings, tensors: dict[str, StoredArray]) -> int:
    """The rows of the embedding table, of which the tokenizer may leave some unused."""
    if "token_embd.weight" not in tensors:
        raise UserError(f"{settings.where}: the array token_embd.weight is missing")
    rows, tokens = tensors["token_embd.weight"].shape[0], settings.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(tokens) > rows:
        raise UserError(f"{settings.where}: the tokenizer has {len(tokens)} tokens, its table only {rows} rows")
    return rows


def _bos_first(settings: Settings) -> bool:
    """Whether llama.cpp's tokenizer would put the token that begins a text in front."""
    model, kind = settings.get("tokenizer.ggml.model"), settings.get("tokenizer.ggml.pre")
    return settings.get("tokenizer.ggml.add_bos_token", model == "llama" or kind in _BOS_FIRST) is True


def _rope_factors(
    settings: Settings, architecture: str, frequencies: StoredArray | None, head_dim: int
) -> tuple[float, ...]:
    """What the rotary frequencies are divided by: an array in the file (Llama 3), one number, or neither."""
    key = f"{architecture}.rope.scaling"
    kind = settings.one_of(f"{key}.type", ("linear", "none"), "linear")
    old = settings.number(f"{architecture}.rope.scale_linear", 1.0)
    factor = 1.0 if kind == "none" else settings.number(f"{key}.factor", old)
    if frequencies is None:
        return () if factor == 1.0 else (factor,) * (head_dim // 2)
    if frequencies.shape != (head_dim // 2,):
        raise UserError(f"{settings.where}: rope_freqs.weight has shape {frequencies.shape}, expected {head_dim // 2}")
    return tuple((frequencies.read_all().astype(np.float64) * factor).tolist())


def _unwoven(stored: StoredArray, head_dim: int) -> StoredArray:
    """Rows of heads whose two halves are woven into one another, with the halves one after the other."""

    def read(part: Part) -> Shaped[np.ndarray, "rows columns"]:
        rows, columns = part
        first, last = rows.start // head_dim, -(-rows.stop // head_dim)
        woven = stored.read((slice(first * head_dim, last * head_dim), columns))
        apart = woven.reshape(-1, head_dim // 2, 2, woven.shape[1]).swapaxes(1, 2).reshape(woven.shape)
        return apart[rows.start - first * head_dim : rows.stop - first * head_dim]

    return dataclasses.replace(stored, read=read)
