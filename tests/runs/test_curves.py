"""Learning curves out of runs' own files, and the pictures that numbers become."""

import json

import pytest

from frozen_jax import drawing
from frozen_jax.errors import UserError
from frozen_jax.methods.fine_tuning import FineTuning
from frozen_jax.metrics import MetricWriter
from frozen_jax.runs.curve_picture import Curve, draw_collapse, draw_curves, in_common
from frozen_jax.runs.curves import curves
from tests import tiny
from tests.runs.modules_of_tiny import save

PNG = b"\x89PNG\r\n\x1a\n"
SPEED = {"examples_per_second": 4.0, "seconds_per_step": 2.0}  # batches of 8
pytestmark = pytest.mark.loose_promotion


def write(folder, values, speed=SPEED, **more):
    """The metrics of a run that was evaluated every five steps."""
    steps = [5 * i for i in range(1, len(values) + 1)]
    lines = [{"kind": "train", "step": step, **speed} for step in steps]
    lines += [{"kind": "eval", "step": step, "mean": v, **more} for step, v in zip(steps, values, strict=True)]
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for name in ("static_0", "static_1", "tuned"):
        save(root / name, FineTuning(tiny.t5()) if name == "tuned" else tiny.prompt_tuning())
    return root


@pytest.fixture
def root(trained):
    """Two seeds of one row, of which one was stopped early, and another row."""
    write(trained / "static_0", [0.25, 0.5, 0.75])
    write(trained / "static_1", [0.5, 0.75])
    write(trained / "tuned", [0.5, 0.25, 0.625], speed={"examples_per_second": 0.1, "seconds_per_step": 40.0})
    return trained


def drawn(root, folder, **settings):
    """The cells of the table, by row."""
    rows = {"static": str(root / "static_{0,1}"), "tuned": str(root / "tuned")}
    curves(str(folder), **({"runs": rows} | settings))
    assert (folder / "curves.png").read_bytes().startswith(PNG)
    lines = (folder / "curves.md").read_text().splitlines()
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    return {row[0]: row[1:] for row in table}


def test_the_table_says_where_every_row_ended(root, tmp_path, capsys):
    table = drawn(root, tmp_path)
    assert table[""] == ["seeds", "examples seen", "mean", "training time", "trained parameters"]
    assert table["static"] == ["2", "80", "0.6250 ± 0.1768", "20 s", "80"]  # where both seeds have been
    assert table["tuned"][:4] == ["1", "60", "0.6250", "10 min 00 s"]
    assert "± standard deviation over the seeds" in (tmp_path / "curves.md").read_text()
    assert "Pictures: " in capsys.readouterr().out


def test_examples_seen_are_those_that_the_trainer_writes(root, tmp_path):
    writer = MetricWriter(root / "static_0", log_period=2)
    with writer.progress(0, 6):
        for index in range(6):
            writer.step(index, {"loss": 1.0, "accuracy": 0.5, "real_tokens": 90.0}, examples=12, tokens=100)
        writer.evaluation(6, {"mean": 0.5})
    assert drawn(root, tmp_path, runs=[str(root / "static_0")])["static_0"][1] == "72"


def test_log_likelihood_is_preferred_where_all_have_it(root, tmp_path):
    write(root / "tuned", [0.5], mean_nats_per_token=-1.25)
    assert drawn(root, tmp_path, runs=[str(root / "tuned")])["tuned"][2] == "-1.2500"
    assert drawn(root, tmp_path)[""][2] == "mean"
    assert drawn(root, tmp_path, runs=[str(root / "tuned")], metric="mean")["tuned"][2] == "0.5000"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "static_1: no metrics.jsonl there; give the MODEL_DIR of a training"),
        (lambda path: path.write_text(""), "static_1: its metrics.jsonl has no evaluations; train with EVAL_PERIOD"),
        (
            lambda path: path.write_text('{"kind": "eval", "step": 1, "mean": 1.0}\n'),
            "static_1: its metrics.jsonl has no training steps; how many examples",
        ),
        (
            lambda path: path.write_text(
                path.read_text() + json.dumps({"kind": "train", "step": 9, **SPEED, "seconds_per_step": 4.0}) + "\n"
            ),
            "static_1: its metrics.jsonl has batches of 8, 16 examples",
        ),
        (
            lambda path: path.write_text(path.read_text().replace('"step": 5', '"step": 4').replace("10", "9")),
            "curves.runs: the seeds of 'static' were never evaluated after the same number of examples",
        ),
        (
            lambda path: path.write_text(path.read_text().replace('"mean"', '"a/mean_score"')),
            "static_1: no validation metric 'mean'; it has: a/mean_score",
        ),
    ],
)
def test_runs_of_which_nothing_can_be_drawn(root, tmp_path, spoil, message):
    spoil(root / "static_1" / "metrics.jsonl")
    with pytest.raises(UserError, match=message):
        drawn(root, tmp_path)


