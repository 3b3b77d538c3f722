"""The dual encoder: what it chooses among, that it learns, and the encoder alone that it stands on."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from frozen_jax import training
from frozen_jax.errors import UserError
from frozen_jax.methods.dual_encoder import DualEncoder
from frozen_jax.partitioning import put_batch
from frozen_jax.types import Batch, Negatives
from tests import tiny


@functools.cache
def tower() -> DualEncoder:
    return DualEncoder(tiny.t5(num_decoder_layers=0), width=8, temperature=0.1)


@functools.cache
def _vectors() -> Callable[..., jax.Array]:
    return jax.jit(tower().vectors)


def vectors(*texts: np.ndarray) -> np.ndarray:
    return np.asarray(_vectors()(*texts))


def batch(rows: int = 8) -> Batch:
    """Random questions, passages and negatives, of different lengths."""
    made, other = tiny.batch(rows, inputs=12, targets=7), tiny.batch(rows, inputs=9, seed=1)
    targets = np.random.default_rng(0).integers(2, 90, (rows, 7)).astype(np.int32)
    return made._replace(targets=targets, negatives=Negatives(other.inputs, other.inputs_mask))


@functools.cache
def _losses() -> Callable[[Batch], dict[str, jax.Array]]:
    method = tower()  # made out here, not while a function is traced
    return jax.jit(lambda one: method.loss(one, jax.random.key(0), 0.0)[1])


def losses(one: Batch) -> dict[str, float]:
    return {name: float(value) for name, value in _losses()(one).items()}


def by_hand(one: Batch, dropped: frozenset[tuple[int, int]] = frozenset()) -> float:
    """The loss row by row in numpy, without the (question, passage) pairs that are dropped."""
    questions = vectors(one.inputs, one.inputs_mask)
    passages = [vectors(one.targets, one.targets_weights > 0)]
    if one.negatives is not None:
        passages.append(vectors(*one.negatives))
    scores = questions @ np.concatenate(passages).T / 0.1
    total = 0.0
    for row in range(len(questions)):
        kept = [column for column in range(scores.shape[1]) if (row, column) not in dropped]
        total += np.log(np.exp(scores[row, kept]).sum()) - scores[row, row]
    return total


def test_vectors_have_length_1_and_do_not_depend_on_padding() -> None:
    one = batch()
    found = vectors(one.inputs, one.inputs_mask)
    assert found.shape == (8, 8)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    longer = np.pad(one.inputs, ((0, 0), (0, 4)), constant_values=5), np.pad(one.inputs_mask, ((0, 0), (0, 4)))
    np.testing.assert_allclose(vectors(*longer), found, atol=1e-5)


@pytest.mark.parametrize("negatives", [True, False])
def test_each_question_chooses_among_all_passages_of_the_batch(negatives: bool) -> None:
    one = batch() if negatives else batch()._replace(negatives=None)
    found = losses(one)
    assert found["weight"] == 8
    np.testing.assert_allclose(found["loss"], by_hand(one), rtol=1e-5)
    real = one.inputs_mask.sum() + (one.targets_weights > 0).sum()
    assert found["real_tokens"] == real + (one.negatives.mask.sum() if negatives else 0)


def test_a_passage_that_is_there_twice_is_nobodys_wrong_answer() -> None:
    one = batch()
    one.targets[3] = one.targets[0]
    one.targets[3, -1] += 1  # behind the last real token: padding, which is not compared
    assert not one.targets_weights[3, -1]
    own = one.targets[2][one.targets_weights[2] > 0]
    one.negatives.tokens[4, : len(own)] = own
    one.negatives.mask[4] = np.arange(9) < len(own)
    dropped = frozenset({(0, 3), (3, 0), (2, 8 + 4)})
    np.testing.assert_allclose(losses(one)["loss"], by_hand(one, dropped), rtol=1e-5)
    assert abs(by_hand(one) - by_hand(one, dropped)) > 0.002  # well beyond that tolerance


def test_rows_that_fill_up_a_batch_count_nowhere() -> None:
    filled = jax.tree.map(lambda rows: np.concatenate([rows, np.zeros_like(rows)]), batch())
    small, large = losses(batch()), losses(filled)
    for name in small:
        np.testing.assert_allclose(small[name], large[name], rtol=1e-5)


def test_a_batch_is_overfitted_and_its_passages_come_first() -> None:
    one, mesh, optimizer = batch(16), tiny.mesh(2, 1), optax.adamw(3e-3)
    state, split = training.start(tower(), optimizer, mesh)
    step = training.make_train_step(split, state, optimizer)
    metrics = []
    for index in range(40):
        state, found = step(state, split.frozen, put_batch(one, mesh))
        metrics.append(training.check_finite(index, found))
    assert metrics[-1]["loss"] < 0.1 * metrics[0]["loss"]
    assert metrics[0]["accuracy"] < 0.5 < metrics[-1]["accuracy"] == 1
    read = jax.jit(split.model(state.trained).vectors)
    scores = read(one.inputs, one.inputs_mask) @ read(one.targets, one.targets_weights > 0).T
    assert np.argmax(scores, axis=1).tolist() == list(range(16))


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_is_positive(temperature: float) -> None:
    with pytest.raises(UserError, match=r"temperature is .*; give a positive number"):
        DualEncoder(tower().lm, temperature=temperature)


def test_an_encoder_alone_writes_and_scores_nothing() -> None:
    lm, one = tower().lm, tiny.batch(2)
    assert {str(path[0]) for path, _ in nnx.to_flat_state(nnx.state(lm))} == {"token_embedder", "encoder"}
    for call in (lambda: lm.generate(one.inputs, max_length=2), lambda: lm.score(one.inputs, one.targets)):
        with pytest.raises(UserError, match="tiny-0 was loaded as an encoder alone"):
            call()
