"""`transformers`' T5 on CPU with random weights: the second opinion, over the shapes that real checkpoints have."""

import numpy as np
import pytest

from frozen_jax import load_lm

torch = pytest.importorskip("torch", reason="no CPU build of torch here; CONTRIBUTING.md says how to get one")
transformers = pytest.importorskip("transformers")

CONFIGS = {
    "t5 1.0": dict(feed_forward_proj="relu", tie_word_embeddings=True),
    "t5 1.0 wide heads": dict(feed_forward_proj="relu", tie_word_embeddings=True, d_kv=12, num_heads=5),
    "t5 1.1": dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "t5 1.1 uneven depths": dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False, num_decoder_layers=1),
    "mt5": dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False, family="MT5", vocab_size=500),
    "ul2": dict(feed_forward_proj="gated-silu", tie_word_embeddings=False, relative_attention_num_buckets=16),
    "umt5": dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False, family="UMT5"),
}
BASE = dict(
    vocab_size=120,
    d_model=32,
    d_kv=8,
    d_ff=48,
    num_layers=3,
    num_decoder_layers=3,
    num_heads=4,
    decoder_start_token_id=0,
    dropout_rate=0.0,
)
LONG = 300  # far relative positions: the last bucket begins at 128


def _peer(name, folder):
    fields = {**BASE, **CONFIGS[name]}
    family = fields.pop("family", "T5")
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**fields)
    peer = getattr(transformers, f"{family}ForConditionalGeneration")(config).eval()
    for parameter in peer.parameters():  # far from the initialisation, where attention is almost uniform
        parameter.data.mul_(1.5).add_(0.02 * torch.randn_like(parameter))
    peer.save_pretrained(folder)
    return peer


def _rows(vocabulary, seed=0):
    rng = np.random.default_rng(seed)
    lengths = np.array([LONG, 170, 40, 1])
    inputs = rng.integers(2, vocabulary, (4, LONG))
    inputs[np.arange(LONG)[None] >= lengths[:, None]] = 0
    return inputs.astype(np.int32), rng.integers(2, vocabulary, (4, 150)).astype(np.int32)


def _peer_logits(peer, inputs, targets):
    shifted = np.concatenate([np.zeros_like(targets[:, :1]), targets[:, :-1]], axis=1)
    with torch.no_grad():
        return peer(
            input_ids=torch.tensor(inputs, dtype=torch.long),
            attention_mask=torch.tensor(inputs != 0),
            decoder_input_ids=torch.tensor(shifted, dtype=torch.long),
        ).logits.numpy()


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_agree(name, tmp_path):
    peer = _peer(name, tmp_path)
    lm = load_lm(str(tmp_path))
    inputs, targets = _rows(lm.config.vocab_size)
    expected = _peer_logits(peer, inputs, targets)
    found = np.asarray(lm.logits(inputs, targets))
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.ptp(expected) > 1, "logits that say nothing would agree too"


@pytest.mark.parametrize("name", ["t5 1.0", "t5 1.1"])
def test_greedy_agrees(name, tmp_path):
    peer = _peer(name, tmp_path)
    lm = load_lm(str(tmp_path))
    inputs, _ = _rows(lm.config.vocab_size, seed=1)
    with torch.no_grad():
        greedy = peer.generate(
            torch.tensor(inputs, dtype=torch.long),
            attention_mask=torch.tensor(inputs != 0),
            max_new_tokens=10,
            do_sample=False,
        ).numpy()[:, 1:]
    found = lm.generate(inputs, max_length=10).tokens[:, : greedy.shape[1]]
    np.testing.assert_array_equal(found, greedy)


def test_bfloat16_is_within_its_rounding(tmp_path):
    """Ours in bfloat16 is no further from float32 than `transformers`' own bfloat16, give or take a half."""
    peer = _peer("t5 1.1", tmp_path)
    inputs, targets = _rows(BASE["vocab_size"])
    exact = _peer_logits(peer, inputs, targets)
    theirs = _peer_logits_bfloat16(peer, inputs, targets)
    ours = np.asarray(load_lm(str(tmp_path), dtype="bfloat16").logits(inputs, targets))
    assert np.sqrt(np.mean((ours - exact) ** 2)) < 1.5 * np.sqrt(np.mean((theirs - exact) ** 2))
    assert np.sqrt(np.mean((ours - exact) ** 2)) > 1e-4 * np.abs(exact).max(), "else it is not bfloat16"


def _peer_logits_bfloat16(peer, inputs, targets):
    half = peer.to(torch.bfloat16)
    shifted = np.concatenate([np.zeros_like(targets[:, :1]), targets[:, :-1]], axis=1)
    with torch.no_grad():
        return (
            half(
                input_ids=torch.tensor(inputs, dtype=torch.long),
                attention_mask=torch.tensor(inputs != 0),
                decoder_input_ids=torch.tensor(shifted, dtype=torch.long),
            )
            .logits.float()
            .numpy()
        )
