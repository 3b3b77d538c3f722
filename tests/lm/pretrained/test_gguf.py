"""GGUF files that the package's own writer wrote: sound ones, odd ones, and ones that nobody should trust."""

from __future__ import annotations

import dataclasses
import pathlib
import struct
import tracemalloc

import gguf
import numpy as np
import pytest

from frozen_jax.errors import UserError
from frozen_jax.lm.llama import LlamaConfig
from frozen_jax.lm.pretrained import gguf_files
from frozen_jax.lm.pretrained.load import load_lm, open_checkpoint
from frozen_jax.lm.pretrained.stored import StoredArray
from frozen_jax.partitioning import make_mesh
from tests.lm.pretrained import written

LLAMA = LlamaConfig(
    vocab_size=96,
    emb_dim=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=64,
    num_layers=2,
    bos_id=3,
    eos_id=1,
    layer_norm_epsilon=0.5**10,
)
QWEN2 = dataclasses.replace(LLAMA, qkv_bias=True, logits_via_embedding=True)
QUERY = "decoder/layers_1/self_attention/query/kernel"
DEQUANTIZABLE = [*sorted(kind.name for kind in gguf.quants._type_traits), "F16", "F32", "F64"]


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "model.gguf"


def one_line(path: pathlib.Path, match: str, **config: object) -> None:
    with pytest.raises(UserError, match=match) as error:
        load_lm(str(path), **config)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def written_array(path: pathlib.Path, array: np.ndarray, kind: str) -> StoredArray:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("a", array, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf_files.open_file(str(path), path)[1]["a"]


@pytest.mark.parametrize("config", [LLAMA, QWEN2], ids=["llama", "qwen2"])
def test_weights_bit_for_bit_and_the_fingerprint_of_hugging_face(tmp_path, path, config):
    lm = load_lm(written.gguf_file(path, config))
    written.assert_same(written.loaded_params(lm), written.llama_params(config))
    assert lm.config == config
    assert lm.name == str(path)
    assert lm.fingerprint == load_lm(str(written.llama_folder(tmp_path / "folder", config))).fingerprint


def test_quantized_weights_are_those_of_the_package_whatever_the_mesh(path):
    config = dataclasses.replace(LLAMA, emb_dim=64)
    lm = load_lm(written.gguf_file(path, config, "Q4_1"))
    expected = {
        name: rounded(array.T).T if name.endswith("kernel") else rounded(array) if array.ndim == 2 else array
        for name, array in written.llama_params(config).items()
    }
    written.assert_same(written.loaded_params(lm), expected)
    spread = load_lm(str(path), mesh=make_mesh(-1, 4))
    written.assert_same(written.loaded_params(spread), expected)
    assert spread.fingerprint == lm.fingerprint


def rounded(array: np.ndarray) -> np.ndarray:
    kind = gguf.GGMLQuantizationType.Q4_1
    return gguf.dequantize(gguf.quantize(array, kind), kind)


@pytest.mark.parametrize("kind", DEQUANTIZABLE)
def test_every_quantization_and_parts_of_it(path, kind):
    quantization = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[quantization]
    columns = max(64, 2 * block)
    rng = np.random.default_rng(0)
    # Bytes below 60: no half-precision scale among them is infinite or no number.
    packed = rng.integers(0, 60, (5, columns // block * size), np.uint8)
    stored = written_array(path, packed, kind)
    floats = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
    expected = packed.view(floats[kind]) if kind in floats else gguf.dequantize(packed, quantization)
    assert stored.shape == (5, columns)
    assert stored.dtype.name == {"BF16": "bfloat16"}.get(kind, expected.dtype.name)
    np.testing.assert_array_equal(stored.read_all().astype(expected.dtype), expected)
    for part in ((slice(1, 3), slice(0, columns)), (slice(0, 5), slice(block - 1, block + 3))):
        np.testing.assert_array_equal(stored.read(part).astype(expected.dtype), expected[part])
    assert len(np.unique(expected)) > 2


def test_only_the_blocks_of_a_part_are_dequantized(path, monkeypatch):
    kind = gguf.GGMLQuantizationType.Q8_0
    packed = gguf.quantize(np.random.default_rng(0).normal(size=(3000, 128)).astype(np.float32), kind)
    stored = written_array(path, packed, "Q8_0")
    seen, dequantize = [], gguf.dequantize
    monkeypatch.setattr(gguf, "dequantize", lambda blocks, kind: seen.append(blocks.shape) or dequantize(blocks, kind))
    stored.read((slice(7, 10), slice(30, 40)))  # of two blocks of 32
    assert seen == [(3, 2 * 34)]
    seen.clear()
    stored.read_all()
    assert [rows for rows, _ in seen] == [1024, 1024, 952]


def test_little_memory_beside_the_result(path):
    packed = np.zeros((16384, 8 * 34), np.uint8)
    stored = written_array(path, packed, "Q8_0")
    result = 16384 * 256 * 4
    stored.read((slice(0, 1), slice(0, 32)))
    tracemalloc.start()
    stored.read_all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * result


def test_part_of_queries_that_are_woven(path):
    arrays = open_checkpoint(written.gguf_file(path, LLAMA)).arrays
    expected = written.llama_params(LLAMA)[QUERY]
    for part in ((slice(0, 32), slice(3, 21)), (slice(2, 4), slice(8, 16)), (slice(0, 1), slice(31, 32))):
        np.testing.assert_array_equal(arrays[QUERY].read(part), expected[part])


def test_what_the_file_need_not_say(path):
    plain = dataclasses.replace(LLAMA, num_kv_heads=4, bos_id=None)
    left_out = ("llama.attention.head_count_kv", "llama.attention.key_length", "tokenizer.ggml.padding_token_id")
    lm = load_lm(written.gguf_file(path, plain, **{key.replace(".", "__"): None for key in left_out}))
    assert lm.config == dataclasses.replace(plain, pad_id=plain.eos_id)


def test_values_of_the_file(path):
    said = {"llama__context_length": 77, "llama__rope__freq_base": 5e5, "llama__rope__dimension_count": 8}
    config = open_checkpoint(written.gguf_file(path, LLAMA, **said)).config
    assert (config.context_length, config.rope_theta) == (77, 5e5)
    assert open_checkpoint(str(path), rope_theta=100).config.rope_theta == 100.0


@pytest.mark.parametrize(
    ("said", "first"),
    [
        ({}, False),
        ({"tokenizer__ggml__model": "gpt2"}, False),
        ({"tokenizer__ggml__model": "llama"}, True),
        ({"tokenizer__ggml__model": "gpt2", "tokenizer__ggml__pre": "llama-bpe"}, True),
        ({"tokenizer__ggml__model": "llama", "tokenizer__ggml__add_bos_token": False}, False),
        ({"tokenizer__ggml__model": "gpt2", "tokenizer__ggml__add_bos_token": True}, True),
        ({"tokenizer__ggml__model": "llama", "tokenizer__ggml__bos_token_id": None}, False),
    ],
)
def test_bos_stands_first_where_llama_cpp_puts_it(path, said, first):
    assert open_checkpoint(written.gguf_file(path, LLAMA, **said)).config.bos_first == first


def test_rotary_factors(path):
    frequencies = np.array([1, 2, 4, 8], np.float32)
    config = open_checkpoint(written.gguf_file(path, LLAMA, tensors={"rope_freqs.weight": frequencies})).config
    assert config.rope_factors == (1, 2, 4, 8)
    scaled = {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0}
    assert open_checkpoint(written.gguf_file(path, LLAMA, **scaled)).config.rope_factors == (4,) * 4
    scaled["llama__rope__scaling__type"] = "none"
    assert open_checkpoint(written.gguf_file(path, LLAMA, **scaled)).config.rope_factors == ()
    old = {"llama__rope__scale_linear": 2.0}
    assert open_checkpoint(written.gguf_file(path, LLAMA, **old)).config.rope_factors == (2,) * 4


def test_tables_longer_than_the_vocabulary_are_fine_shorter_ones_not(path):
    assert open_checkpoint(written.gguf_file(path, LLAMA, tokenizer__ggml__tokens=["a"])).config.vocab_size == 96
    written.gguf_file(path, LLAMA, tokenizer__ggml__tokens=["a"] * 97)
    one_line(path, r"tokenizer has 97 tokens, its table only 96 rows")


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"general__architecture": "gpt2"}, r"general.architecture 'gpt2'; llama, qwen2 can be loaded"),
        ({"split__count": 3}, r"one of several parts"),
        ({"llama__rope__scaling__type": "yarn"}, r"rope.scaling.type 'yarn'; linear, none can be loaded"),
        ({"llama__rope__dimension_count": 4}, r"rope.dimension_count 4; 8 can be loaded"),
        ({"llama__attention__value_length": 4}, r"value_length 4; 8 can be loaded"),
        ({"llama__attention__head_count": [4, 2]}, r"head_count \[4, 2\], expected a positive whole number"),
        ({"llama__attention__head_count_kv": 3}, r"4 heads of queries cannot share 3 of keys"),
        ({"llama__attention__key_length": 2**31}, r"key_length 2147483648, expected a .* up to 4096"),
        ({"llama__embedding_length": None}, r"embedding_length None, expected a positive whole number"),
        ({"llama__feed_forward_length": 65}, r"wi_0/kernel has shape \(32, 64\) in the file, but shape \(32, 65\)"),
        ({"llama__block_count": 3}, r"decoder/layers_2/.* is missing"),
        ({"llama__block_count": 1}, r"no place for the array decoder/layers_1/"),
        ({"llama__block_count": 2**32 - 1}, r"4294967295 layers by the config, but 21 arrays in the files"),
        ({"llama__attention__layer_norm_rms_epsilon": float("nan")}, r"epsilon nan, expected a positive number"),
        ({"tokenizer__ggml__eos_token_id": 96}, r"eos_id 96 is no token of a vocabulary of 96"),
        ({"tokenizer__ggml__eos_token_id": None}, r"eos_token_id None, expected a token id"),
        ({"general__alignment": 0}, r"its general.alignment is 0"),
    ],
)
def test_metadata_that_no_llama_has(path, said, match):
    written.gguf_file(path, LLAMA, **{k: v for k, v in said.items() if k != "general__alignment"})
    if "general__alignment" in said:  # which the writer itself would obey
        rewritten(path, b"llama.block_count", b"general.alignment", b"\x02\0\0\0", b"\0\0\0\0")
    one_line(path, match)


