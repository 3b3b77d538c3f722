"""Metrics on predictions that can be judged by hand."""

import pytest

from frozen_jax.text_metrics import (
    METRICS,
    POSTPROCESSORS,
    accuracy,
    correlations,
    f1_of_yes,
    hotpotqa,
    is_yes_or_no,
    matthews_correlation,
    mean_class_f1,
    mean_class_recall,
    multirc,
    multirc_postprocessor,
    normalize_answer,
    squad,
    squad_postprocessor,
)


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


def test_hotpotqa_tells_yes_and_no_apart():
    targets = [["yes"], ["no"], ["Rollo the Walker"], ["Paris", "No"]]
    assert [is_yes_or_no(answers) for answers in targets] == [True, True, False, False]
    assert not is_yes_or_no([])
    found = hotpotqa(targets, ["Yes.", "yes", "Rollo", "Paris"])
    assert found == {
        "exact_match": 0.5,
        "f1": pytest.approx((1 + 0 + 2 / 3 + 1) / 4),
        "exact_match_yes_no": 0.5,
        "f1_others": pytest.approx((2 / 3 + 1) / 2),
    }
    assert hotpotqa([["No Country"]], ["no"])["f1"] == 0.0  # squad: 2/3
    assert hotpotqa(targets[:1], ["no"]) == {"exact_match": 0.0, "f1": 0.0, "exact_match_yes_no": 0.0}
    assert hotpotqa(targets[2:3], ["x"]) == {"exact_match": 0.0, "f1": 0.0, "f1_others": 0.0}


def test_squad_postprocessor_gives_all_answers():
    example = {"answers": [b"Rollo", "Göngu-Hrólfr".encode()]}
    assert squad_postprocessor("Rollo", example=example, is_target=True) == ["Rollo", "Göngu-Hrólfr"]
    assert squad_postprocessor("Rollo", example=example, is_target=False) == "Rollo"


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_no_predictions_are_no_result(metric):
    with pytest.raises(ValueError, match="no predictions"):
        metric([], [])


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_a_missing_prediction_is_an_error(metric):
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        metric([("1", "a"), ("1", "b")] if metric is multirc else ["a", "b"], ["a"])


def test_f1_of_yes():
    targets = ["yes", "yes", "no", "no"]
    assert f1_of_yes(targets, ["yes", "no", "yes", "no"]) == {"f1_of_yes": 0.5}
    assert f1_of_yes(targets, [" yes", "yes", "yes", "yes"]) == {"f1_of_yes": pytest.approx(2 / 3)}
    assert f1_of_yes(targets, [""] * 4) == f1_of_yes(["no"], ["no"]) == {"f1_of_yes": 0.0}


def test_mean_class_f1():
    targets = ["yes", "yes", "no", "maybe"]
    assert mean_class_f1(targets, ["yes", "no", "no", "maybe"]) == {"mean_class_f1": pytest.approx((2 / 3 * 2 + 1) / 3)}
    assert mean_class_f1(targets, ["perhaps"] * 4) == {"mean_class_f1": 0.0}


@pytest.mark.parametrize(
    ("targets", "predictions", "expected"),
    [
        ("yyynn", "yyynn", 1.0),
        ("yyynn", "nnnyy", -1.0),
        ("yyynn", "yyyyy", 0.0),
        ("yyyyy", "yyynn", 0.0),
        ("yyynn", "yynyn", 1 / 6),  # (2 * 1 - 1 * 1) / sqrt(3 * 3 * 2 * 2)
        ("abcabc", "abcacb", 0.5),  # of three classes
        ("yyynn", "?????", 0.0),
    ],
)
def test_matthews_correlation(targets, predictions, expected):
    assert matthews_correlation([*targets], [*predictions]) == {"matthews_correlation": pytest.approx(expected)}


@pytest.mark.parametrize(
    ("predictions", "pearson", "spearman"),
    [
        (["0.0", "1.0", "2.0", "5.0"], 1.0, 1.0),
        (["5", "4", "3", "0"], -1.0, -1.0),
        (["0", "1", "4", "9"], 0.99268, 1.0),
        (["1", "1", "2", "3"], 0.96699, 0.94868),  # two share the ranks 1 and 2
        (["", "", "", ""], 0.0, 0.0),
        (["five", "nan", "inf", "-1"], 0.0, 0.0),  # no numbers
    ],
)
def test_correlations(predictions, pearson, spearman):
    found = correlations(["0.0", "1.0", "2.0", "5.0"], predictions)
    assert found == {"pearson": pytest.approx(pearson, abs=1e-4), "spearman": pytest.approx(spearman, abs=1e-4)}


def test_multirc_asks_for_all_answers_of_a_question():
    targets = [("1", "yes"), ("1", "no"), ("2", "yes"), ("2", "no")]
    assert multirc(targets, ["yes", "no", "yes", "yes"]) == {"exact_match": 0.5, "f1_of_yes": 0.8}
    assert multirc(targets, ["yes", "no", "yes", "no"]) == {"exact_match": 1.0, "f1_of_yes": 1.0}
    assert multirc(targets, [""] * 4) == {"exact_match": 0.0, "f1_of_yes": 0.0}
    assert multirc_postprocessor("no", {"question": b"2"}, is_target=True) == ("2", "no")
    assert multirc_postprocessor("no", {"question": b"2"}) == "no"


def test_every_metric_and_postprocessor_can_be_looked_up():
    assert METRICS["squad"] is squad
    assert POSTPROCESSORS["squad_postprocessor"] is squad_postprocessor
