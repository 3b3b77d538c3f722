"""Metrics on predictions that can be judged by hand."""

import pytest

from frozen_jax.text_metrics import accuracy, mean_class_recall, normalize_answer, squad, squad_postprocessor


def test_accuracy():
    assert accuracy(["yes", "no", "no", "no"], ["yes", "no", " no ", "yes"]) == {"accuracy": 0.75}
    assert accuracy(["yes", "no"], ["", ""]) == {"accuracy": 0.0}
    assert accuracy(["yes"], ["yes, of course"]) == {"accuracy": 0.0}


def test_mean_class_recall_does_not_reward_a_constant_answer():
    targets = ["bridge"] * 8 + ["comparison"] * 2
    assert accuracy(targets, ["bridge"] * 10) == {"accuracy": 0.8}
    assert mean_class_recall(targets, ["bridge"] * 10) == {"mean_class_recall": 0.5}
    assert mean_class_recall(targets, targets) == {"mean_class_recall": 1.0}
    assert mean_class_recall(targets, [""] * 10) == {"mean_class_recall": 0.0}


@pytest.mark.parametrize(
    ("answer", "same"),
    [("The  Rhine.", "rhine"), ("a cat, an owl", "cat owl"), ("U.S.", "us"), ("theatre", "theatre"), ("The", "")],
)
def test_normalize_answer(answer, same):
    assert normalize_answer(answer) == same


@pytest.mark.parametrize(
    ("answers", "prediction", "exact", "f1"),
    [
        (["Thames and Cherwell"], "the Thames and Cherwell", 1.0, 1.0),
        (["Thames and Cherwell"], "Thames", 0.0, 0.5),  # precision 1, recall 1/3
        (["Thames and Cherwell", "Thames"], "thames!", 1.0, 1.0),
        (["ten ten ten"], "ten ten", 0.0, 0.8),  # words count as often as they stand there
        (["Rollo"], "Charles", 0.0, 0.0),
        (["Rollo"], "", 0.0, 0.0),
        ([".", "Rollo"], "", 0.0, 0.0),  # a full stop is nothing once normalised, and nothing is no answer
        (["."], "", 0.0, 0.0),
    ],
)
def test_squad(answers, prediction, exact, f1):
    assert squad([answers], [prediction]) == {"exact_match": exact, "f1": pytest.approx(f1)}


def test_squad_averages_over_questions():
    assert squad([["a b"], ["c d"]], ["b", "x"]) == {"exact_match": 0.5, "f1": 0.5}


def test_squad_postprocessor_gives_all_answers():
    example = {"answers": [b"Rollo", "Göngu-Hrólfr".encode()]}
    assert squad_postprocessor("Rollo", example=example, is_target=True) == ["Rollo", "Göngu-Hrólfr"]
    assert squad_postprocessor("Rollo", example=example, is_target=False) == "Rollo"


@pytest.mark.parametrize("metric", [accuracy, mean_class_recall, squad])
def test_no_predictions_are_no_result(metric):
    with pytest.raises(ValueError, match="no predictions"):
        metric([], [])


@pytest.mark.parametrize("metric", [accuracy, mean_class_recall, squad])
def test_a_missing_prediction_is_an_error(metric):
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        metric(["a", "b"], ["a"])
