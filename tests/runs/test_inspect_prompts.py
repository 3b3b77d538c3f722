"""Looking at what trained methods put in front of the inputs: the files that are written, and their words."""

import dataclasses
import json

import gin
import numpy as np
import pytest

from frozen_jax import drawing, prompt_inspection
from frozen_jax.errors import UserError
from frozen_jax.methods.fine_tuning import FineTuning
from frozen_jax.runs.inspect_prompts import inspect_prompts
from frozen_jax.runs.prompt_picture import draw_prompts
from tests import fake_model, tiny, tiny_tokenizer
from tests.prompts_of_tiny import Echo
from tests.runs import modules_of_tiny
from tests.runs.modules_of_tiny import MadeUpData, save

PNG = b"\x89PNG\r\n\x1a\n"
WORDS = [f"w{i}" if i != 7 else "a|b" for i in range(3, 90)]
NAMES = ("p3.one.first", "p3.one.second", "p3.two.only")


@dataclasses.dataclass(frozen=True)
class Templates(MadeUpData):
    """Three tasks of two data sets; inputs of a task begin alike."""

    def eval_tasks(self, split):
        def example(start, i):
            return fake_model.example(i, f"{start} {40 + i}", "5")

        return [
            fake_model.task([example(start, i) for i in range(self.eval_examples)], name=name, split=split)
            for start, name in zip((5, 6, 7), NAMES, strict=True)
        ]


@pytest.fixture(autouse=True)
def _tokenizer(tmp_path):
    with gin.unlock_config():
        words = ["<pad>", "</s>", "<unk>", *WORDS]
        gin.bind_parameter("lm_tokenizer.source", tiny_tokenizer.write(tmp_path, words))
    yield
    gin.clear_config()


@pytest.fixture
def inspected(tmp_path, capsys):
    """Runs it on a method without trained parameters, or on one that was saved."""

    def run(method, **settings):
        folder = tmp_path / type(method).__name__
        if not isinstance(method, Echo):
            save(folder, method)
        data = Templates("p3", modules_of_tiny.LENGTHS)
        job = modules_of_tiny.job(folder, method=method, data=data)
        inspect_prompts(job, **settings)
        files = folder / "prompts"
        lines = [json.loads(line) for line in (files / "nearest.jsonl").read_text().splitlines()]
        assert (files / "prompts.png").read_bytes().startswith(PNG)
        return (files / "nearest.md").read_text(), lines, capsys.readouterr().out

    return run


@pytest.fixture
def _nothing_trained(monkeypatch):
    """`Echo` has nothing to load."""
    monkeypatch.setattr("frozen_jax.runs.job.Job.trained_method", lambda job, path=None: job.method)


@pytest.mark.usefixtures("_nothing_trained")
def test_a_prompt_that_depends_on_the_input(inspected):
    page, lines, printed = inspected(Echo(tiny.t5()), examples=4, neighbours=3)
    assert [(line["task"], line["index"]) for line in lines] == [(name, i) for name in NAMES for i in range(4)]
    first = lines[8]["positions"][0]
    assert first["nearest"][0] == ["a|b", 1.0]
    assert len(first["nearest"]) == 3
    second = [line["positions"][1]["nearest"][0][0] for line in lines]
    assert set(second) == {"</s>"}  # with which all inputs end
    assert "| between data sets " in page
    assert "Over 12 inputs of 3 tasks" in printed
    assert "![p(x) in two dimensions](prompts.png)" in page
    assert page.count("\n### ") == 8
    shown = [page.count(f"### {name}") for name in NAMES]
    assert shown == [2, 2, 4]  # as many of either data set, and of the templates of each
    assert "### p3.two.only, example 0\n\n> 7 40\n" in page
    assert "a\\|b 1.00" in page


@pytest.mark.usefixtures("_nothing_trained")
def test_norms_are_multiples_of_the_vocabularys(inspected):
    method = Echo(tiny.t5())
    _, (line, *_), _ = inspected(method, examples=1)
    table = prompt_inspection.vocabulary_of(method.lm, 90)  # not the rows behind the tokenizer's last token
    norms = (table**2).sum(1) ** 0.5
    assert line["positions"][0]["norm"] == pytest.approx(2 * norms[5] / norms.mean(), abs=1e-4)


@pytest.mark.loose_promotion
def test_a_static_prompt(inspected):
    page, lines, printed = inspected(tiny.prompt_tuning(), examples=2)
    assert printed.startswith("The prompt does not depend on the input: it is the same for all 6 inputs of 3 tasks.")
    assert page.count("\n### ") == page.count("### Every input") == 1
    assert len(lines) == 6
    assert lines[0]["positions"] == lines[5]["positions"]


@pytest.mark.usefixtures("_nothing_trained")
def test_inputs_of_ones_own(inspected, tmp_path):
    file = tmp_path / "own.jsonl"
    file.write_text('{"inputs": "w5 w9"}\n{"inputs": "w8"}\n')
    page, lines, _ = inspected(Echo(tiny.t5()), input_file=str(file))
    assert [line["positions"][0]["nearest"][0][0] for line in lines] == ["w5", "w8"]
    assert "### own.jsonl, example 1\n\n> w8\n" in page
    file.write_text('{"inputs": "w5"}')
    assert "There is one input" in inspected(Echo(tiny.t5()), input_file=str(file))[0]


@pytest.mark.loose_promotion
def test_a_method_without_a_prompt(inspected):
    with pytest.raises(UserError, match="FineTuning puts nothing in front of the inputs"):
        inspected(FineTuning(tiny.t5()))


def test_the_picture_is_coloured_by_data_set():
    tasks = [name for name in NAMES for _ in range(3)]
    made = prompt_inspection.Plane(np.arange(18.0).reshape(9, 2), (0.5, 0.25))
    figure = draw_prompts(made, tasks, "p(x) of Echo")
    (place,) = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["p3.one", "p3.two"]
    assert [len(points.get_offsets()) for points in place.collections] == [6, 3]
    assert place.get_xlabel() == "first principal component (50.0% of the variance)"
    assert place.get_title() == "p(x) of Echo\n9 inputs; the two axes show 75.0% of the variance of p(x)"
    figure = draw_prompts(prompt_inspection.Plane(made.points[:6], (0.0, 0.0)), tasks[:6], "p")
    assert figure.axes[0].get_title() == "p\n6 inputs; one p for all"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(NAMES[:2])


def test_thirty_data_sets_can_be_told_apart():
    tasks = [f"p3.set{i}.x" for i in range(30)]
    figure = draw_prompts(prompt_inspection.Plane(np.arange(60.0).reshape(30, 2), (0.5, 0.25)), tasks, "")
    looks = {(tuple(p.get_facecolor()[0]), p.get_paths()[0].vertices.tobytes()) for p in figure.axes[0].collections}
    assert len(looks) == 30
    assert drawing.png(figure).startswith(PNG)
