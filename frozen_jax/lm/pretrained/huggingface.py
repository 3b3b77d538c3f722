"""Hugging Face folders and hub ids: `config.json`, which says the family, and one or several `*.safetensors`."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

from frozen_jax import hub
from frozen_jax.lm.llama import LlamaConfig
from frozen_jax.lm.pretrained import huggingface_llama, huggingface_t5
from frozen_jax.lm.pretrained.safetensors_files import read_json
from frozen_jax.lm.pretrained.settings import Settings, checked_keywords
from frozen_jax.lm.pretrained.stored import Checkpoint
from frozen_jax.lm.t5 import T5Config

WANTED = ("*.json", "*.safetensors", "spiece.model", "tokenizer.model")  # what is downloaded from the hub

_T5 = (T5Config, huggingface_t5.open_folder)
_LLAMA = (LlamaConfig, huggingface_llama.open_folder)
FAMILIES: dict[str, tuple[type, Callable[..., Checkpoint]]] = {
    "t5": _T5,
    "mt5": _T5,
    "umt5": _T5,
    "llama": _LLAMA,
    "qwen2": _LLAMA,
}
"""config.json's `model_type` → the config of its family, and what opens its folders."""


def open_checkpoint(source: str, *, revision: str | None = None, **config: Any) -> Checkpoint:
    """Opens a Hugging Face model.

    Args:
        source: a local folder, or a hub id `organisation/name`.
        revision: of a hub id: branch, tag, commit or `refs/pr/N`.
        **config: fields of the family's config that shall differ from what `config.json` says.

    Returns:
        The checkpoint; of the weight files, only headers have been read.

    Raises:
        UserError: if the hub or the folder holds no such model, a file is corrupt, or the weights are pickled.
    """
    folder = pathlib.Path(source)
    local = folder.is_dir()
    if not local:  # before the weights, which may be many gigabytes
        folder = hub.fetch_snapshot(source, ("config.json",), revision)
    settings = Settings(f"{source}: config.json", read_json(folder / "config.json"))
    family, open_folder = FAMILIES[settings.one_of("model_type", tuple(FAMILIES))]
    keywords = checked_keywords(family, config)
    if not local:
        folder = hub.fetch_snapshot(source, WANTED, revision)
    return open_folder(source, folder, settings, keywords)
