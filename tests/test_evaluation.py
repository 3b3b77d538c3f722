"""Metrics, intervals and likelihoods of a model whose answers are known, and the file of its predictions."""

import dataclasses
import functools
import json
import math

import numpy as np
import pytest
from etils import epath

from frozen_jax import intervals
from frozen_jax.evaluation import Kept, evaluate
from tests import fake_model
from tests.fake_model import FakeModel, choosing, example, task


def test_result_of_a_task_with_choices():
    result = evaluate(FakeModel(), [choosing(40)], batch_size=8)["fake"]
    # Predictions are "10" up to example 20; targets alternate: 11 of the first 21 are "10", 10 of the last 19 are "50".
    assert result.metrics == {"accuracy": 21 / 40}
    assert result.intervals == {"accuracy": intervals.wilson(21, 40)}
    scores = [-abs(10 + i - (10 + i % 2 * 40)) - 0.5 for i in range(40)]
    assert result.nats_per_example == pytest.approx(np.mean(scores))
    assert result.nats_per_token == pytest.approx(np.mean(scores) / 2)  # a word and its end
    assert (result.task, result.split, result.examples, result.split_size) == ("fake", "test", 40, 40)
    assert result.majority_rate == 0.5


def test_the_figures_behind_the_means():
    given = task([example(7, "20", "20"), example(9, "20 4", "30 4 4")], predict_metrics=[fake_model.accuracy, broken])
    result = evaluate(FakeModel(), [given])["fake"].per_example
    assert (result.index, result.tokens, result.nats) == ([7, 9], [2, 4], [-0.5, -11.0])
    assert result.metrics == {"accuracy": [1.0, 0.0]}


def test_result_of_a_task_that_is_written():
    examples = [example(i, f"{5 + i} 7 8", "5 7") for i in range(5)]
    result = evaluate(FakeModel(), [task(examples, score_metrics=[fake_model.mean_score])], batch_size=4)["fake"]
    assert result.metrics == {"accuracy": 0.2, "mean_score": pytest.approx(-2.75)}
    assert result.intervals["accuracy"] == intervals.wilson(1, 5)
    assert result.nats_per_token == pytest.approx(-2.75 / 3)
    assert result.nats_interval == intervals.of_ratio(np.array([-0.75, -1.75, -2.75, -3.75, -4.75]), np.full(5, 3))
    assert result.majority_rate is None


def test_tasks_are_told_apart():
    results = evaluate(FakeModel(), [choosing(4), task([example(0, "5 7", "5 7")], name="other")])
    assert {name: result.metrics["accuracy"] for name, result in results.items()} == {"fake": 0.5, "other": 1.0}


def test_a_sample_says_of_how_many():
    result = evaluate(FakeModel(), [task([example(7, "5 7", "5 7")], split_size=900)])["fake"]
    assert (result.examples, result.split_size) == (1, 900)


def test_postprocessor_sees_the_example_and_which_text_it_is():
    seen = []

    def postprocess(text, example, is_target):
        seen.append((text, example["index"], is_target))
        return text.split()[0]

    given = task([example(4, "5 7", "5 9")], postprocess=postprocess)
    assert evaluate(FakeModel(), [given])["fake"].metrics == {"accuracy": 1.0}
    assert seen == [("5 9", 4, True), ("5 7", 4, False)]


def test_metric_values_of_seqio_are_understood():
    class Scalar:  # seqio.metrics.Scalar, which this file must not import
        value = np.float32(0.5)

    class Text:
        value = "a text"

    def metric(targets, predictions):
        return {"scalar": Scalar(), "text": Text(), "array": np.zeros(3), "whole": 3}

    assert evaluate(FakeModel(), [task([example(0, "5 7", "5")], predict_metrics=[metric])])["fake"].metrics == {
        "scalar": 0.5,
        "whole": 3.0,
    }


