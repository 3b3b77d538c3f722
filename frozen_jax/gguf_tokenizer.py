"""The byte-level BPE inside a GGUF file, as a tokenizer of the `tokenizers` library.

    tokenizer.ggml.tokens       a piece for each id, bytes spelt as GPT-2 does: "Ġthe"
    tokenizer.ggml.token_type   what it is: 3 a control token, 4 one that somebody has added, else an ordinary piece
    tokenizer.ggml.merges       "Ġ t", "Ġt he", ...: which pieces grow together, first ones first
    tokenizer.ggml.pre          how a text is parted before anything grows together, by a name that llama.cpp gave it

The names are llama.cpp's; what stands behind each is what the `tokenizer.json` of those models says, so that ids are
the ones that the LM was trained with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from frozen_jax import gguf_metadata

_CONTROL, _ADDED = 3, 4
_KEY = "tokenizer.ggml."
_IDS = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "pad_token": "padding_token_id"}


def _gpt2(*before: Any) -> Any:
    return pre_tokenizers.Sequence([*before, pre_tokenizers.ByteLevel(add_prefix_space=False)])


def _words(digits: str) -> Any:
    """Llama 3's way and Qwen2's, which differ in how many digits stay together."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


PRE_TOKENIZERS: dict[str, Callable[[], Any]] = {
    "gpt-2": _gpt2,
    "default": _gpt2,  # of files from before there were names
    "smollm": lambda: _gpt2(pre_tokenizers.Digits(individual_digits=True)),
    "llama-bpe": lambda: _words(r"\p{N}{1,3}"),
    "qwen2": lambda: _words(r"\p{N}"),
}


def build(stream: gguf_metadata.Read) -> tuple[tokenizers.Tokenizer, dict[str, str], str]:
    """Builds the tokenizer that a GGUF file describes.

    Args:
        stream: see `gguf_metadata.read`; nothing behind the metadata is read.

    Returns:
        The tokenizer; what a Hugging Face folder says of its special tokens and its chat template, by the same keys
        ("eos_token", "chat_template", ...); and a sha256 of all that the tokenizer is made of.

    Raises:
        ValueError: for a file that is no GGUF, another kind of tokenizer, and entries that are missing or disagree.
    """
    metadata = gguf_metadata.read(stream)
    if (kind := _entry(metadata, "model", str)) != "gpt2":
        raise ValueError(f"it is of the kind {kind!r}, not 'gpt2'; give TOKENIZER a folder with its tokenizer.json")
    pre = metadata.get(f"{_KEY}pre", "default")
    if pre not in PRE_TOKENIZERS:
        raise ValueError(f"its {_KEY}pre is {pre!r}; known are {', '.join(PRE_TOKENIZERS)}")
    tokens, merges = _entry(metadata, "tokens", list), _entry(metadata, "merges", list)
    types = _entry(metadata, "token_type", list)
    if len(set(tokens)) != len(tokens) or len(types) != len(tokens):
        raise ValueError(
            f"it has {len(tokens)} tokens, {len(set(tokens))} different ones, and {len(types)} token types"
        )
    facts = {key: _token(metadata, key, tokens) for key in _IDS.values() if f"{_KEY}{key}" in metadata}
    special = {name: facts[key] for name, key in _IDS.items() if key in facts}
    if "eos_token" not in special:
        raise ValueError(f"it has no {_KEY}eos_token_id")
    sha256 = hashlib.sha256(json.dumps([pre, tokens, types, merges, special]).encode()).hexdigest()
    if isinstance(chat := metadata.get("tokenizer.chat_template"), str):
        special["chat_template"] = chat
    return _built(pre, tokens, types, merges), special, sha256


def _built(pre: str, tokens: list[str], types: list[int], merges: list[str]) -> tokenizers.Tokenizer:
    pairs = [tuple(merge.split(" ")) for merge in merges]
    if odd := [merge for merge, pair in zip(merges, pairs, strict=True) if len(pair) != 2]:
        raise ValueError(f"its merge {odd[0]!r} is not of two tokens")
    vocabulary: Any = {token: i for i, token in enumerate(tokens)}
    # Llama 3 takes a word that is a token as it is, whatever the merges say.
    model = models.BPE(vocabulary, pairs, ignore_merges=pre == "llama-bpe")  # pyright: ignore[reportArgumentType]
    tokenizer = tokenizers.Tokenizer(model)
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    of_types = list(zip(tokens, types, strict=True))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token, kind in of_types if kind == _CONTROL])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token, kind in of_types if kind == _ADDED])
    return tokenizer


def _entry(metadata: Mapping[str, Any], key: str, kind: type) -> Any:
    if not isinstance(found := metadata.get(f"{_KEY}{key}"), kind):
        raise ValueError(f"it has no {_KEY}{key}")
    return found


def _token(metadata: Mapping[str, Any], key: str, tokens: list[str]) -> str:
    number = metadata[f"{_KEY}{key}"]
    if not isinstance(number, int) or not 0 <= number < len(tokens):
        raise ValueError(f"its {_KEY}{key} is {number}, and it has {len(tokens)} tokens")
    return tokens[number]