def test_other_mistakes(root, tmp_path):
    with pytest.raises(UserError, match="no validation metric 'maen'; it has: mean"):
        drawn(root, tmp_path, metric="maen")
    with pytest.raises(UserError, match=r"curves\.runs: the row 'x' is empty"):
        drawn(root, tmp_path, runs={"x": []})
    write(tmp_path / "bare", [0.5])
    with pytest.raises(UserError, match="bare: no module checkpoint there"):
        drawn(root, tmp_path, runs=[str(tmp_path / "bare")])


def test_the_collapse_is_drawn_where_it_is_asked_for(root, tmp_path):
    for name, value in {"static_0": -1.0, "static_1": -2.0, "tuned": -0.5}.items():
        write(root / name, [0.5], **{"p3.a/nats_per_token": value})
    drawn(root, tmp_path, collapse={"fine-tuning": str(root / "tuned")}, alone=[str(root / "static_{0,1}")])
    assert (tmp_path / "collapse.png").read_bytes().startswith(PNG)
    text = (tmp_path / "curves.md").read_text()
    assert [cell.strip() for cell in text.splitlines()[-1].split("|")[1:-1]] == [
        *("fine-tuning", "1 of 1", "1", "-0.500", "-1.500", "+1.000")
    ]


def test_points_that_all_seeds_have():
    assert in_common([Curve([8, 16, 32], [1.0, 2.0, 3.0]), Curve([16, 32, 64], [4.0, 5.0, 6.0])]) == {
        16: [2.0, 4.0],
        32: [3.0, 5.0],
    }


def test_learning_curves_have_a_mean_a_band_and_every_seed():
    seeds = [Curve([8, 16], [0.2, 0.4]), Curve([8, 16, 24], [0.4, 0.8, 0.9])]
    figure = draw_curves({"static": seeds, "tuned": seeds[1:]}, "mean")
    (place,) = figure.axes
    mean, first, second, other = place.lines
    assert mean.get_xdata().tolist() == [8, 16]
    assert mean.get_ydata().tolist() == pytest.approx([0.3, 0.6])
    assert first.get_xydata().tolist() == [[8, 0.2], [16, 0.4]]
    assert len(second.get_xdata()) == 3
    assert other.get_xydata().tolist() == [[8, 0.4], [16, 0.8], [24, 0.9]]
    (band,) = place.collections
    assert {tuple(point) for point in band.get_paths()[0].vertices} == {(8, 0.2), (16, 0.4), (16, 0.8), (8, 0.4)}
    assert [text.get_text() for text in place.get_legend().get_texts()] == ["static (2 seeds)", "tuned"]
    assert (place.get_xlabel(), place.get_ylabel()) == ("examples seen", "mean")
    assert drawing.png(figure).startswith(PNG)


def test_the_collapse_is_relative_to_static_prompts_for_each_data_set():
    reference = {4: [-1.0, -1.2], 14: [-2.0, -2.0], 8: [-1.5, -1.5]}
    static = {4: [-1.2, -1.3, -1.4], 8: [-2.0, -2.0, -2.0], 14: [-3.0, -3.0, -3.0]}
    figure = draw_collapse(
        {"shared static prompt": static, "generator": {8: [-1.0, -1.0], 14: [-2.25]}}, reference, "nats a token"
    )
    (place,) = figure.axes
    assert [label.get_text() for label in place.get_xticklabels()] == ["4", "8", "14"]
    zero, line, *_ = place.lines
    assert zero.get_ydata() == [0, 0]
    assert line.get_ydata().tolist() == pytest.approx([-0.2, -0.5, -1.0])
    assert place.lines[-1].get_ydata() == pytest.approx([-0.25])
    assert [text.get_text() for text in place.get_legend().get_texts()] == [
        "static prompt for each data set alone (2 seeds)",
        "shared static prompt (3 seeds)",
        "generator (1 to 2 seeds)",
    ]
    assert place.get_ylabel().startswith("nats a token,\nminus that of a static prompt")
    assert drawing.png(figure).startswith(PNG)
