"""What the sources of decoder-only LMs share: how arrays are named and turned, and which numbers fit each other."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from frozen_jax.errors import UserError
from frozen_jax.lm.llama import LlamaConfig
from frozen_jax.lm.pretrained.stored import StoredArray, transposed

WIDEST_HEAD = 2**12  # that is believed before arrays have been compared; real ones have 64 to 256
HEAD = "decoder/logits_dense/kernel"


def canonical_arrays(
    tensors: Mapping[str, StoredArray], top: Mapping[str, str], layer: re.Pattern[str], modules: Mapping[str, str]
) -> dict[str, StoredArray]:
    """Names arrays as `Llama` does, and turns matrices, which files keep as [out, in].

    Args:
        tensors: under the file's names.
        top: the file's name of an array outside the layers → canonical name.
        layer: matches the file's names inside layers: number, module, and `weight` or `bias`.
        modules: the file's name of a module inside a layer → canonical name.

    Returns:
        The arrays under canonical names; an unknown name stays as it is, so that the message that refuses it shows what
        the file says.
    """

    def canonical(name: str) -> str:
        match = layer.fullmatch(name)
        if match is None or match[2] not in modules:
            return top.get(name, name)
        module = modules[match[2]]
        leaf = "bias" if match[3] == "bias" else "scale" if module.endswith("norm") else "kernel"
        return f"decoder/layers_{match[1]}/{module}/{leaf}"

    named = {canonical(name): stored for name, stored in tensors.items()}
    return {name: transposed(stored) if _is_turned(name, stored) else stored for name, stored in named.items()}


def _is_turned(name: str, stored: StoredArray) -> bool:
    return name.endswith("/kernel") and len(stored.shape) == 2


def check_config(source: str, config: LlamaConfig) -> None:
    """Checks that the numbers of a config fit each other.

    Args:
        source: for the message.
        config: as source and keywords together say.

    Raises:
        UserError: for heads that cannot be shared or rotated, and tokens that the vocabulary does not have.
    """
    if config.num_kv_heads < 1 or config.num_heads % config.num_kv_heads:
        raise UserError(f"{source}: {config.num_heads} heads of queries cannot share {config.num_kv_heads} of keys")
    if config.head_dim % 2:
        raise UserError(f"{source}: a head of width {config.head_dim} cannot be rotated; the width must be even")
    factors = config.rope_factors
    if factors and not (len(factors) == config.head_dim // 2 and all(0 < factor < math.inf for factor in factors)):
        raise UserError(
            f"{source}: rope_factors must be {config.head_dim // 2} positive numbers, half the width of a head"
        )
    tokens = {field: getattr(config, field) for field in ("bos_id", "eos_id", "pad_id")}
    for field, token in [*tokens.items(), *(("stop_ids", token) for token in config.stop_ids)]:
        if token is not None and not 0 <= token < config.vocab_size:
            raise UserError(f"{source}: {field} {token} is no token of a vocabulary of {config.vocab_size}")
    if config.bos_first and config.bos_id is None:
        raise UserError(f"{source}: bos_first needs bos_id, which this LM does not name; give it, or bos_first=False")
