"""A model's answers do not depend on how its examples were batched, and choices are judged as they should be."""

import dataclasses

import jax
import numpy as np
import pytest

from frozen_jax.answering import Rows, answer
from frozen_jax.errors import UserError
from tests import fake_model
from tests.fake_model import FakeModel, choosing, example, task


def answers(given, model=None, batch_size=4, buckets=None, decode_length=5, normalize_by_length=False):
    return answer(
        Rows(model or FakeModel(), batch_size, buckets, given.name), given, decode_length, normalize_by_length
    )


def test_the_nearest_choice_is_the_prediction():
    given = choosing()
    found = answers(given)
    assert found.predictions == ["10" if 10 + i <= 30 else "50" for i in range(11)]
    assert found.choice_scores[3] == {"10": -3.5, "50": -37.5}
    assert found.target_scores.tolist() == [-abs(10 + i - (10 + i % 2 * 40)) - 0.5 for i in range(11)]


@pytest.mark.parametrize("batch_size", [1, 3, 22, 64])
def test_batching_changes_nothing(batch_size):
    wanted, found = answers(choosing(), batch_size=4), answers(choosing(), batch_size=batch_size)
    assert found.predictions == wanted.predictions
    assert found.choice_scores == wanted.choice_scores
    np.testing.assert_array_equal(found.target_scores, wanted.target_scores)


def test_few_shapes_and_full_batches():
    model = FakeModel()
    answers(choosing(40), model, batch_size=8)
    assert {inputs[0] for inputs, _ in model.scored} == {8}
    assert {inputs[1] for inputs, _ in model.scored} == {16, 32}  # the longest input has 29 tokens and its end
    assert {targets for _, targets in model.scored} == {(16, 4)}  # both choices of each input
    assert len(model.scored) == 40 // 8


def test_tasks_of_like_size_share_their_shapes():
    shapes = set()
    for longest in range(33, 49):
        for choices in (("5 6 7 8", "6", "7"), ("5 6 7 8 9", "6", "7", "8")[: 3 + longest % 2]):
            model = FakeModel()
            given = [example(i, " ".join(["5"] * (longest - 1 - i)), "6", choices=choices) for i in range(5)]
            answers(task(given), model, batch_size=8)
            shapes |= set(model.scored)
    assert {inputs for inputs, _ in shapes} == {(8, 48)}
    assert {targets for _, targets in shapes} == {(24, 6), (32, 6)}


@pytest.mark.parametrize(
    ("devices", "count", "batch_size", "shapes"),
    [
        (1, 50, 32, [25, 25]),
        (2, 50, 32, [26, 26]),
        (8, 50, 32, [32, 32]),
        (8, 50, 3, [3] * 17),
        (1, 7, 32, [7]),
        (1, 32, 32, [32]),
        (1, 33, 32, [17, 17]),
    ],
)
def test_batches_are_no_larger_than_they_need_be(monkeypatch, devices, count, batch_size, shapes):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    model = FakeModel()
    answers(choosing(count), model, batch_size=batch_size)
    assert [inputs[0] for inputs, _ in model.scored] == shapes


def test_targets_are_as_wide_as_their_batch_asks():
    model = FakeModel()
    long = [example(i, "5", " ".join(["6"] * (40 if i == 0 else 3))) for i in range(4)]
    answers(task(long, predict_metrics=[]), model, batch_size=2)
    assert [targets for _, targets in model.scored] == [(2, 48), (2, 16)]


def test_rows_that_fill_up_do_not_count():
    model = FakeModel()
    found = answers(choosing(1), model, batch_size=16)
    assert model.scored == [((8, 16), (16, 4))]  # eight devices share the rows
    assert len(found.predictions) == len(found.target_scores) == 1


def test_own_buckets():
    model = FakeModel()
    answers(choosing(), model, buckets=(64, 4))
    assert {inputs[1] for inputs, _ in model.scored} == {4, 64}
    with pytest.raises(UserError, match=r"inputs of task fake have up to 30 tokens, .* \(4, 8\) .*; add one of 30"):
        answers(choosing(), buckets=(4, 8))


