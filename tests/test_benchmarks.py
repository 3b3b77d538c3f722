"""The benchmark measures what it says: its bound is the compiled step's, on a small shape."""

import argparse
import json

import pytest

from benchmarks import train_step
from frozen_jax.lm.t5 import T5Config
from tests import tiny

SMALL = T5Config(
    vocab_size=320, emb_dim=32, num_heads=3, head_dim=16, mlp_dim=64, num_encoder_layers=2, num_decoder_layers=2
)


def flags(**changes):
    given = {"batch": 8, "inputs": 24, "targets": 4, "prompt": 8, "steps": 2, "warmup": 1, "microbatches": 1}
    return argparse.Namespace(**given | {"method": "prompt_tuning"} | changes)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(train_step, "SHAPE", SMALL)


@pytest.mark.loose_promotion
@pytest.mark.parametrize("changes", [{}, {"targets": 12, "prompt": 2}, {"method": "fine_tuning"}])
def test_the_bound_is_what_the_step_cannot_do_without(changes, monkeypatch):
    monkeypatch.setattr(train_step.partitioning, "make_mesh", lambda: tiny.mesh(1, 1))
    found = train_step.equal_shapes(flags(**changes))
    # At most the attention scores computed again; for gradients of weights, not those of the embeddings.
    assert 0.97 < found["flops_over_bound"] < 1.07
    assert found["seconds_per_step"] == pytest.approx(8 / found["examples_per_s"], abs=6e-5)  # rounded to 1e-4
    assert json.loads(json.dumps(found)) == found


def test_the_bound_counts_a_linear_map_and_an_attention_by_hand():
    one = T5Config(
        vocab_size=7, emb_dim=5, num_heads=1, head_dim=3, mlp_dim=2, num_encoder_layers=1, num_decoder_layers=0
    )
    train_step.SHAPE = one
    maps, attention = 3 * (4 * 5 * 3 + 3 * 5 * 2), 2 * 3 * 3 * 3  # three tokens: one of the prompt, two of the inputs
    head = 5 * 7
    wanted = 2 * (2 * (maps + head) + 3 * attention)
    args = flags(batch=1, inputs=2, prompt=1, targets=1)
    assert train_step.bound_gflop(args) * 1e9 == pytest.approx(wanted)
