"""Hugging Face T5s: a folder or a hub id with `config.json` and one or several `*.safetensors`. Never a pickle.

    transformers' name                                            canonical name
    shared.weight [V, D]                                          token_embedder/embedding
    encoder.block.3.layer.0.SelfAttention.q.weight [H*K, D]       encoder/layers_3/attention/query/kernel [D, H*K]
    decoder.block.3.layer.1.EncDecAttention.o.weight [D, H*K]     decoder/layers_3/encoder_decoder_attention/out/kernel
    encoder.block.0...relative_attention_bias.weight [buckets, H] encoder/relpos_bias/rel_embedding [H, buckets]
    lm_head.weight [V, D]                                         decoder/logits_dense/kernel [D, V]

Torch's Linear keeps its matrix as [out, in], and transformers its bias table as [buckets, H]: both are read transposed.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from frozen_jax import hub
from frozen_jax.errors import UserError
from frozen_jax.lm.pretrained.stored import Checkpoint, StoredArray, transposed
from frozen_jax.lm.t5 import T5Config

WANTED = ("*.json", "*.safetensors", "spiece.model")  # what is downloaded from the hub
ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")

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
_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


def open_checkpoint(source: str, *, revision: str | None = None, **config: Any) -> Checkpoint:
    """Opens a Hugging Face T5, mT5 or umT5.

    Args:
        source: a local folder, or a hub id `organisation/name`.
        revision: of a hub id: branch, tag, commit or `refs/pr/N`.
        **config: fields of `T5Config` that shall differ from what `config.json` says.

    Returns:
        The checkpoint; of the weight files, only headers have been read.

    Raises:
        UserError: if the hub or the folder holds no such model, a file is corrupt, or the weights are pickled.
    """
    folder = pathlib.Path(source)
    local = folder.is_dir()
    if not local:
        folder = hub.fetch_snapshot(source, WANTED, revision)
    settings = _read_json(folder / "config.json")
    tensors = _open_tensors(folder, None if local else source)
    t5 = _T5Settings(source, settings).to_config()
    arrays = {
        canonical_name(name, per_layer_bias=t5.relative_position_bias_per_layer): stored
        for name, stored in tensors.items()
        if name not in _COPIES
    }
    arrays = {name: transposed(stored) if _is_turned(name, stored) else stored for name, stored in arrays.items()}
    tied = config.get("logits_via_embedding")
    tied = _settle_head(source, settings, arrays) if tied is None else tied
    if tied:
        arrays.pop("decoder/logits_dense/kernel", None)
    return Checkpoint(source, dataclasses.replace(t5, **{**config, "logits_via_embedding": tied}), arrays)


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


@dataclasses.dataclass(frozen=True)
class _T5Settings:
    """`config.json`, read with suspicion."""

    source: str
    settings: Mapping[str, Any]

    def to_config(self) -> T5Config:
        """What it says, save for the head, which only config and arrays together tell."""
        model_type = self.settings.get("model_type")
        if model_type not in ("t5", "mt5", "umt5"):
            raise UserError(f"{self.source}: config.json says model_type {model_type!r}; t5, mt5, umt5 can be loaded")
        feed_forward = self._get("feed_forward_proj", "relu" if model_type == "t5" else "gated-gelu")
        if feed_forward not in FEED_FORWARD:
            known = ", ".join(FEED_FORWARD)
            raise UserError(f"{self.source}: config.json says feed_forward_proj {feed_forward!r}; known are {known}")
        layers = self.count("num_layers")
        return T5Config(
            vocab_size=self.count("vocab_size"),
            emb_dim=self.count("d_model"),
            num_heads=self.count("num_heads"),
            head_dim=self.count("d_kv"),
            mlp_dim=self.count("d_ff"),
            num_encoder_layers=layers,
            num_decoder_layers=self.count("num_decoder_layers", layers),
            mlp_activations=FEED_FORWARD[feed_forward],
            relative_position_buckets=self.count("relative_attention_num_buckets", 32),
            relative_position_max_distance=self.count("relative_attention_max_distance", 128),
            relative_position_bias_per_layer=model_type == "umt5",
            layer_norm_epsilon=self.number("layer_norm_epsilon", 1e-6),
            decoder_start_id=self.token("decoder_start_token_id", 0),
            eos_id=self.token("eos_token_id", 1),
            pad_id=self.token("pad_token_id", 0),
        )

    def count(self, key: str, default: int | None = None) -> int:
        value = self._get(key, default)
        return self._checked(key, value, "a positive whole number", type(value) is int and value > 0)

    def token(self, key: str, default: int) -> int:
        value = self._get(key, default)
        value = value[0] if isinstance(value, list) and value else value
        return self._checked(key, value, "a token id", type(value) is int and value >= 0)

    def number(self, key: str, default: float) -> float:
        value = self._get(key, default)
        return float(self._checked(key, value, "a positive number", type(value) in (int, float) and value > 0))

    def _get(self, key: str, default: Any) -> Any:
        value = self.settings.get(key)
        return default if value is None else value

    def _checked(self, key: str, value: Any, expected: str, good: bool) -> Any:
        if not good:
            raise UserError(f"{self.source}: config.json says {key} {value!r}, expected {expected}")
        return value


def _settle_head(source: str, settings: Mapping[str, Any], arrays: dict[str, StoredArray]) -> bool:
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
    if not scaled or head is None or embedding is None:
        return scaled
    if head.shape != embedding.shape[::-1] or not np.array_equal(head.read_all().T, embedding.read_all()):
        raise UserError(
            f"{source}: config.json ties the head to the embeddings, but lm_head.weight differs from shared.weight; "
            "give logits_via_embedding=False to use lm_head.weight, or True to ignore it"
        )
    return True


def _major_version(settings: Mapping[str, Any]) -> int:
    """Of the transformers that wrote the folder; 4 where it does not say, as old ones do not."""
    match = re.match(r"\d+", str(settings.get("transformers_version", "")))
    return int(match[0]) if match else 4


def _open_tensors(folder: pathlib.Path, hub_id: str | None) -> dict[str, StoredArray]:
    """Every tensor of the folder's safetensors under transformers' names."""
    if (folder / INDEX).is_file() and not (folder / ONE_FILE).is_file():
        return _open_shards(folder)
    if not (folder / ONE_FILE).is_file():
        raise UserError(_no_safetensors(folder, hub_id))
    return _open_file(folder / ONE_FILE)


def _open_shards(folder: pathlib.Path) -> dict[str, StoredArray]:
    shard_of = _read_json(folder / INDEX).get("weight_map")
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


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is missing or no JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no JSON object")
    return content
