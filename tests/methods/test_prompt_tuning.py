"""Prompts: where they start, and where they stand."""

import functools

import jax
import numpy as np
import pytest

from frozen_jax import checkpoints, prompts
from frozen_jax.errors import UserError
from frozen_jax.lm.decoding import Beam
from frozen_jax.methods.prompt_tuning import PromptTuning
from tests import tiny


def _made(initializer, length=4):
    return np.asarray(PromptTuning(tiny.t5(), length=length, initializer=initializer).prompt[...])


@pytest.fixture
def words(monkeypatch):
    """A tokenizer whose tokens are the word lengths."""

    class Words:
        def encode(self, text):
            return [10 + len(word) for word in text.split()]

    monkeypatch.setattr(prompts, "load_tokenizer", lambda source: Words())


def test_the_prompt_stands_before_the_inputs():
    method = tiny.prompt_tuning(length=3)
    inputs = np.array([[5, 6], [7, 0]], np.int32)
    embeddings, mask = method.read(inputs, inputs != 0)
    np.testing.assert_array_equal(embeddings[:, :3], np.broadcast_to(method.prompt[...], (2, 3, 16)))
    np.testing.assert_array_equal(embeddings[:, 3:], method.lm.embed(inputs))
    np.testing.assert_array_equal(mask, [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])


def test_a_prompt_of_token_embeddings_is_those_tokens_in_front():
    lm = tiny.t5()
    tokens = np.array([11, 12, 13])
    method = PromptTuning(lm, length=3, initializer=lambda lm, length, key: lm.embed(tokens))
    batch = tiny.batch(rows=3)
    in_front = np.concatenate([np.tile(tokens, (3, 1)), batch.inputs], axis=1).astype(np.int32)
    lengths = batch.inputs_mask.sum(1)
    np.testing.assert_allclose(
        method.logits(batch.inputs, batch.targets, inputs_lengths=lengths),
        lm.logits(in_front, batch.targets, inputs_lengths=lengths + 3),
        atol=1e-5,
    )
    np.testing.assert_array_equal(
        method.generate(batch.inputs, max_length=5, strategy=Beam(2), inputs_lengths=lengths).tokens,
        lm.generate(in_front, max_length=5, strategy=Beam(2), inputs_lengths=lengths + 3).tokens,
    )


def test_random_uniform():
    prompt = _made(prompts.random_uniform, length=100)
    assert prompt.dtype == np.float32
    assert -0.5 <= prompt.min() < -0.45 < 0.45 < prompt.max() <= 0.5


def test_sampled_vocabulary_takes_common_tokens():
    table = np.asarray(tiny.t5().token_embedder.embedding[...])
    prompt = _made(functools.partial(prompts.sampled_vocabulary, most_common=20))
    rows = [int(np.flatnonzero((table == vector).all(1))[0]) for vector in prompt]
    assert all(3 <= row < 20 for row in rows)


def test_a_text_fills_the_prompt_from_the_front(words):
    table = np.asarray(tiny.t5().token_embedder.embedding[...])
    sampled = functools.partial(prompts.sampled_vocabulary, most_common=20)
    prompt = _made(functools.partial(prompts.from_text, text="a bb", tokenizer="words", filled_up=sampled))
    np.testing.assert_array_equal(prompt[:2], table[[11, 12]])
    np.testing.assert_array_equal(prompt[2:], sampled(tiny.t5(), 4, jax.random.key(0))[2:])
    long = _made(functools.partial(prompts.from_text, text="a bb a a a a", tokenizer="words", filled_up=sampled))
    np.testing.assert_array_equal(long, table[[11, 12, 11, 11]])


def test_class_labels_are_means_of_their_tokens(words):
    table = np.asarray(tiny.t5().token_embedder.embedding[...])
    sampled = functools.partial(prompts.sampled_vocabulary, most_common=20)
    labels = functools.partial(
        prompts.from_class_labels, labels=("yes", "no way"), tokenizer="words", filled_up=sampled
    )
    prompt = _made(labels)
    np.testing.assert_allclose(prompt[0], table[13], rtol=1e-6)
    np.testing.assert_allclose(prompt[1], (table[12] + table[13]) / 2, rtol=1e-6)


def test_another_checkpoint_gives_its_prompt(tmp_path):
    method = tiny.prompt_tuning(length=4, seed=3)
    trained = {"prompt": method.prompt[...]}
    saver = checkpoints.Checkpointer(tmp_path, checkpoints.describe(method, trained, seed=0))
    saver.save(1, _State(trained))
    saver.wait()
    load = functools.partial(prompts.from_checkpoint, path=str(tmp_path))
    np.testing.assert_array_equal(_made(load), method.prompt[...])
    with pytest.raises(UserError, match="a prompt of length 5 is wanted"):
        _made(load, length=5)


def _State(trained):
    from frozen_jax.training import TrainState

    return TrainState(jax.numpy.int32(1), trained, ())
