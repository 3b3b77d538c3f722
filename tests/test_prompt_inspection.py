"""What stands in front of the inputs, its nearest vocabulary, where its variance comes from, and its plane."""

import dataclasses

import numpy as np
import pytest

from frozen_jax import prompt_inspection
from frozen_jax.errors import UserError
from frozen_jax.methods.fine_tuning import FineTuning
from tests import fake_model, tiny
from tests.prompts_of_tiny import Echo

RNG = np.random.default_rng(0)
TOKENS = [np.array([5 + i % 7, *RNG.integers(2, 90, i % 40), 20 + i], np.int32) for i in range(50)]
INPUTS = [fake_model.EvalExample(i, tokens, tokens, "", "", {}, {}) for i, tokens in enumerate(TOKENS)]
TASKS = [f"p3.{name}.{template}" for name in ("a.x", "b") for template in ("one", "two") for _ in range(25)]


def points(between=0.0, within=0.0, noise=0.0):
    """100 prompts of two data sets with two templates each; each source is a direction of its own."""
    made = noise * RNG.standard_normal((100, 3, 4)).astype(np.float32)
    made[:, 0, 0] += between * np.repeat([1, -1], 50)
    made[:, 1, 1] += within * np.tile(np.repeat([1, -1], 25), 2)
    return made + 5


def test_the_prompt_of_a_method_without_one_of_its_own():
    lm = tiny.t5()
    found = prompt_inspection.prompts_of(Echo(lm), INPUTS)
    table = prompt_inspection.vocabulary_of(lm, 96)
    assert found.shape == (50, 2, 16)
    np.testing.assert_allclose(found[:, 0], [2 * table[tokens[0]] for tokens in TOKENS], rtol=1e-6)
    np.testing.assert_allclose(found[:, 1], [3 * table[tokens[-1]] for tokens in TOKENS], rtol=1e-6)


def test_an_encoder_reads_tokens_of_its_own():
    lm, again = tiny.t5(), [np.arange(3, 5 + i, dtype=np.int32) for i in range(50)]
    examples = [dataclasses.replace(one, encoder_inputs=tokens) for one, tokens in zip(INPUTS, again, strict=True)]
    table = prompt_inspection.vocabulary_of(lm, 96)
    found = prompt_inspection.prompts_of(Echo(lm), examples)
    np.testing.assert_allclose(found[:, 1], [3 * table[tokens[-1]] for tokens in again], rtol=1e-6)


def test_a_static_prompt_is_the_same_for_all():
    method = tiny.prompt_tuning()
    found = prompt_inspection.prompts_of(method, INPUTS)
    np.testing.assert_array_equal(found, np.broadcast_to(method.prompt[...], (50, 5, 16)))
    assert not prompt_inspection.depends_on_input(found)
    assert prompt_inspection.depends_on_input(prompt_inspection.prompts_of(Echo(tiny.t5()), INPUTS))


def test_a_method_that_puts_nothing_there():
    with pytest.raises(UserError, match="FineTuning puts nothing in front of the inputs"):
        prompt_inspection.prompts_of(FineTuning(tiny.t5()), INPUTS)


def test_rounding_is_no_dependence():
    assert not prompt_inspection.depends_on_input(points(noise=1e-6))
    assert prompt_inspection.depends_on_input(points(noise=1e-3))
    assert prompt_inspection.relative_spread(points(between=2.0)) == pytest.approx(2 / (5 * np.sqrt(12)), rel=1e-4)


@pytest.mark.parametrize("at_once", [512, 7])
def test_nearest_vocabulary(monkeypatch, at_once):
    monkeypatch.setattr(prompt_inspection, "_AT_ONCE", at_once)
    vocabulary = prompt_inspection.vocabulary_of(tiny.t5(), 80)
    wanted = RNG.integers(0, 80, (9, 3))
    scaled = vocabulary[wanted] * np.float32(7)
    found = prompt_inspection.nearest(scaled, vocabulary, 4)
    np.testing.assert_array_equal(found.tokens[:, :, 0], wanted)
    np.testing.assert_allclose(found.cosines[:, :, 0], 1, rtol=1e-5)
    units = vocabulary / np.linalg.norm(vocabulary, axis=1, keepdims=True)
    np.testing.assert_allclose(found.cosines, -np.sort(-(units[wanted] @ units.T))[..., :4], atol=1e-5)


def test_no_more_neighbours_than_the_vocabulary_has_and_zero_is_near_nothing():
    vocabulary = np.eye(3, 16, dtype=np.float32)
    found = prompt_inspection.nearest(np.zeros((2, 1, 16), np.float32), vocabulary, 5)
    assert found.tokens.shape == (2, 1, 3)
    assert (found.cosines == 0).all()


def test_what_random_directions_are_near_to():
    vocabulary = np.eye(2, dtype=np.float32)  # the larger of cosine and sine, over the circle
    assert prompt_inspection.cosine_by_chance(vocabulary) == pytest.approx(
        np.mean([max(np.cos(a), np.sin(a)) for a in np.linspace(0, 2 * np.pi, 1000)]), abs=0.05
    )


def test_where_the_variance_comes_from():
    found = prompt_inspection.variations(points(between=2.0, within=1.0, noise=0.3), TASKS)
    assert [part.source for part in found] == [
        "between data sets",
        "between the templates of a data set",
        "between the inputs of a task",
    ]
    total = 4 + 1 + 12 * 0.09
    np.testing.assert_allclose([part.share for part in found], [4 / total, 1 / total, 1.08 / total], atol=0.02)
    np.testing.assert_allclose([part.by_chance for part in found], [1 / 99, 2 / 99, 96 / 99])
    assert sum(part.share for part in found) == pytest.approx(1)


def test_shares_of_groups_at_random_are_those_of_chance():
    shares = [prompt_inspection.variations(points(noise=1.0), RNG.permutation(TASKS).tolist()) for _ in range(40)]
    means = np.mean([[part.share for part in found] for found in shares], axis=0)
    np.testing.assert_allclose(means, [part.by_chance for part in shares[0]], atol=0.004)


def test_parts_that_there_are_not_are_left_out():
    both = points(between=1.0, noise=0.1)
    assert [p.source for p in prompt_inspection.variations(both, ["one"] * 100)] == ["between the inputs of a task"]
    assert [p.source for p in prompt_inspection.variations(both, ["a"] * 50 + ["b"] * 50)] == [
        "between data sets",
        "between the inputs of a task",
    ]


def test_the_plane_is_that_of_most_variance():
    plane = prompt_inspection.plane(points(between=2.0, within=1.0, noise=0.01))
    np.testing.assert_allclose(np.abs(plane.points), np.repeat([[2.0, 1.0]], 100, 0), atol=0.05)
    np.testing.assert_allclose(plane.shares, (0.8, 0.2), atol=0.01)
    assert (plane.points.max(0) >= -plane.points.min(0)).all()


@pytest.mark.parametrize("count", [1, 2, 100])
def test_the_plane_of_points_that_are_one(count):
    same = prompt_inspection.plane(points(noise=1e-7)[:count])
    assert (same.points == 0).all()
    assert same.shares == (0, 0)
