"""Re-ranking and Fusion-in-Decoder over `transformers`' T5, put together from its parts as their papers say."""

import numpy as np
import pytest
import tokenizers

from frozen_jax import load_lm
from frozen_jax.methods.fusion_in_decoder import FusionInDecoder
from frozen_jax.retrieval.base import Passage
from frozen_jax.retrieval.reranking import Reranker
from tests import tiny_tokenizer

torch = pytest.importorskip("torch", reason="no CPU build of torch here; CONTRIBUTING.md says how to get one")
transformers = pytest.importorskip("transformers")

WORDS = [*tiny_tokenizer.WORDS, "Query:", "Document:", "Relevant:", "true", "false"]


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """The folder of a T5 with its tokenizer, and the T5."""
    folder = tmp_path_factory.mktemp("peer")
    torch.manual_seed(0)
    shape = dict(vocab_size=120, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, dropout_rate=0.0)
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**shape, decoder_start_token_id=0)).eval()
    for parameter in model.parameters():  # far from the initialisation, where attention is almost uniform
        parameter.data.mul_(1.5).add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tiny_tokenizer.write(folder, WORDS)
    return str(folder), model


def test_scores_are_those_of_monot5(peer):
    folder, model = peer
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(tiny_tokenizer.NUMBERS, count)) for count in rng.integers(1, 60, 12)]
    pairs = list(zip(texts[:6], texts[6:], strict=True))
    found = Reranker(load_lm(folder), folder, batch_size=4).score(
        [question for question, _ in pairs], [Passage("", "", text) for _, text in pairs]
    )
    words, expected = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json"), []
    for question, text in pairs:
        ids = [*words.encode(f"Query: {question} Document: {text} Relevant:").ids, 1]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([[0]])).logits[0, -1]
        two = logits[[WORDS.index("false"), WORDS.index("true")]]
        expected.append(torch.nn.functional.log_softmax(two, dim=0)[1].item())
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.ptp(expected) > 0.2, "scores that say nothing would agree too"


def test_fusion_in_decoder_is_that_of_an_encoder_on_each_passage(peer):
    folder, model = peer
    rng = np.random.default_rng(1)
    passages = [[*rng.integers(2, 120, count), 1] for count in (40, 7, 23)]
    targets = rng.integers(2, 120, (1, 6)).astype(np.int32)
    with torch.no_grad():
        alone = [model.encoder(input_ids=torch.tensor([passage])).last_hidden_state for passage in passages]
        expected = model(
            encoder_outputs=transformers.modeling_outputs.BaseModelOutput(torch.cat(alone, dim=1)),
            decoder_input_ids=torch.tensor(np.concatenate([[[0]], targets[:, :-1]], axis=1)),
        ).logits.numpy()
    method = FusionInDecoder(load_lm(folder), passages=4, passage_length=48)
    found = np.asarray(method.logits(np.concatenate(passages)[None].astype(np.int32), targets))
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.ptp(expected) > 1, "logits that say nothing would agree too"
