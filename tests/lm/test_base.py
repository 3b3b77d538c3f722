"""What is handed to the seam reaches `read`: a method that reads only `encoder_inputs` does what an LM does on them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from frozen_jax import partitioning, training
from frozen_jax.lm import base
from frozen_jax.lm.decoding import Beam, Greedy
from frozen_jax.methods.base import Method
from frozen_jax.types import EncoderInputs
from tests import tiny


class ReadsAgain(Method):
    """Reads `encoder_inputs` in place of the inputs, where there are any."""

    rules = ((".*", "train"),)

    def read(self, inputs, inputs_mask, encoder_inputs=None):
        return self.lm.read(*(encoder_inputs or (inputs, inputs_mask)))


@pytest.fixture(scope="module")
def method():
    return ReadsAgain(tiny.t5())


BATCH, OTHER = tiny.batch(rows=8), tiny.batch(rows=8, inputs=9, seed=1)
AGAIN = EncoderInputs(OTHER.inputs, OTHER.inputs_mask)
LENGTHS = BATCH.inputs_mask.sum(1)
OTHER_LENGTHS = OTHER.inputs_mask.sum(1)


def on_mesh(method, shape):
    state, split = training.start(method, optax.sgd(0.1), tiny.mesh(*shape))
    return split.model(state.trained)


@pytest.mark.parametrize("shape", [None, (4, 2)])
def test_logits_scores_and_texts_are_those_of_the_encoder_inputs(method, shape):
    model = method if shape is None else on_mesh(method, shape)
    found, wanted = {"inputs_lengths": LENGTHS, "encoder_inputs": AGAIN}, {"inputs_lengths": OTHER_LENGTHS}
    for name in ("logits", "score"):
        one, other = (getattr(lm, name) for lm in (model, method.lm))
        result = one(BATCH.inputs, BATCH.targets, **found)
        np.testing.assert_allclose(result, other(OTHER.inputs, BATCH.targets, **wanted), rtol=1e-4, atol=1e-5)
        assert not np.allclose(result, other(BATCH.inputs, BATCH.targets, inputs_lengths=LENGTHS), atol=1e-3)
    for strategy in (Greedy(), Beam(2)):
        settings = {"max_length": 4, "strategy": strategy}
        result = model.generate(BATCH.inputs, **found, **settings).tokens
        np.testing.assert_array_equal(result, method.lm.generate(OTHER.inputs, **wanted, **settings).tokens)


def test_training_is_that_on_the_encoder_inputs(method):
    def figures(batch):
        state, split = training.start(method, optax.sgd(0.1), tiny.mesh(4, 2))
        step = training.make_train_step(split, state, optax.sgd(0.1), accumulation_steps=2)
        _, metrics = step(state, split.frozen, partitioning.put_batch(batch, split.mesh))
        return [float(metrics[name]) for name in ("loss", "gradient_norm")]

    found = figures(BATCH._replace(encoder_inputs=AGAIN))
    wanted = figures(BATCH._replace(inputs=OTHER.inputs, inputs_mask=OTHER.inputs_mask))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_a_shape_is_compiled_once_with_and_once_without():
    """As before, where nothing is handed over; the size of the cache is what jax compiled."""
    method = ReadsAgain(tiny.t5(emb_dim=24))
    before = base.run_compiled._cache_size()

    def compiled(**more):
        method.score(BATCH.inputs, BATCH.targets, inputs_lengths=LENGTHS, **more)
        return base.run_compiled._cache_size() - before

    assert [compiled(), compiled()] == [1, 1]
    assert [compiled(encoder_inputs=AGAIN), compiled(encoder_inputs=AGAIN), compiled()] == [2, 2, 2]


def test_an_lm_itself_has_no_use_for_them():
    lm = tiny.t5()
    found = lm.score(BATCH.inputs, BATCH.targets, inputs_lengths=LENGTHS, encoder_inputs=AGAIN)
    np.testing.assert_array_equal(found, lm.score(BATCH.inputs, BATCH.targets, inputs_lengths=LENGTHS))


def test_tokens_of_numpy_and_of_jax_are_alike(method):
    given = jax.tree.map(jnp.asarray, AGAIN)
    settings = {"inputs_lengths": LENGTHS}
    found = [method.score(BATCH.inputs, BATCH.targets, encoder_inputs=it, **settings) for it in (AGAIN, given)]
    np.testing.assert_array_equal(*found)
