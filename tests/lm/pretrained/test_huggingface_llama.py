"""Hugging Face folders of decoder-only LMs. tests/parity/test_transformers_llama.py reads transformers' own."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest
import safetensors.numpy
import tokenizers

from frozen_jax.errors import UserError
from frozen_jax.lm.llama import LlamaConfig
from frozen_jax.lm.pretrained.load import load_lm, open_checkpoint
from tests.lm.pretrained import written

LLAMA = LlamaConfig(
    vocab_size=96, emb_dim=32, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=24, num_layers=2, bos_id=3, eos_id=1
)
QWEN2 = dataclasses.replace(LLAMA, qkv_bias=True, logits_via_embedding=True)
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A sound Llama, for a test to break."""
    return written.llama_folder(tmp_path, LLAMA)


def edit(folder: pathlib.Path, **changes: object) -> str:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return str(folder)


def edit_tensors(folder: pathlib.Path, **changes: np.ndarray) -> None:
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors |= {name.replace("__", "."): array for name, array in changes.items()}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


def one_line(folder: pathlib.Path, match: str, **config: object) -> None:
    with pytest.raises(UserError, match=match) as error:
        load_lm(str(folder), **config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("config", [LLAMA, QWEN2], ids=["llama", "qwen2"])
def test_weights_bit_for_bit(tmp_path, config):
    lm = load_lm(str(written.llama_folder(tmp_path, config)))
    written.assert_same(written.loaded_params(lm), written.llama_params(config))
    assert lm.config == config


def test_what_the_file_need_not_say(tmp_path):
    plain = dataclasses.replace(LLAMA, num_kv_heads=4, bos_id=None, layer_norm_epsilon=1e-6, pad_id=LLAMA.eos_id)
    left_out = dict.fromkeys(
        ("num_key_value_heads", "head_dim", "rms_norm_eps", "tie_word_embeddings", "bos_token_id", "pad_token_id")
    )
    written.llama_folder(tmp_path, plain, **left_out)
    assert open_checkpoint(str(tmp_path)).config == plain


def test_values_of_the_file(folder):
    config = open_checkpoint(edit(folder, max_position_embeddings=77, eos_token_id=[7, 8], rope_theta=500000)).config
    assert (config.context_length, config.eos_id, config.stop_ids, config.rope_theta) == (77, 7, (8,), 5e5)
    assert open_checkpoint(str(folder), eos_id=8).config.eos_id == 8


def test_frequencies_that_old_folders_keep(folder):
    edit_tensors(folder, model__layers__0__self_attn__rotary_emb__inv_freq=np.ones(4, np.float32))
    assert open_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("said", "factors"),
    [
        ({"rope_scaling": None}, ()),
        ({"rope_scaling": {"type": "linear", "factor": 4}}, (4,) * 4),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 2e4}}, ()),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 2e4, "factor": 2.0}}, (2,) * 4),
    ],
)
def test_rotary_scaling_in_both_spellings(folder, said, factors):
    config = open_checkpoint(edit(folder, rope_theta=1e4, **said)).config
    assert config.rope_factors == factors
    assert config.rope_theta == (2e4 if "rope_parameters" in said else 1e4)


@pytest.mark.parametrize("spelling", ["rope_scaling", "rope_parameters"])
def test_llama_3_stretches_long_waves_only(folder, spelling):
    """Over 512 positions the frequencies make 81, 8, 0.8 and 0.08 turns; above 4 is short, below 1 long."""
    assert open_checkpoint(edit(folder, **{spelling: LLAMA3})).config.rope_factors == (1, 1, 8, 8)
    between = LLAMA3 | {"original_max_position_embeddings": 2048}  # 3.26 turns of frequency 1/100
    factors = open_checkpoint(edit(folder, **{spelling: between})).config.rope_factors
    share = (2048 / (200 * math.pi) - 1) / 3
    np.testing.assert_allclose(factors, [1, 1, 1 / (share + (1 - share) / 8), 8], rtol=1e-12)


def test_tied_head_that_is_stored_as_well(tmp_path):
    written.llama_folder(tmp_path, QWEN2)
    table = safetensors.numpy.load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    edit_tensors(tmp_path, lm_head__weight=table)
    assert "decoder/logits_dense/kernel" not in open_checkpoint(str(tmp_path)).arrays
    edit_tensors(tmp_path, lm_head__weight=table + 1)
    one_line(tmp_path, r"lm_head.weight differs from model.embed_tokens.weight; give logits_via_embedding=False")
    assert not open_checkpoint(str(tmp_path), logits_via_embedding=False).config.logits_via_embedding
    assert open_checkpoint(str(tmp_path), logits_via_embedding=True).config.logits_via_embedding


def test_head_that_is_lost(tmp_path):
    written.llama_folder(tmp_path, QWEN2, tie_word_embeddings=False)
    one_line(tmp_path, r"decoder/logits_dense/kernel of shape \(32, 96\), which the config asks for, is missing")


