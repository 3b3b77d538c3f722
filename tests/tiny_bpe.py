"""A byte-level BPE of a few hundred tokens, as a `tokenizer.json` and inside a GGUF file, for decoder-only LMs."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import gguf
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ADDED = "<tool>"
NEVER_MERGED = "Ġwholeword"  # a token that no merge makes; Llama 3 finds it all the same
CORPUS = [
    "The cat's on the mat, isn't it? 1234 cats; we'll see 56 more.",
    "Grüße aus Köln: schöne Straßen. Привет, мир! 你好,世界。 こんにちは 안녕하세요 שלום مرحبا नमस्ते",
    "def f(x):\n\treturn x + 1\n\n\n    # four spaces\r\n",
    "👩‍👩‍👧 🏳️‍🌈 👍🏽 café café",
] * 20
CHAT = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXTS = [
    "",
    " ",
    "The cat's on the mat, isn't it?",
    "  two before, two after  ",
    "a     b\n\n\n\tc\r\nd \n",
    "0 1 12 123 1234 12345 ½ ٣٤ 3.14 x2y",
    "Grüße, Привет мир, 你好世界, こんにちは, 안녕하세요, שלום, مرحبا, नमस्ते",
    "👩‍👩‍👧🏳️‍🌈 👍🏽 e\u0301 é \u200b\u00a0.",
    "wholeword wholeword WHOLEWORD",
    "<|im_start|>user\n<|im_end|>, < |im_end|> <tool> <|endoftext|>",
    "'S 'll 'LL don't DON'T",
    "\x00\x7f\ufffd\U0010ffff",
]


def parts() -> tuple[list[str], list[str]]:
    """Tokens and merges, trained on the corpus; the special tokens come first, as SmolLM2's do."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return [*tokens, NEVER_MERGED, ADDED], [" ".join(pair) for pair in model["merges"]]


def reference(pre_tokenizer: Any, *, normalizer: Any = None, ignore_merges: bool = False) -> tokenizers.Tokenizer:
    """The tokenizer as a `tokenizer.json` has it."""
    tokens, merges = parts()
    pairs: Any = [tuple(merge.split(" ")) for merge in merges]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=ignore_merges))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens([tokenizers.AddedToken(ADDED, normalized=False)])
    return tokenizer


def write_folder(folder: pathlib.Path, config: dict[str, Any] | None = None) -> str:
    """Writes a Hugging Face folder of GPT-2's kind, as its tokenizer's files go."""
    reference(pre_tokenizers.ByteLevel(add_prefix_space=False)).save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>", "chat_template": CHAT} if config is None else config
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return str(folder)


def metadata(pre: str | None = "smollm") -> dict[str, Any]:
    """What a GGUF file says of the same tokenizer."""
    tokens, merges = parts()
    kinds = {**dict.fromkeys(SPECIAL, 3), ADDED: 4}
    found = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [kinds.get(token, 1) for token in tokens],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.chat_template": CHAT,
    }
    return {key: value for key, value in found.items() if value is not None}


def write_gguf(path: pathlib.Path, entries: dict[str, Any]) -> str:
    """Writes a GGUF file without tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in entries.items():
        add = {list: writer.add_array, str: writer.add_string, int: writer.add_uint32, bool: writer.add_bool}
        add[type(value)](key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return str(path)
