"""Hugging Face folders: sound ones, odd ones, and ones that nobody should trust.

tests/parity/test_transformers_folders.py reads folders that transformers itself wrote.
"""

from __future__ import annotations

import json
import pathlib
import struct
import types

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from frozen_jax import hub
from frozen_jax.errors import UserError
from frozen_jax.lm.pretrained import huggingface, huggingface_t5, safetensors_files
from frozen_jax.lm.pretrained.load import load_lm
from tests.lm.pretrained import written

QUERY = "decoder/layers_1/encoder_decoder_attention/query/kernel"
NORM = "encoder/encoder_norm/scale"
V1_0 = {
    "vocab_size": 96,
    "d_model": 20,
    "d_kv": 6,
    "d_ff": 28,
    "num_heads": 4,
    "feed_forward_proj": "relu",
    "tie_word_embeddings": True,
}


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A sound T5 1.1, for a test to break."""
    return written.transformers_folder(tmp_path, written.fixture_params())


def edit(path: pathlib.Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def one_line(source: pathlib.Path | str, match: str, **config: object) -> None:
    with pytest.raises(UserError, match=match) as error:
        load_lm(str(source), **config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", ["t5_1_1_tiny_legacy", "t5_1_0_tiny_legacy"])
def test_weights_bit_for_bit_and_the_fingerprint_of_t5x(tmp_path, case):
    params = written.fixture_params(case)
    config = {} if case == "t5_1_1_tiny_legacy" else V1_0
    lm = load_lm(str(written.transformers_folder(tmp_path, params, **config)))
    written.assert_same(written.loaded_params(lm), params)
    t5x = load_lm(str(written.FIXTURES / case), mlp_activations=lm.config.mlp_activations)
    assert lm.fingerprint == t5x.fingerprint
    assert lm.config == t5x.config
    assert lm.name == str(tmp_path)


def test_umt5_has_a_bias_in_every_layer(tmp_path):
    params = written.fixture_params()
    for stack in ("encoder", "decoder"):
        bias = params.pop(f"{stack}/relpos_bias/rel_embedding")
        params |= {f"{stack}/layers_{i}/relpos_bias/rel_embedding": bias * np.float32(i + 1) for i in range(2)}
    lm = load_lm(str(written.transformers_folder(tmp_path, params, model_type="umt5")))
    written.assert_same(written.loaded_params(lm), params)
    assert lm.config.relative_position_bias_per_layer


def test_shards(folder):
    names = list(safetensors.numpy.load_file(folder / "model.safetensors"))
    weight_map = {name: f"model-0000{i % 3}.safetensors" for i, name in enumerate(names)}
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for shard in set(weight_map.values()):
        part = {name: tensors[name] for name in names if weight_map[name] == shard}
        safetensors.numpy.save_file(part, folder / shard)
    (folder / safetensors_files.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    written.assert_same(written.loaded_params(load_lm(str(folder))), written.fixture_params())


def test_bfloat16_and_parts_of_it(tmp_path):
    params = {name: array.astype(ml_dtypes.bfloat16) for name, array in written.fixture_params().items()}
    arrays = huggingface.open_checkpoint(str(written.transformers_folder(tmp_path, params))).arrays
    for name, part in ((QUERY, (slice(2, 9), slice(1, 3))), (NORM, (slice(5, 6),))):
        assert arrays[name].dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(arrays[name].read(part), params[name][part])


def test_config_of_the_oldest_folders(tmp_path):
    """The first T5s say neither their activation nor how far positions reach, and store the tables several times."""
    params = written.fixture_params("t5_1_0_tiny_legacy")
    old = dict.fromkeys(("feed_forward_proj", "tie_word_embeddings", "num_decoder_layers"))
    written.transformers_folder(tmp_path, params, **V1_0 | old)
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    copies = ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    unused = {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": np.zeros((32, 4), np.float32)}
    tensors |= dict.fromkeys(copies, tensors["shared.weight"]) | unused
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    lm = load_lm(str(tmp_path))
    written.assert_same(written.loaded_params(lm), params)
    assert lm.config.logits_via_embedding
    assert lm.config.mlp_activations == ("relu",)


@pytest.mark.parametrize(
    ("said", "tied"),
    [
        ({"tie_word_embeddings": False}, False),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False, "transformers_version": "5.2.0"}, False),
        ({"tie_word_embeddings": True, "model_type": "mt5", "transformers_version": "5.2.0"}, False),
        ({"tie_word_embeddings": True, "model_type": "mt5", "transformers_version": "10.0"}, False),
    ],
)
def test_head_of_its_own(tmp_path, said, tied):
    lm = load_lm(str(written.transformers_folder(tmp_path, written.fixture_params(), **said)))
    assert lm.config.logits_via_embedding == tied
    written.assert_same(written.loaded_params(lm), written.fixture_params())


@pytest.mark.parametrize(
    ("said", "tied"),
    [
        ({"tie_word_embeddings": True, "transformers_version": "4.40.0"}, True),
        ({"tie_word_embeddings": True, "model_type": "mt5", "transformers_version": "4.40.0"}, True),
        ({"tie_word_embeddings": True, "model_type": "mt5"}, True),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": True, "transformers_version": "5.2.0"}, True),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False, "transformers_version": "5.2.0"}, False),
        ({"tie_word_embeddings": True, "model_type": "mt5", "transformers_version": "5.2.0"}, False),
    ],
)
def test_head_that_is_the_embedding_table(tmp_path, said, tied):
    params = written.fixture_params()
    del params["decoder/logits_dense/kernel"]
    lm = load_lm(str(written.transformers_folder(tmp_path, params, **said)))
    assert lm.config.logits_via_embedding == tied
    if not tied:  # tied without the scale: a matrix of its own here
        found = written.loaded_params(lm)
        np.testing.assert_array_equal(found["decoder/logits_dense/kernel"], params["token_embedder/embedding"].T)


def test_head_that_is_lost(tmp_path):
    params = written.fixture_params()
    del params["decoder/logits_dense/kernel"]
    one_line(written.transformers_folder(tmp_path, params), r"decoder/logits_dense/kernel .* is missing")


def test_tied_head_that_differs_asks_which_is_meant(folder):
    edit(folder / "config.json", tie_word_embeddings=True)
    one_line(folder, r"lm_head.weight differs from shared.weight; give logits_via_embedding=False")
    assert not load_lm(str(folder), logits_via_embedding=False).config.logits_via_embedding
    assert load_lm(str(folder), logits_via_embedding=True).config.logits_via_embedding


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_safetensors(folder, share):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    one_line(folder, r"model.safetensors is missing, corrupt or cut short")


@pytest.mark.parametrize(("shape", "end"), [([10**6, 10**6], 4 * 10**12), ([10**6, 10**6], 48), ([12], 10**15)])
def test_header_that_claims_too_much(folder, shape, end):
    header = json.dumps({"shared.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(48))
    one_line(folder, r"model.safetensors is missing, corrupt or cut short")


def test_arrays_of_integers(folder):
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors["shared.weight"] = tensors["shared.weight"].astype(np.int8)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    one_line(folder, r"shared.weight is stored as I8")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"d_ff": 48}, r"mlp/wi_0/kernel has shape \(16, 32\) in the file, but shape \(16, 48\) by the config"),
        ({"vocab_size": 97}, r"shape \(16, 128\) in the file, but shape \(16, 97\) by the config"),
        ({"num_layers": 1}, r"no place for the array encoder/layers_1"),
        ({"num_decoder_layers": 3}, r"decoder/layers_2.* is missing"),
        ({"num_layers": 10**9}, r"1000000002 layers by the config, but \d\d arrays"),
        ({"d_model": 10**15}, r"in the file, but shape \(1000000000000000,\) by the config"),
        ({"feed_forward_proj": "relu"}, r"mlp/wi/kernel of shape \(16, 32\), which the config asks for, is missing"),
        ({"feed_forward_proj": "gated-tanh"}, r"'gated-tanh'; relu, silu, gelu_new"),
        ({"model_type": "bart"}, r"model_type 'bart'"),
        ({"d_kv": None}, r"d_kv None, expected a positive whole number"),
        ({"num_heads": -3}, r"num_heads -3"),
        ({"num_heads": "3"}, r"num_heads '3'"),
        ({"layer_norm_epsilon": 0}, r"layer_norm_epsilon 0"),
        ({"eos_token_id": "one"}, r"eos_token_id 'one', expected a token id"),
    ],
)
def test_config_and_arrays_that_disagree(folder, changes, match):
    edit(folder / "config.json", **changes)
    one_line(folder, match)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_corrupt_config(folder, content):
    (folder / "config.json").write_bytes(content)
    one_line(folder, r"config.json is (missing or no JSON|no JSON object)")


def test_only_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    one_line(folder, r"holds only pytorch_model.bin, a pickle.*'refs/pr/1'")


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    one_line(folder, r"holds no weights; model.safetensors or")


def test_index_whose_shards_are_elsewhere(folder):
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    for shard in ("../outside.safetensors", "/outside.safetensors", "a/b.safetensors"):
        (folder / safetensors_files.INDEX).write_text(json.dumps({"weight_map": {"shared.weight": shard}}))
        one_line(folder, r"which is not in its own folder")


def test_index_that_does_not_fit_its_shards(folder):
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    for weight_map, match in (
        ({"shared.weight": "b.safetensors"}, r"b.safetensors is missing"),
        ({"strange": "a.safetensors"}, r"lacks the tensor strange"),
        ({"shared.weight": 3}, r"has no `weight_map`"),
        ([], r"has no `weight_map`"),
    ):
        (folder / safetensors_files.INDEX).write_text(json.dumps({"weight_map": weight_map}))
        one_line(folder, match)


def test_hub_id_passes_the_revision_on(folder, monkeypatch):
    asked = []

    def snapshot(hub_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((hub_id, revision))
        assert not any("bin" in pattern for pattern in allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    lm = load_lm("someone/some-t5", revision="refs/pr/2")
    assert asked == [("someone/some-t5", "refs/pr/2")] * 2  # the config before the weights
    assert lm.name == "someone/some-t5"


def test_hub_model_with_a_pickle_only_says_which_revision_to_try(folder, monkeypatch):
    (folder / "model.safetensors").unlink()
    files = {"refs/pr/1": ["model.safetensors"], "refs/pr/2": ["README.md"], "refs/pr/3": ["tokenizer.json"]}
    pulls = [types.SimpleNamespace(ref=ref) for ref in files]
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    monkeypatch.setattr(
        "huggingface_hub.HfApi",
        lambda: types.SimpleNamespace(
            list_repo_refs=lambda *_, **__: types.SimpleNamespace(pull_requests=pulls),
            list_repo_files=lambda _, revision: files[revision],
        ),
    )
    one_line("someone/some-t5", r"pickles are never opened; try revision='refs/pr/1', which has them")
    pulls.clear()
    one_line("someone/some-t5", r"try a revision='refs/pr/N' that has them")


def test_revision_cannot_be_found_without_the_hub(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi", lambda: types.SimpleNamespace(list_repo_refs=refuse))
    assert hub.find_revision("someone/some-t5", ["model.safetensors"]) is None


def test_names_that_are_no_t5s_stay_as_they_are():
    for name in (
        "bert.pooler.weight",
        "encoder.block.0.layer.2.layer_norm.weight",
        "encoder.block.0.layer.0.Conv.q9.weight",
    ):
        assert huggingface_t5.canonical_name(name) == name


def test_array_that_no_t5_has(folder):
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    safetensors.numpy.save_file(tensors | {"adapter.weight": np.zeros(3, np.float32)}, folder / "model.safetensors")
    one_line(folder, r"no place for the array adapter.weight of shape \(3,\)")
