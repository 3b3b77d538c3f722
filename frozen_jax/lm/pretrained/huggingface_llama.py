"""Llama, SmolLM2 and Qwen2 in Hugging Face folders: transformers' names and settings.

    transformers' name                                  canonical name
    model.embed_tokens.weight [V, D]                    token_embedder/embedding
    model.layers.3.self_attn.q_proj.weight [H*K, D]     decoder/layers_3/self_attention/query/kernel [D, H*K]
    model.layers.3.self_attn.q_proj.bias [H*K]          decoder/layers_3/self_attention/query/bias
    model.layers.3.mlp.gate_proj.weight [F, D]          decoder/layers_3/mlp/wi_0/kernel [D, F]
    model.layers.3.input_layernorm.weight [D]           decoder/layers_3/pre_self_attention_layer_norm/scale
    lm_head.weight [V, D]                               decoder/logits_dense/kernel [D, V]

Heads are rotated half against half in both, so that no row moves.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from frozen_jax.errors import UserError
from frozen_jax.lm.llama import LlamaConfig
from frozen_jax.lm.pretrained.llama_arrays import HEAD, WIDEST_HEAD, canonical_arrays
from frozen_jax.lm.pretrained.safetensors_files import check_tied_head, open_tensors, read_json
from frozen_jax.lm.pretrained.settings import Settings
from frozen_jax.lm.pretrained.stored import Checkpoint

TABLE = "model.embed_tokens.weight"
_TOP_NAMES = {
    TABLE: "token_embedder/embedding",
    "model.norm.weight": "decoder/decoder_norm/scale",
    "lm_head.weight": HEAD,
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.([\w.]+)\.(weight|bias)")
_MODULES = {
    "input_layernorm": "pre_self_attention_layer_norm",
    "self_attn.q_proj": "self_attention/query",
    "self_attn.k_proj": "self_attention/key",
    "self_attn.v_proj": "self_attention/value",
    "self_attn.o_proj": "self_attention/out",
    "post_attention_layernorm": "pre_mlp_layer_norm",
    "mlp.gate_proj": "mlp/wi_0",
    "mlp.up_proj": "mlp/wi_1",
    "mlp.down_proj": "mlp/wo",
}
_FREQUENCIES = ".rotary_emb.inv_freq"  # old folders keep what follows from the config
_ONLY = {  # what else transformers can do, and `Llama` cannot
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "partial_rotary_factor": 1.0,
}


def open_folder(source: str, folder: pathlib.Path, settings: Settings, keywords: Mapping[str, Any]) -> Checkpoint:
    """Opens a Llama or a Qwen2.

    Args:
        source: the folder or hub id, as the user gave it.
        folder: where it is.
        settings: its `config.json`.
        keywords: fields of `LlamaConfig` that shall differ from what that says.

    Returns:
        The checkpoint; of the weight files, only headers have been read.

    Raises:
        UserError: if the settings make no such LM, or a file is missing, corrupt, or pickled.
    """
    tensors = open_tensors(source, folder)
    config = _config(settings)
    config = dataclasses.replace(config, **{"bos_first": _bos_first(folder, config.bos_id), **keywords})
    kept = {name: stored for name, stored in tensors.items() if not name.endswith(_FREQUENCIES)}
    arrays = canonical_arrays(kept, _TOP_NAMES, _LAYER, _MODULES)
    if config.logits_via_embedding:
        if "logits_via_embedding" not in keywords:
            check_tied_head(source, arrays, TABLE)
        arrays.pop(HEAD, None)
    return Checkpoint(source, config, arrays)


def _config(settings: Settings) -> LlamaConfig:
    """What `config.json` says."""
    for key, only in _ONLY.items():
        settings.one_of(key, (only,), only)
    heads, width = settings.count("num_attention_heads"), settings.count("hidden_size")
    head_dim = settings.count("head_dim", width // heads, WIDEST_HEAD)
    eos, *stops = settings.tokens("eos_token_id")
    theta, factors = _rope(settings, head_dim)
    return LlamaConfig(
        vocab_size=settings.count("vocab_size"),
        emb_dim=width,
        num_heads=heads,
        num_kv_heads=settings.count("num_key_value_heads", heads),
        head_dim=head_dim,
        mlp_dim=settings.count("intermediate_size"),
        num_layers=settings.count("num_hidden_layers"),
        context_length=settings.count("max_position_embeddings", 2048),
        logits_via_embedding=settings.one_of("tie_word_embeddings", (False, True), False),
        qkv_bias=settings.get("model_type") == "qwen2",
        rope_theta=theta,
        rope_factors=factors,
        layer_norm_epsilon=settings.number("rms_norm_eps", 1e-6),
        bos_id=None if settings.get("bos_token_id") is None else settings.token("bos_token_id"),
        eos_id=eos,
        stop_ids=tuple(stops),
        pad_id=settings.token("pad_token_id", eos),
    )


def _rope(settings: Settings, head_dim: int) -> tuple[float, tuple[float, ...]]:
    """The base of the rotary frequencies, and what they are divided by; transformers 5 renamed and moved both."""
    said = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    if not isinstance(said, dict):
        raise UserError(f"{settings.where} says rope_parameters {said!r}, expected an object")
    rope = Settings(settings.where, {"rope_theta": settings.get("rope_theta", 10000.0), **said})
    rope.one_of("partial_rotary_factor", (1.0,), 1.0)
    theta = rope.number("rope_theta")
    kind = rope.one_of("rope_type", ("default", "linear", "llama3"), rope.get("type", "default"))
    if kind == "default":
        return theta, ()
    factor = rope.number("factor")
    return theta, (factor,) * (head_dim // 2) if kind == "linear" else _llama3_factors(rope, theta, factor, head_dim)


def _llama3_factors(rope: Settings, theta: float, factor: float, head_dim: int) -> tuple[float, ...]:
    """Long waves are stretched by `factor`, short ones left alone, those between in between (Llama 3.1)."""
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if low >= high:
        raise UserError(f"{rope.where} says low_freq_factor {low} and high_freq_factor {high}, expected a higher one")
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    turns = rope.count("original_max_position_embeddings") / wavelengths
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return tuple((1 / (kept + (1 - kept) / factor)).tolist())


def _bos_first(folder: pathlib.Path, bos_id: int | None) -> bool:
    """Whether the folder's own tokenizer puts the token that begins a text in front of every text."""
    file, config_file = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if file.is_file():
        import tokenizers

        try:
            added = tokenizers.Tokenizer.from_file(str(file)).encode("", add_special_tokens=True).ids
        except Exception as error:  # the library raises it bare
            raise UserError(f"{file} is no tokenizer that can be read: {' '.join(str(error).split())[:200]}") from error
        return added == [bos_id]
    return bos_id is not None and config_file.is_file() and read_json(config_file).get("add_bos_token") is True