def test_a_metric_that_is_no_mean_is_measured_on_resampled_examples():
    def hits_squared(targets, predictions):
        return {"squared": fake_model.accuracy(targets, predictions)["accuracy"] ** 2}

    given = choosing(40)
    result = evaluate(FakeModel(), [task(given.examples, predict_metrics=[hits_squared])])["fake"]
    low, high = result.intervals["squared"]
    assert low < (21 / 40) ** 2 < high
    assert result.per_example.metrics == {}
    # The bootstrap of a square is the square of the bootstrap.
    hits = np.array([1.0] * 21 + [0.0] * 19)
    wanted = intervals.bootstrap(lambda rows: {"it": float(hits[rows].mean())}, 40)["it"]
    assert np.sqrt([low, high]) == pytest.approx(wanted, abs=0.08)


def test_a_metric_that_needs_all_examples_has_no_interval():
    def needs_three(targets, predictions):
        if len(set(map(id, targets))) < 3:
            raise ValueError("too few")
        return {"needs_three": 0.7}

    examples = [example(i, "5 7", f"{i} 9") for i in range(3)]
    result = evaluate(FakeModel(), [task(examples, predict_metrics=[needs_three])])["fake"]
    assert (result.metrics, result.intervals) == ({"needs_three": 0.7}, {})


def test_a_figure_about_some_examples_is_a_mean_over_those():
    def of_the_fifties(targets, predictions):
        about = [(t, p) for t, p in zip(targets, predictions, strict=True) if t == "50"]
        hits = fake_model.accuracy(targets, predictions)
        return hits | ({"fifties": fake_model.accuracy(*zip(*about, strict=True))["accuracy"]} if about else {})

    result = evaluate(FakeModel(), [task(choosing(40).examples, predict_metrics=[of_the_fifties])])["fake"]
    assert result.metrics == {"accuracy": 21 / 40, "fifties": 10 / 20}
    assert result.intervals == {"accuracy": intervals.wilson(21, 40), "fifties": intervals.wilson(10, 20)}
    values = result.per_example.metrics["fifties"]
    assert [math.isnan(value) for value in values] == [True, False] * 20
    assert np.nanmean(values) == 0.5


def broken(targets, predictions):
    raise ValueError("no such\nlabel")


def test_a_failing_metric_is_named_and_everything_else_goes_on(tmp_path):
    examples = [example(0, "5 7", "5 7")]
    tasks = [
        task(examples, name="first", predict_metrics=[broken, fake_model.accuracy, functools.partial(broken)]),
        task(examples, name="second"),
    ]
    results = evaluate(FakeModel(), tasks, predictions_dir=tmp_path)
    assert results["first"].failures == ["metric broken of task first failed on test: ValueError: no such label"] * 2
    assert math.isnan(results["first"].metrics.pop("broken"))
    assert list(results["first"].intervals) == ["accuracy"]
    assert results["first"].metrics == results["second"].metrics == {"accuracy": 1.0}
    assert results["second"].failures == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first-test.jsonl", "second-test.jsonl"]


def test_a_failing_postprocessor_takes_its_metrics_along_and_no_more():
    def postprocess(text, example, is_target):
        return {}["answers"]

    given = task(
        [example(3, "5 7", "5 7")], postprocess=postprocess, predict_metrics=[fake_model.accuracy], score_metrics=[]
    )
    result = evaluate(FakeModel(), [given])["fake"]
    assert math.isnan(result.metrics["accuracy"])
    assert result.failures == ["the postprocessor of task fake failed on example 3 of test: KeyError: 'answers'"]
    assert result.nats_per_token < 0


