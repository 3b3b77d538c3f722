"""A tokenizer of a few words, for tests of what stands behind one."""

from __future__ import annotations

import pathlib

import tokenizers

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
WORDS = ["<pad>", "</s>", "<unk>", *NUMBERS, "yes", "no"]


def write(folder: pathlib.Path, words: list[str] = WORDS) -> str:
    """Writes `tokenizer.json` and returns its path."""
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = tokenizers.decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return str(path)
