"""T5, mT5 and umT5 in Hugging Face folders: transformers' names and settings.

    transformers' name                                            canonical name
    shared.weight [V, D]                                          token_embedder/embedding
    encoder.block.3.layer.0.SelfAttention.q.weight [H*K, D]       encoder/layers_3/attention/query/kernel [D, H*K]
    decoder.block.3.layer.1.EncDecAttention.o.weight [D, H*K]     decoder/layers_3/encoder_decoder_attention/out/kernel
    encoder.block.0...relative_attention_bias.weight [buckets, H] encoder/relpos_bias/rel_embedding [H, buckets]
    lm_head.weight [V, D]                                         decoder/logits_dense/kernel [D, V]

A T5EncoderModel (GTR, Sentence-T5) has the first half of them.

Torch's Linear keeps its matrix as [out, in], and transformers its bias table as [buckets, H]: both are read transposed.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from frozen_jax.lm.pretrained.safetensors_files import check_tied_head, open_tensors
from frozen_jax.lm.pretrained.settings import Settings
from frozen_jax.lm.pretrained.stored import Checkpoint, StoredArray, transposed
from frozen_jax.lm.t5 import T5Config

FEED_FORWARD = {  # config.json's `feed_forward_proj` → mlp_activations
    "relu": ("relu",),
    "silu": ("silu",),
    "gelu_new": ("gelu",),
    "gated-relu": ("relu", "linear"),
    "gated-silu": ("silu", "linear"),
    "gated-gelu": ("gelu", "linear"),  # transformers, too, takes the tanh approximation here
}
_SUBLAYERS = {
    "encoder": (("pre_attention_layer_norm", "attention"), ("pre_mlp_layer_norm", "mlp")),
    "decoder": (
        ("pre_self_attention_layer_norm", "self_attention"),
        ("pre_cross_attention_layer_norm", "encoder_decoder_attention"),
        ("pre_mlp_layer_norm", "mlp"),
    ),
}
_PROJECTIONS = {"q": "query", "k": "key", "v": "value", "o": "out"}
_TOP_NAMES = {
    "shared.weight": "token_embedder/embedding",
    "lm_head.weight": "decoder/logits_dense/kernel",
    "encoder.final_layer_norm.weight": "encoder/encoder_norm/scale",
    "decoder.final_layer_norm.weight": "decoder/decoder_norm/scale",
}
_COPIES = (  # of `shared`, and a bias that old checkpoints hold but no T5 uses
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
)


def open_folder(source: str, folder: pathlib.Path, settings: Settings, keywords: Mapping[str, Any]) -> Checkpoint:
    """Opens a T5, mT5 or umT5.

    Args:
        source: the folder or hub id, as the user gave it.
        folder: where it is.
        settings: its `config.json`.
        keywords: fields of `T5Config` that shall differ from what that says.

    Returns:
        The checkpoint; of the weight files, only headers have been read.

    Raises:
        UserError: if the settings make no T5, or a file is missing, corrupt, or pickled.
    """
    tensors = open_tensors(source, folder)
    if _COPIES[0] in tensors:  # some programs keep the copy and not `shared`
        tensors.setdefault("shared.weight", tensors[_COPIES[0]])
    t5 = _config(settings)
    arrays = {
        canonical_name(name, per_layer_bias=t5.relative_position_bias_per_layer): stored
        for name, stored in tensors.items()
        if name not in _COPIES
    }
    arrays = {name: transposed(stored) if _is_turned(name, stored) else stored for name, stored in arrays.items()}
    tied = keywords.get("logits_via_embedding")
    tied = _settle_head(source, settings, arrays) if tied is None else tied
    if tied:
        arrays.pop("decoder/logits_dense/kernel", None)
    return Checkpoint(source, dataclasses.replace(t5, **{**keywords, "logits_via_embedding": tied}), arrays)


def canonical_name(name: str, *, per_layer_bias: bool = False) -> str:
    """T5X's name of a parameter.

    Args:
        name: transformers' name.
        per_layer_bias: whether every layer has a position bias of its own.

    Returns:
        The canonical name; an unknown name unchanged, so that the message that refuses it shows what the file says.
    """
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    match = re.fullmatch(r"(encoder|decoder)\.block\.(\d+)\.layer\.([012])\.(?:(\w+)\.)?(\w+)\.weight", name)
    if match is None or int(match[3]) >= len(_SUBLAYERS[match[1]]):
        return name
    stack, layer, sublayer, module, matrix = match.groups()
    norm, block = _SUBLAYERS[stack][int(sublayer)]
    if matrix == "relative_attention_bias":
        return f"{stack}/{f'layers_{layer}/' if per_layer_bias else ''}relpos_bias/rel_embedding"
    if matrix == "layer_norm":
        return f"{stack}/layers_{layer}/{norm}/scale"
    if module == "DenseReluDense" or matrix in _PROJECTIONS:
        return f"{stack}/layers_{layer}/{block}/{_PROJECTIONS.get(matrix, matrix)}/kernel"
    return name


def _is_turned(name: str, stored: StoredArray) -> bool:
    """Whether the file keeps the matrix the other way round."""
    return name.endswith(("/kernel", "/rel_embedding")) and len(stored.shape) == 2


def _config(settings: Settings) -> T5Config:
    """What `config.json` says, save for the head, which only config and arrays together tell."""
    model_type = settings.get("model_type")
    plain = "relu" if model_type == "t5" else "gated-gelu"
    feed_forward = settings.one_of("feed_forward_proj", tuple(FEED_FORWARD), plain)
    layers = settings.count("num_layers")
    return T5Config(
        vocab_size=settings.count("vocab_size"),
        emb_dim=settings.count("d_model"),
        num_heads=settings.count("num_heads"),
        head_dim=settings.count("d_kv"),
        mlp_dim=settings.count("d_ff"),
        num_encoder_layers=layers,
        num_decoder_layers=0 if _is_encoder(settings) else settings.count("num_decoder_layers", layers),
        mlp_activations=FEED_FORWARD[feed_forward],
        relative_position_buckets=settings.count("relative_attention_num_buckets", 32),
        relative_position_max_distance=settings.count("relative_attention_max_distance", 128),
        relative_position_bias_per_layer=model_type == "umt5",
        layer_norm_epsilon=settings.number("layer_norm_epsilon", 1e-6),
        decoder_start_id=settings.token("decoder_start_token_id", 0),
        eos_id=settings.token("eos_token_id", 1),
        pad_id=settings.token("pad_token_id", 0),
    )


def _is_encoder(settings: Settings) -> bool:
    """Whether it is a T5EncoderModel (or mT5's or umT5's), whose config still counts layers of a decoder."""
    said = settings.get("architectures")
    return isinstance(said, list) and any(str(name).endswith("EncoderModel") for name in said)


def _settle_head(source: str, settings: Settings, arrays: dict[str, StoredArray]) -> bool:
    """Whether the head is the embedding table with hidden states scaled by 1/sqrt(D), as in T5 1.0.

    Up to transformers 4, `tie_word_embeddings` said so. transformers 5 writes it as true whatever the model, and says
    with `scale_decoder_outputs` what is scaled; its mT5 never is. A head that was tied without the scale (as
    transformers 5 does with models made anew) becomes a matrix of its own here.
    """
    embedding, head = arrays.get("token_embedder/embedding"), arrays.get("decoder/logits_dense/kernel")
    tied = settings.get("tie_word_embeddings") is not False
    unscaled_mt5 = settings.get("model_type") == "mt5" and _major_version(settings) >= 5
    said = settings.get("scale_decoder_outputs")
    scaled = tied and not unscaled_mt5 if said is None else bool(said)
    if head is None and tied and not scaled and embedding is not None:
        arrays["decoder/logits_dense/kernel"] = transposed(embedding)
    if scaled:
        check_tied_head(source, arrays, "shared.weight")
    return scaled


def _major_version(settings: Settings) -> int:
    """Of the transformers that wrote the folder; 4 where it does not say, as old ones do not."""
    match = re.match(r"\d+", str(settings.get("transformers_version", "")))
    return int(match[0]) if match else 4
