"""Methods in wider mixtures beside prompts for each data set alone, out of runs' last metrics."""

import json

import pytest

from frozen_jax.errors import UserError
from frozen_jax.runs.collapse import by_width, last_values, rows_of


@pytest.fixture
def folder(tmp_path):
    """Two evaluations of each run; the last counts."""

    def write(name, **values):
        lines = [
            {"kind": "eval", "step": 1, **{f"p3.{key}/nats_per_token": -9.0 for key in values}},
            {"kind": "train", "step": 2},
            {
                "kind": "eval",
                "step": 2,
                "mean": 0.5,
                "mean_nats_per_token": -7.0,
                **{f"p3.{key}/nats_per_token": value for key, value in values.items()},
                **{f"p3.{key}/accuracy": 0.25 for key in values},
            },
        ]
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return str(tmp_path / name)

    return write


def test_the_last_evaluation_counts(folder):
    assert last_values(folder("run", a=-1.0, b=-2.0)) == {"p3.a": -1.0, "p3.b": -2.0}


def test_methods_are_sorted_by_the_width_of_their_mixtures(folder):
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
    found, reference, averaged = by_width(methods, alone)
    assert found == {"static": {3: [-4.0, -3.0], 2: [-1.5]}, "tuned": {2: [-0.5]}}
    assert reference[2] == [-2.0, -3.5]
    assert reference[3] == pytest.approx([-5 / 3, -8 / 3])
    assert averaged == {3: ["p3.a", "p3.b", "p3.c"], 2: ["p3.a", "p3.b"]}
    assert rows_of(found, reference, averaged)[0] == ["static", "2 of 2", "1", "-1.500", "-2.750", "+1.250"]


def test_data_sets_without_a_prompt_alone_stay_out(folder):
    found, reference, averaged = by_width({"m": [folder("m", a=-1.0, b=-8.0)]}, [folder("a", a=-2.0)])
    assert (found, reference, averaged) == ({"m": {2: [-1.0]}}, {2: [-2.0]}, {2: ["p3.a"]})


def test_mistakes(folder):
    one, two = folder("one", a=-1.0), folder("two", a=-1.0, b=-1.0)
    with pytest.raises(UserError, match=r"two: curves\.alone is for runs on one data set; this one has 2"):
        by_width({"m": [two]}, [two])
    with pytest.raises(UserError, match=r"other: none of its data sets has a prompt alone; curves\.alone has p3\.a"):
        by_width({"m": [folder("other", b=-1.0, c=-1.0)]}, [one])
    with pytest.raises(UserError, match="third: 2 data sets, but not those of the other runs with so many"):
        by_width({"m": [two, folder("third", a=-1.0, c=-1.0)]}, [one, folder("c", c=-1.0), folder("b", b=-1.0)])
    with pytest.raises(UserError, match=r"as many seeds as the others; there are \{'p3.a': 2, 'p3.b': 1\}"):
        by_width({"m": [two]}, [one, one, folder("b1", b=-1.0)])


def test_a_run_that_was_never_evaluated(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n')
    with pytest.raises(UserError, match="has no evaluations; train with EVAL_PERIOD"):
        last_values(str(tmp_path))