def test_a_longer_choice_is_judged_whole_or_by_the_token():
    given = task([example(0, "20", "20", choices=("20", "20 3 3 3 3 3 3 3"))])
    assert answers(given).predictions == ["20"]
    # Whole: -0.5 against -2.25. By the token both are -0.25, and the first of equals is taken.
    assert answers(given, normalize_by_length=True).choice_scores == [{"20": -0.25, "20 3 3 3 3 3 3 3": -0.25}]


def test_a_target_that_is_no_choice_is_scored_as_well():
    found = answers(task([example(0, "20", "23", choices=("10", "50"))]))
    assert found.target_scores.tolist() == [-3.5]
    assert set(found.choice_scores[0]) == {"10", "50"}


def test_examples_may_have_different_numbers_of_choices():
    given = task([example(0, "20", "20", choices=("20",)), example(1, "30", "31", choices=("90", "31", "10"))])
    found = answers(given)
    assert found.predictions == ["20", "31"]
    assert found.choice_scores == [{"20": -0.5}, {"90": -60.5, "31": -1.5, "10": -20.5}]


def test_without_choices_the_model_writes():
    model = FakeModel()
    given = task([example(i, f"{5 + i} 7 8", "5 7") for i in range(5)])
    found = answers(given, model, decode_length=6)
    assert found.predictions == [f"{5 + i} 7" for i in range(5)]
    assert found.choice_scores == [{}] * 5
    assert found.target_scores.tolist() == [-i - 0.75 for i in range(5)]
    assert model.written == [(5, 4)]


def test_nothing_is_written_if_only_scores_are_asked_for():
    model = FakeModel()
    found = answers(task([example(0, "5", "5")], predict_metrics=[], score_metrics=[fake_model.mean_score]), model)
    assert found.predictions is None
    assert model.written == []


def test_choices_for_some_examples_only_are_a_mistake():
    with pytest.raises(UserError, match="task fake: some examples have answer choices and some have none"):
        answers(task([example(0, "5", "5"), example(1, "5", "5", choices=("5",))]))


def test_a_score_that_is_no_number_stops():
    class Broken(FakeModel):
        def score(self, *arguments, **lengths):
            return super().score(*arguments, **lengths) * np.nan

    with pytest.raises(FloatingPointError, match="task fake: a score of row 0 is not a number"):
        answers(choosing(), Broken())


class Encoding(FakeModel):
    """Its encoder must read what its rows read, a hundred higher, and twice as many."""

    def score(self, inputs, targets, *, encoder_inputs, **lengths):
        self.check(inputs, encoder_inputs, lengths["inputs_lengths"])
        return super().score(inputs, targets, **lengths)

    def generate_many(self, inputs, *, encoder_inputs, **settings):
        for row, again in zip(inputs, encoder_inputs, strict=True):
            np.testing.assert_array_equal(again, np.tile(row, 2) + 100)
        return super().generate_many(inputs, **settings)

    def check(self, inputs, encoder_inputs, lengths):
        tokens, mask = encoder_inputs
        assert (tokens[:, 0] == inputs[:, 0] + 100).all()
        assert (mask.sum(1) == 2 * lengths).all()
        assert (tokens[~mask] == 0).all()
        assert tokens.shape[1] in (16, 32, 64)


@pytest.mark.parametrize("batch_size", [3, 8])
@pytest.mark.parametrize("given", [choosing(), task([example(i, f"{5 + i} 7 8", "5 7") for i in range(5)])])
def test_an_encoder_reads_the_example_of_its_row(given, batch_size):
    def doubled(it):
        return dataclasses.replace(it, encoder_inputs=np.tile(it.inputs, 2) + 100)

    again = dataclasses.replace(given, examples=[doubled(it) for it in given.examples])
    found, wanted = answers(again, Encoding(), batch_size), answers(given, batch_size=batch_size)
    assert (found.predictions, found.choice_scores) == (wanted.predictions, wanted.choice_scores)
