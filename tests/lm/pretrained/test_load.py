"""The one door: which source is meant, dtypes, shards read on their own, and keywords nobody knows."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import frozen_jax
from frozen_jax.errors import UserError
from frozen_jax.lm.pretrained import load
from frozen_jax.lm.pretrained.load import load_lm
from frozen_jax.partitioning import make_mesh
from tests import tiny
from tests.lm.pretrained import written
from tests.lm.pretrained.written import FIXTURES, GATED

LEGACY, ORBAX = (str(FIXTURES / f"t5_1_1_tiny_{name}") for name in ("legacy", "orbax"))
WI = "encoder/layers/mlp/wi_0/kernel"


def parameter(lm: nnx.Module, name: str) -> jax.Array:
    found = {"/".join(map(str, path)): value for path, value in nnx.to_flat_state(nnx.state(lm))}
    return found[name][...]


def test_weights_bit_for_bit_with_name_and_fingerprint():
    models = [load_lm(source, mlp_activations=GATED) for source in (LEGACY, ORBAX)]
    for lm, source in zip(models, (LEGACY, ORBAX), strict=True):
        written.assert_same(written.loaded_params(lm), written.fixture_params())
        assert lm.name == source
        assert lm.config.dtype == "float32"  # on CPU
    assert models[0].fingerprint == models[1].fingerprint
    assert len(models[0].fingerprint) == 64


def test_is_what_the_package_offers():
    assert frozen_jax.load_lm is load_lm


def test_other_dtype_leaves_the_fingerprint_alone():
    plain = load_lm(LEGACY, mlp_activations=GATED)
    lm = load_lm(LEGACY, dtype="bfloat16", mlp_activations=GATED)
    assert lm.fingerprint == plain.fingerprint
    assert lm.config.dtype == "bfloat16"
    expected = {name: np.asarray(jnp.asarray(a, jnp.bfloat16)) for name, a in written.fixture_params().items()}
    written.assert_same(written.loaded_params(lm), expected)


def test_accelerators_get_bfloat16_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert load_lm(LEGACY, mlp_activations=GATED).config.dtype == "bfloat16"
    assert load_lm(LEGACY, mlp_activations=GATED, dtype="float32").config.dtype == "float32"
    assert load_lm(LEGACY, mlp_activations=GATED, mesh=make_mesh(4, 2)).config.dtype == "float32"  # a mesh of CPUs


@pytest.mark.parametrize("model", [1, 2, 8])
def test_mesh_holds_the_same_weights(model):
    lm = load_lm(ORBAX, mesh=make_mesh(-1, model), mlp_activations=GATED)
    written.assert_same(written.loaded_params(lm), written.fixture_params())
    kernel = parameter(lm, WI)
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 16, 32 // model)
    assert len(kernel.sharding.device_set) == 8


def test_each_shard_is_read_once_and_on_its_own(monkeypatch):
    reads: dict[str, list[int]] = {}
    checkpoint = load.open_checkpoint(ORBAX, mlp_activations=GATED)

    def watched(name, stored):
        def read(part):
            reads.setdefault(name, []).append(math.prod(piece.stop - piece.start for piece in part))
            return stored.read(part)

        return dataclasses.replace(stored, read=read)

    arrays = {name: watched(name, stored) for name, stored in checkpoint.arrays.items()}
    monkeypatch.setattr(load, "open_checkpoint", lambda *_, **__: dataclasses.replace(checkpoint, arrays=arrays))
    monkeypatch.setattr(load, "fingerprint", lambda _: "")  # it reads everything, in blocks
    load_lm(ORBAX, mesh=make_mesh(2, 4))
    # Two rows of the mesh hold the same four shards: four reads, each of a quarter.
    assert reads["encoder/layers_1/mlp/wi_0/kernel"] == [16 * 32 // 4] * 4
    assert reads["token_embedder/embedding"] == [128 * 16 // 4] * 4
    assert reads["encoder/layers_0/pre_mlp_layer_norm/scale"] == [16]


def test_keywords_reach_the_config():
    lm = load_lm(LEGACY, mlp_activations=["gelu", "linear"], relative_position_max_distance=64, layer_norm_epsilon=1)
    assert lm.config.relative_position_max_distance == 64
    assert lm.config.mlp_activations == ("gelu", "linear")  # hashable, though gin gives a list
    hash(lm.config)


def test_an_encoder_alone_is_the_same_encoder_from_any_source(tmp_path):
    whole = written.fixture_params()
    encoder = {name: array for name, array in whole.items() if not name.startswith("decoder/")}
    folder = written.transformers_folder(
        tmp_path, encoder, architectures=["T5EncoderModel"]
    )  # counts its decoder still
    lms = [load_lm(LEGACY, mlp_activations=GATED, num_decoder_layers=0), load_lm(str(folder))]
    for lm in lms:
        written.assert_same(written.loaded_params(lm), encoder)
    assert lms[0].fingerprint == lms[1].fingerprint != load_lm(LEGACY, mlp_activations=GATED).fingerprint
    with pytest.raises(UserError, match=r"the array decoder/decoder_norm/scale .* is missing"):
        load_lm(str(written.transformers_folder(tmp_path, encoder)))


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"mlp_activation": GATED}, r"no keyword 'mlp_activation' here; close: mlp_activations"),
        ({"vocab": 3}, r"no keyword 'vocab' here; close: vocab_size"),
        ({"mlp_activations": ("gelu", "lineal")}, r"mlp_activations names 'lineal'; known are relu, gelu"),
        ({"mlp_activations": GATED, "num_heads": "3"}, r"num_heads='3', expected int"),
        ({"mlp_activations": GATED, "logits_via_embedding": 1}, r"logits_via_embedding=1, expected bool"),
        ({"mlp_activations": GATED, "dtype": "int8"}, r"dtype 'int8' is not known; choose from float32"),
        ({"mlp_activations": GATED, "emb_dim": 8}, r"shape \(16,\) in the file, but shape \(8,\) by the config"),
    ],
)
def test_keywords_that_help_nobody(config, match):
    with pytest.raises(UserError, match=match):
        load_lm(LEGACY, **config)


@pytest.mark.parametrize("source", ["titler-t5-smal", "no/such/folder", "/no/such/folder", "", "~"])
def test_unknown_source_says_what_there_is(source):
    with pytest.raises(
        UserError, match=r"unknown language model .*titler-t5-small.*no folder, no GGUF file, no hub id"
    ):
        load_lm(source)


def test_folder_that_is_no_checkpoint(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UserError, match=r"holds no language model: neither config.json"):
        load_lm(str(tmp_path))


def test_canonical_shapes_are_the_fixtures():
    for case in ("t5_1_1_tiny_legacy", "t5_1_0_tiny_legacy"):
        config = {} if "1_0" in case else {"mlp_activations": GATED}
        checkpoint = load.open_checkpoint(str(FIXTURES / case), **config)
        shapes = load.canonical_shapes(checkpoint.config)
        assert shapes == {name: array.shape for name, array in written.fixture_params(case).items()}


def test_canonical_shapes_of_a_decoder_only_lm():
    config = dataclasses.replace(tiny.LLAMA_CONFIG, qkv_bias=True, num_layers=1)
    layer = "decoder/layers_0/"
    assert load.canonical_shapes(config) == {
        "token_embedder/embedding": (96, 16),
        f"{layer}pre_self_attention_layer_norm/scale": (16,),
        f"{layer}self_attention/query/kernel": (16, 32),
        f"{layer}self_attention/query/bias": (32,),
        f"{layer}self_attention/key/kernel": (16, 16),
        f"{layer}self_attention/key/bias": (16,),
        f"{layer}self_attention/value/kernel": (16, 16),
        f"{layer}self_attention/value/bias": (16,),
        f"{layer}self_attention/out/kernel": (32, 16),
        f"{layer}pre_mlp_layer_norm/scale": (16,),
        f"{layer}mlp/wi_0/kernel": (16, 32),
        f"{layer}mlp/wi_1/kernel": (16, 32),
        f"{layer}mlp/wo/kernel": (32, 16),
        "decoder/decoder_norm/scale": (16,),
        "decoder/logits_dense/kernel": (16, 96),
    }
