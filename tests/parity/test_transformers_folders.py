"""Folders that transformers itself wrote, read back bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import transformers  # noqa: E402

from frozen_jax.lm.pretrained import huggingface  # noqa: E402
from frozen_jax.lm.pretrained.load import load_lm  # noqa: E402
from frozen_jax.lm.pretrained.stored import fingerprint  # noqa: E402
from tests.lm.pretrained import written  # noqa: E402

SHAPE = {
    "vocab_size": 96,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_heads": 3,
    "num_layers": 2,
    "num_decoder_layers": 3,
}
GATED = {"feed_forward_proj": "gated-gelu"}
MODELS = {
    "T5 1.0": (transformers.T5ForConditionalGeneration, transformers.T5Config(**SHAPE)),
    "T5 1.1": (
        transformers.T5ForConditionalGeneration,
        transformers.T5Config(**SHAPE, **GATED, tie_word_embeddings=False),
    ),
    "mT5": (transformers.MT5ForConditionalGeneration, transformers.MT5Config(**SHAPE)),
    "umT5": (transformers.UMT5ForConditionalGeneration, transformers.UMT5Config(**SHAPE)),
}
ATTENTIONS = {
    "attention": "SelfAttention",
    "self_attention": "SelfAttention",
    "encoder_decoder_attention": "EncDecAttention",
}
SUBLAYERS = {
    "encoder": {"attention": 0, "mlp": 1},
    "decoder": {"self_attention": 0, "encoder_decoder_attention": 1, "mlp": 2},
}


def make(kind: str, *, untied: bool = False) -> torch.nn.Module:
    torch.manual_seed(3)
    model_class, config = MODELS[kind]
    model = model_class(config)
    if untied:  # transformers 5 ties the head whatever the config says
        model.lm_head.weight = torch.nn.Parameter(torch.randn(96, 16))
        assert model.lm_head.weight.data_ptr() != model.shared.weight.data_ptr()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))  # norms, too, shall differ from each other
    return model


def by_hand(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The live torch model's parameters under canonical names: told module by module, not by the table under test."""
    arrays = {"token_embedder/embedding": model.shared.weight}
    per_layer = model.config.model_type == "umt5"
    for stack_name, sublayers in SUBLAYERS.items():
        stack = getattr(model, stack_name)
        arrays[f"{stack_name}/{stack_name}_norm/scale"] = stack.final_layer_norm.weight
        for i, block in enumerate(stack.block):
            at = f"{stack_name}/layers_{i}"
            for block_name, place in sublayers.items():
                layer = block.layer[place]
                norm = {"encoder_decoder_attention": "cross_attention"}.get(block_name, block_name)
                arrays[f"{at}/pre_{norm}_layer_norm/scale"] = layer.layer_norm.weight
                if block_name == "mlp":
                    for name, linear in layer.DenseReluDense.named_children():
                        if hasattr(linear, "weight"):
                            arrays[f"{at}/mlp/{name}/kernel"] = linear.weight.T
                    continue
                attention = getattr(layer, ATTENTIONS[block_name])
                for name, letter in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o")):
                    arrays[f"{at}/{block_name}/{name}/kernel"] = getattr(attention, letter).weight.T
            if per_layer or i == 0:
                bias = block.layer[0].SelfAttention.relative_attention_bias.weight.T
                arrays[f"{at if per_layer else stack_name}/relpos_bias/rel_embedding"] = bias
    if model.lm_head.weight.data_ptr() != model.shared.weight.data_ptr():
        arrays["decoder/logits_dense/kernel"] = model.lm_head.weight.T
    return {name: tensor.detach().numpy() for name, tensor in arrays.items()}


@pytest.mark.parametrize(("kind", "untied"), [("T5 1.0", False), ("T5 1.1", True), ("mT5", True), ("umT5", False)])
def test_round_trip(tmp_path, kind, untied):
    model = make(kind, untied=untied)
    model.save_pretrained(tmp_path)
    lm = load_lm(str(tmp_path))
    written.assert_same(written.loaded_params(lm), by_hand(model))
    assert lm.config.logits_via_embedding == (not untied)
    assert lm.config.mlp_activations == (("relu",) if kind == "T5 1.0" else ("gelu", "linear"))
    assert lm.config.relative_position_bias_per_layer == (kind == "umT5")
    assert (lm.config.num_encoder_layers, lm.config.num_decoder_layers) == (2, 3)


def test_shards_and_one_file_have_one_fingerprint(tmp_path):
    model = make("T5 1.1", untied=True)
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="8KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    one, many = (huggingface.open_checkpoint(str(tmp_path / name)) for name in ("one", "many"))
    assert fingerprint(one.arrays) == fingerprint(many.arrays)


def test_bfloat16(tmp_path):
    model = make("T5 1.1", untied=True).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    stored = huggingface.open_checkpoint(str(tmp_path)).arrays[
        "decoder/layers_1/encoder_decoder_attention/query/kernel"
    ]
    assert stored.dtype.name == "bfloat16"
    expected = model.decoder.block[1].layer[1].EncDecAttention.q.weight.T.float().detach().numpy()
    np.testing.assert_array_equal(stored.read_all().astype(np.float32), expected)


@pytest.mark.parametrize("kind", ["T5 1.1", "mT5"])
def test_head_that_transformers_5_tied_without_the_scale(tmp_path, kind):
    model = make(kind).eval()
    model.save_pretrained(tmp_path)
    lm = load_lm(str(tmp_path))
    assert not lm.config.logits_via_embedding
    tokens = np.array([[5, 9, 1], [7, 1, 0]], np.int32)
    with torch.no_grad():
        long = torch.from_numpy(tokens).long()
        shifted = torch.nn.functional.pad(long[:, :-1], (1, 0))
        expected = model(input_ids=long, attention_mask=(long > 0).long(), decoder_input_ids=shifted).logits.numpy()
    difference = np.abs(np.asarray(lm.logits(tokens, tokens)) - expected)[tokens > 0].max()
    assert difference < 1e-4 * np.abs(expected).max()