def rewritten(path: pathlib.Path, key: bytes, other: bytes, value: bytes, another: bytes) -> None:
    old, new = (name + struct.pack("<I", 4) + number for name, number in ((key, value), (other, another)))
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"blk.1.ffn_up.weight": None}, r"decoder/layers_1/mlp/wi_1/kernel of shape \(32, 64\).* is missing"),
        ({"token_embd.weight": None}, r"token_embd.weight is missing"),
        ({"blk.0.ffn_norm.weight": np.ones(31, np.float32)}, r"pre_mlp_layer_norm/scale has shape \(31,\) in the file"),
        ({"blk.0.attn_q.bias": np.ones(32, np.float32)}, r"no place for the array .*query/bias"),
        ({"blk.0.ffn_gate_exps.weight": np.ones((2, 32), np.float32)}, r"no place for the array blk.0.ffn_gate_exps"),
        ({"rope_freqs.weight": np.ones(3, np.float32)}, r"rope_freqs.weight has shape \(3,\), expected 4"),
        ({"rope_freqs.weight": np.zeros(4, np.float32)}, r"rope_factors must be 4 positive numbers"),
    ],
)
def test_arrays_that_no_llama_has(path, tensors, match):
    written.gguf_file(path, LLAMA, tensors=tensors)
    one_line(path, match)


