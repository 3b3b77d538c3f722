"""Methods in wider mixtures beside prompts for each data set alone, out of runs' last metrics."""

import json

import pytest

from frozen_jax.errors import UserError
from frozen_jax.runs.collapse import by_mixture_size, last_of, rows_of


@pytest.fixture
def folder(tmp_path):
    """Two evaluations of each run; the last counts."""

    def write(name, step=2, **values):
        lines = [
            {"kind": "eval", "step": 1, **{f"p3.{key}/nats_per_token": -9.0 for key in values}},
            {"kind": "train", "step": 2},
            {
                "kind": "eval",
                "step": step,
                "mean": 0.5,
                "mean_nats_per_token": -7.0,
                **{f"p3.{key}/nats_per_token": value for key, value in values.items()},
                **{f"p3.{key}/accuracy": 0.25 for key in values},
                **{f"p3.{key}/nats_per_token_of_something": -99.0 for key in values},
            },
        ]
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return str(tmp_path / name)

    return write


def test_the_last_evaluation_counts(folder):
    run = last_of(folder("run", step=7, a=-1.0, b=-2.0))
    assert (run.step, run.values) == (7, {"p3.a": -1.0, "p3.b": -2.0})


def test_methods_are_sorted_by_the_size_of_their_mixtures(folder):
    alone = [
        folder("a0", a=-1.0),
        folder("a1", a=-2.0),
        folder("b0", b=-3.0),
        folder("b1", b=-5.0),
        folder("c", c=-1.0),
    ]
    alone.append(folder("c1", c=-1.0))
    wide = [folder("w0", a=-2.0, b=-4.0, c=-6.0), folder("w1", a=-2.0, b=-4.0, c=-3.0)]
    methods = {"static": [*wide, folder("two", a=-1.0, b=-2.0)], "tuned": [folder("tuned", a=0.0, b=-1.0)]}
    found, reference, averaged = by_mixture_size(methods, alone)
    assert found == {"static": {3: [-4.0, -3.0], 2: [-1.5]}, "tuned": {2: [-0.5]}}
    assert reference[2] == [-2.0, -3.5]
    assert reference[3] == pytest.approx([-5 / 3, -8 / 3])
    assert averaged == {3: ["p3.a", "p3.b", "p3.c"], 2: ["p3.a", "p3.b"]}
    assert rows_of(found, reference, averaged)[0] == ["static", "2 of 2", "1", "-1.500", "-2.750", "+1.250"]


def test_data_sets_without_a_prompt_alone_stay_out(folder):
    found, reference, averaged = by_mixture_size({"m": [folder("m", a=-1.0, b=-8.0)]}, [folder("a", a=-2.0)])
    assert (found, reference, averaged) == ({"m": {2: [-1.0]}}, {2: [-2.0]}, {2: ["p3.a"]})


def test_mistakes(folder):
    one, two = folder("one", a=-1.0), folder("two", a=-1.0, b=-1.0)
    with pytest.raises(UserError, match=r"two: curves\.alone is for runs on one data set; this one has 2"):
        by_mixture_size({"m": [two]}, [two])
    with pytest.raises(UserError, match=r"other: none of its data sets has a prompt alone; curves\.alone has p3\.a"):
        by_mixture_size({"m": [folder("other", b=-1.0, c=-1.0)]}, [one])
    with pytest.raises(UserError, match=r"third: 2 data sets, but not those of .*two, which has as many"):
        by_mixture_size({"m": [two, folder("third", a=-1.0, c=-1.0)]}, [one, folder("c", c=-1.0), folder("b", b=-1.0)])
    with pytest.raises(UserError, match=r"as many seeds as the others; there are \{'p3.a': 2, 'p3.b': 1\}"):
        by_mixture_size({"m": [two]}, [one, one, folder("b1", b=-1.0)])


def test_mixtures_that_differ_in_a_data_set_without_a_prompt_alone(folder):
    paths = [folder("one", a=-1.0, b=-1.0), folder("other", a=-1.0, c=-1.0)]
    with pytest.raises(UserError, match=r"other: 2 data sets, but not those of .*one, which has as many"):
        by_mixture_size({"m": paths}, [folder("a", a=-1.0)])


def test_runs_that_are_compared_have_seen_as_much(folder):
    alone = [folder("a", a=-1.0), folder("b", b=-1.0)]
    whole, stopped = folder("whole", step=9, a=-1.0, b=-1.0), folder("stopped", step=5, a=-1.0, b=-1.0)
    with pytest.raises(UserError, match=r"stopped: last evaluated after step 5, but .*whole after step 9; finish both"):
        by_mixture_size({"static": [whole], "tuned": [stopped]}, alone)
    with pytest.raises(UserError, match=r"late: last evaluated after step 3, but .*a after step 2; finish both"):
        by_mixture_size({"static": [whole]}, [*alone, folder("late", step=3, c=-1.0)])
    wider = folder("wider", step=20, a=-1.0, b=-1.0, c=-1.0)  # of another size, which is compared with no other
    assert by_mixture_size({"static": [whole, wider]}, alone)[0] == {"static": {2: [-1.0], 3: [-1.0]}}


def test_a_run_that_was_never_evaluated(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n')
    with pytest.raises(UserError, match="has no evaluations; train with EVAL_PERIOD"):
        last_of(str(tmp_path))