def test_predictions_are_json_lines(tmp_path):
    given = choosing(3)
    evaluate(FakeModel(), [given], predictions_dir=tmp_path / "made" / "for it")
    lines = (tmp_path / "made" / "for it" / "fake-test.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == [0, 1, 2]
    assert json.loads(lines[1]) == {
        "index": 1,
        "inputs": "11 11 11 11 11 11 11 11",
        "targets": "50",
        "prediction": "10",
        "target_score": -39.5,
        "choice_scores": {"10": -1.5, "50": -39.5},
    }


def test_a_full_disk_leaves_the_earlier_predictions(tmp_path, monkeypatch):
    path = tmp_path / "fake-test.jsonl"
    path.write_text("of an earlier run\n")

    def write_half(self, text):
        with open(self, "w") as file:
            file.write(text[: len(text) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(type(epath.Path(tmp_path)), "write_text", write_half)
    with pytest.raises(OSError, match="no space left"):
        evaluate(FakeModel(), [choosing(3)], predictions_dir=tmp_path)
    assert path.read_text() == "of an earlier run\n"


class Mortal(FakeModel):
    """Is killed when it is asked to write a third time."""

    def generate_many(self, inputs, **how):
        if len(self.written) == 2:
            raise KeyboardInterrupt
        return super().generate_many(inputs, **how)


def written_task(count=10, name="fake"):
    return task([example(i, f"{5 + i} 7 8", "5 7") for i in range(count)], name=name)


def test_a_killed_evaluation_goes_on_with_the_examples_that_are_left(tmp_path):
    kept = Kept(tmp_path, {"model": "one"})
    with pytest.raises(KeyboardInterrupt):
        evaluate(Mortal(), [written_task()], batch_size=2, kept=kept)
    model = FakeModel()
    found = evaluate(model, [written_task()], batch_size=2, predictions_dir=tmp_path / "kept", kept=kept)["fake"]
    assert [count for count, _ in model.written] == [2]  # eight were there
    whole = evaluate(FakeModel(), [written_task()], batch_size=2, predictions_dir=tmp_path / "whole")["fake"]
    assert found == whole
    one, other = [(tmp_path / name / "fake-test.jsonl").read_text().splitlines() for name in ("kept", "whole")]
    lines = [json.loads(line) for line in one]
    assert all(line.pop("seconds") >= 0 for line in lines)
    assert lines == [json.loads(line) for line in other]


@pytest.mark.parametrize("other", ["model", "examples", "length", "task"])
def test_kept_answers_are_never_taken_for_others(tmp_path, other):
    evaluate(FakeModel(), [written_task()], kept=Kept(tmp_path, {"model": "one"}))
    model = FakeModel()
    kept = Kept(tmp_path, {"model": "other" if other == "model" else "one"})
    given = written_task(9 if other == "examples" else 10, "another" if other == "task" else "fake")
    evaluate(model, [given], decode_length=7 if other == "length" else None, kept=kept)
    assert len(model.written) == 1


def test_without_scores_inputs_are_read_once_and_metrics_stay(tmp_path):
    model = FakeModel()
    found = evaluate(model, [written_task()], scored=False, predictions_dir=tmp_path)["fake"]
    assert model.scored == []
    assert math.isnan(found.nats_per_token)
    assert found.nats_interval is None
    assert found.metrics == {"accuracy": 0.1}
    assert "target_score" not in json.loads((tmp_path / "fake-test.jsonl").read_text().splitlines()[0])
    evaluate(model, [task([example(0, "5", "5")], score_metrics=[fake_model.mean_score])], scored=False)
    assert len(model.scored) == 1  # a metric wants them


def test_what_a_method_has_put_before_an_example_stands_in_the_predictions(tmp_path):
    raw = {"answers": np.array([b"5 7", b"5"]), "gold": np.array([b"p1"]), "passages": [{"id": "p1"}], "n": np.int32(3)}
    given = task([dataclasses.replace(example(0, "5 7", "5 7"), raw=raw)])
    evaluate(FakeModel(), [given], predictions_dir=tmp_path)
    line = json.loads((tmp_path / "fake-test.jsonl").read_text())
    assert (line["answers"], line["gold"], line["passages"]) == (["5 7", "5"], ["p1"], [{"id": "p1"}])
    assert "n" not in line
