"""The libraries behind a tokenizer: `tokenizers` (a `tokenizer.json`, or the BPE inside a GGUF file) and SentencePiece.

A SentencePiece model of T5's family is given its sentinels, <extra_id_99> to <extra_id_0>, where it lacks them. It is
known by having a token for padding and none that begins a text: an encoder needs no such token, and decoder-only LMs,
Llama 2 and Gemma among them, have one.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import pathlib
import re
from typing import Any, Protocol, runtime_checkable

import tokenizers

from frozen_jax import gguf_tokenizer
from frozen_jax.errors import UserError

EXTRA_IDS = 100  # T5's sentinels <extra_id_99> .. <extra_id_0>, which its SentencePiece model leaves out


@runtime_checkable
class Backend(Protocol):
    """What `Tokenizer` asks of a tokenizer library.

    Attributes:
        vocab_size: token ids lie below it.
        sha256: of what it was made from.
        says: what the same file says beside the vocabulary, by the keys of a tokenizer_config.json: "eos_token", ...
    """

    vocab_size: int
    sha256: str
    says: dict[str, str]

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a text."""
        ...

    def encode_frame(self, text: str) -> list[int]:
        """Returns the tokens of a text that may spell special tokens, and means them."""
        ...

    def decode(self, ids: list[int], *, special: bool = False) -> str:
        """Returns the text of tokens; the special ones are left out, or spelt."""
        ...

    def token_id(self, token: str) -> int | None:
        """Returns the id of a token as the vocabulary spells it."""
        ...

    def piece(self, token: int) -> str | None:
        """Returns how the vocabulary spells a token."""
        ...


def parse(name: str, file: str, stream: io.BufferedIOBase) -> Backend:
    """Reads a file.

    Args:
        name: the source that it belongs to.
        file: its name; the suffix says what it is.
        stream: its content; of a GGUF file the beginning is read.

    Returns:
        The tokenizer in it.

    Raises:
        UserError: if it cannot be read; the libraries raise bare `Exception` and `RuntimeError` for a corrupt file.
    """
    kinds = {".json": JsonBackend, ".gguf": GgufBackend}
    kind = kinds.get(pathlib.PurePath(file).suffix, SentencePieceBackend)
    try:
        return kind(stream)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file} of {name} is no tokenizer that can be read: {reason}") from error


class _Tokenizers:
    """A tokenizer of the `tokenizers` library."""

    def __init__(self, tokenizer: Any, sha256: str, says: dict[str, str]) -> None:
        self._tokenizer, self.sha256, self.says = tokenizer, sha256, says
        self.vocab_size = max(tokenizer.get_vocab().values()) + 1

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    encode_frame = encode  # the library finds special tokens in any text

    def decode(self, ids: list[int], *, special: bool = False) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=not special)

    def token_id(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def piece(self, token: int) -> str | None:
        return self._tokenizer.id_to_token(token)


class JsonBackend(_Tokenizers):
    """A `tokenizer.json`."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        """Parses the file."""
        content = stream.read()
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
        # The file may carry the settings of whoever saved it; the titler's cuts every text at 48 tokens.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        super().__init__(tokenizer, hashlib.sha256(content).hexdigest(), {})


class GgufBackend(_Tokenizers):
    """The tokenizer inside a GGUF file; its sum is that of the tokenizer alone, however the tensors are quantized."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        """Reads the file's metadata."""
        tokenizer, says, sha256 = gguf_tokenizer.build(stream.read)
        super().__init__(tokenizer, sha256, says)


class SentencePieceBackend:
    """A SentencePiece model, with T5's sentinels added behind its pieces where it lacks them, as seqio does."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        """Parses the model."""
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2

        proto: Any = sentencepiece_model_pb2  # protobuf makes its classes as it is imported
        content = stream.read()
        model = proto.ModelProto.FromString(content)
        if _is_of_t5(model) and not any("<extra_id_0>" in piece.piece for piece in model.pieces):
            for number in reversed(range(EXTRA_IDS)):
                piece_type = proto.ModelProto.SentencePiece.USER_DEFINED
                model.pieces.add(piece=f"▁<extra_id_{number}>", score=0.0, type=piece_type)
        self.sha256, self.says = hashlib.sha256(content).hexdigest(), {}
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
        self.vocab_size = self._processor.get_piece_size()
        control = [self._processor.id_to_piece(i) for i in range(self.vocab_size) if self._processor.is_control(i)]
        self._control = re.compile("|".join(map(re.escape, control)) or r"(?!)")

    def encode(self, text: str) -> list[int]:
        """Control tokens in the text are letters like others."""
        return self._processor.encode(text)

    def encode_frame(self, text: str) -> list[int]:
        """Control tokens in the text are what they spell."""
        ids, start = [], 0
        for found in self._control.finditer(text):
            ids += [*self.encode(text[start : found.start()]), self._processor.piece_to_id(found[0])]
            start = found.end()
        return ids + self.encode(text[start:])

    def decode(self, ids: list[int], *, special: bool = False) -> str:
        """Control tokens are left out, or spelt."""
        if not special:
            return self._processor.decode([token for token in ids if not self._processor.is_control(token)])
        runs = itertools.groupby(ids, self._processor.is_control)
        pieces = self._processor.id_to_piece
        return "".join("".join(map(pieces, run)) if control else self.decode(list(run)) for control, run in runs)

    def token_id(self, token: str) -> int | None:
        """The id of a piece."""
        found = self._processor.piece_to_id(token)
        return found if self._processor.id_to_piece(found) == token else None

    def piece(self, token: int) -> str | None:
        """A piece by its id."""
        return self._processor.id_to_piece(token)


def _is_of_t5(model: Any) -> bool:
    pieces = {piece.piece for piece in model.pieces}
    return model.trainer_spec.pad_piece in pieces and model.trainer_spec.bos_piece not in pieces