def write_tokenizer(folder: pathlib.Path, template: str) -> None:
    vocabulary = {"<unk>": 0, "</s>": 1, "a": 2, "<s>": 3}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    special = [("<s>", 3), ("</s>", 1)]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single=template, special_tokens=special)
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("template", "said", "first"),
    [
        (None, None, False),
        (None, {}, False),
        (None, {"add_bos_token": True}, True),
        (None, {"add_bos_token": "yes"}, False),
        ("<s> $A", None, True),
        ("<s> $A", {"add_bos_token": False}, True),
        ("$A", {"add_bos_token": True}, False),
        ("<s> $A </s>", None, False),
        ("</s> $A", None, False),
    ],
)
def test_bos_stands_first_where_the_tokenizer_puts_it(folder, template, said, first):
    if template is not None:
        write_tokenizer(folder, template)
    if said is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(said))
    assert open_checkpoint(str(folder)).config.bos_first == first
    assert not open_checkpoint(str(folder), bos_first=False).config.bos_first
    assert not open_checkpoint(edit(folder, bos_token_id=None)).config.bos_first


def test_corrupt_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{")
    one_line(folder, r"tokenizer.json is no tokenizer that can be read")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"attention_bias": True}, r"config.json says attention_bias True; False can be loaded"),
        ({"mlp_bias": True}, r"mlp_bias True; False can be loaded"),
        ({"model_type": "qwen2", "use_sliding_window": True}, r"use_sliding_window True; False can be loaded"),
        ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor 0.5; 1.0 can be loaded"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, r"partial_rotary_factor 0.5; 1.0 can be loaded"),
        ({"hidden_act": "gelu"}, r"hidden_act 'gelu'; silu can be loaded"),
        ({"model_type": "mistral"}, r"model_type 'mistral'; t5, mt5, umt5, llama, qwen2 can be loaded"),
        ({"rope_scaling": {"type": "dynamic"}}, r"rope_type 'dynamic'; default, linear, llama3 can be loaded"),
        ({"rope_parameters": {"rope_type": "yarn"}}, r"rope_type 'yarn'; default, linear, llama3 can be loaded"),
        ({"rope_scaling": {"rope_type": ["x"]}}, r"rope_type \['x'\]; default"),
        ({"rope_scaling": [1]}, r"rope_parameters \[1\], expected an object"),
        ({"rope_scaling": {"type": "linear"}}, r"factor None, expected a positive number"),
        (
            {"rope_scaling": LLAMA3 | {"type": "llama3", "high_freq_factor": 1}},
            r"high_freq_factor 1.0, expected a higher",
        ),
        ({"rope_theta": float("inf")}, r"rope_theta inf, expected a positive number"),
        ({"rope_theta": 10**400}, r"rope_theta 10000.*\.\.\., expected a positive number"),
        ({"tie_word_embeddings": "no"}, r"tie_word_embeddings 'no'; False, True can be loaded"),
        ({"num_attention_heads": 3}, r"3 heads of queries cannot share 2 of keys"),
        (
            {"num_attention_heads": 6},
            r"out/kernel has shape \(32, 32\) in the file, but shape \(48, 32\)",
        ),
        ({"head_dim": 9}, r"a head of width 9 cannot be rotated"),
        ({"head_dim": 2**40}, r"head_dim 1099511627776, expected a positive whole number up to 4096"),
        ({"hidden_size": 10**15, "num_attention_heads": 10**12}, r"1000000000000 heads|in the file, but shape"),
        ({"num_hidden_layers": 10**9}, r"1000000000 layers by the config, but 21 arrays"),
        ({"num_hidden_layers": 1}, r"no place for the array decoder/layers_1/"),
        ({"model_type": "qwen2"}, r"self_attention/key/bias of shape \(16,\).* is missing"),
        ({"eos_token_id": None}, r"eos_token_id None, expected a token id"),
        ({"eos_token_id": [96]}, r"eos_id 96 is no token of a vocabulary of 96"),
        ({"vocab_size": 97}, r"in the file, but shape"),
    ],
)
def test_config_that_no_llama_has(folder, changes, match):
    edit(folder, **changes)
    one_line(folder, match)


def test_array_that_no_llama_has(folder):
    edit_tensors(folder, model__layers__0__self_attn__q_norm__weight=np.ones(8, np.float32))
    one_line(folder, r"no place for the array model.layers.0.self_attn.q_norm.weight of shape \(8,\)")


def test_only_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    one_line(folder, r"holds only pytorch_model.bin, a pickle")


def test_keywords_of_the_other_family(folder):
    one_line(folder, r"no keyword 'num_encoder_layers' here; close: num_layers", num_encoder_layers=2)
    one_line(folder, r"bos_id='3', expected int | None", bos_id="3")
    one_line(folder, r"rope_factors=1, expected tuple\[float, ...\]", rope_factors=1)


def test_hub_weights_are_not_fetched_for_a_config_that_cannot_be_loaded(folder, monkeypatch):
    asked = []

    def snapshot(hub_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert open_checkpoint("someone/some-llama").name == "someone/some-llama"
    assert asked[0] == ["config.json"]
    assert {"tokenizer.model", "*.json", "*.safetensors"} <= set(asked[1])
    asked.clear()
    one_line("someone/some-llama", r"no keyword 'rope_tetha'", rope_tetha=3)
    edit(folder, model_type="mamba")
    one_line("someone/some-llama", r"model_type 'mamba'")
    assert asked == [["config.json"], ["config.json"]]