@pytest.mark.parametrize("share", [0.0005, 0.01, 0.05, 0.1, 0.5, 0.999])
def test_truncated(path, share):
    written.gguf_file(path, LLAMA)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    one_line(path, r"is cut short|it ends within its metadata")


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04 a zip", b"\x80\x04 a pickle"])
def test_no_gguf(path, content):
    path.write_bytes(content)
    one_line(path, r"is no GGUF file that can be read: it begins with b")


def test_of_a_version_nobody_writes(path):
    path.write_bytes(b"GGUF" + struct.pack(">IQQ", 3, 0, 0))
    one_line(path, r"it is GGUF of version 50331648; 2 and 3 can be read")


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (struct.pack("<QQ", 2**62, 0), r"it ends within its metadata"),
        (struct.pack("<QQ", 0, 2**62), r"it ends within its metadata"),
        (struct.pack("<QQQ", 0, 1, 2**62), r"it ends within its metadata"),
        (struct.pack("<QQQ1sIIQ", 0, 1, 1, b"a", 9, 0, 2**62), r"it ends within its metadata"),
        (struct.pack("<QQQ1sIIQ", 0, 1, 1, b"a", 9, 8, 2**62), r"it ends within its metadata"),
        (struct.pack("<QQQ1sIIQ", 0, 1, 1, b"a", 9, 9, 1), r"a value of the unknown type 9"),
        (struct.pack("<QQQ1sI", 0, 1, 1, b"a", 99), r"a value of the unknown type 99"),
        (struct.pack("<QQQ1sI", 1, 0, 1, b"a", 5), r"one of its tensors has 5 dimensions"),
        (struct.pack("<QQQ1sIQIQ", 1, 0, 1, b"a", 1, 2**61, 0, 0), r"is cut short: a ends \d+ bytes behind its end"),
        (struct.pack("<QQQ1sIQQIQ", 1, 0, 1, b"a", 2, 2**40, 2**40, 0, 0), r"is cut short: a ends"),
        (struct.pack("<QQQ1sIQIQ", 1, 0, 1, b"a", 1, 0, 0, 0), r"corrupt: a of shape \(0,\)"),
        (struct.pack("<QQQ1sIQIQ", 1, 0, 1, b"a", 1, 33, 2, 0), r"a of shape \(33,\) is quantized in blocks of 32"),
        (struct.pack("<QQQ1sIQIQ", 1, 0, 1, b"a", 1, 32, 99, 0), r"a is quantized in a way that cannot be read: 99"),
        (struct.pack("<QQQ1sIQIQ", 1, 0, 1, b"a", 1, 32, 9, 0), r"cannot be read: .*Q8_1"),
    ],
)
def test_header_that_claims_too_much(path, header, match):
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + header)
    tracemalloc.start()
    one_line(path, match)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


def test_only_local_files_that_are_there(path):
    one_line(path, r"there is no file")
    with pytest.raises(UserError, match=r"gs://bucket/a.gguf: GGUF files are read from a local disk"):
        load_lm("gs://bucket/a.gguf")


def test_keywords_of_the_other_family(path):
    written.gguf_file(path, LLAMA)
    with pytest.raises(UserError, match=r"no keyword 'num_decoder_layers' here; close: num_layers"):
        load_lm(str(path), num_decoder_layers=2)


@pytest.mark.parametrize("config", [{"bos_first": True}, {"rope_factors": [1, 2]}, {"rope_factors": [0] * 4}])
def test_keywords_that_do_not_fit(path, config):
    written.gguf_file(path, dataclasses.replace(LLAMA, bos_id=None))
    one_line(path, r"bos_first needs bos_id|rope_factors must be 4 positive numbers", **config)
    assert load_lm(str(path), bos_first=True, bos_id=3, rope_factors=[1, 2, 3, 4]).config.rope_factors == (1, 2, 3, 4)
