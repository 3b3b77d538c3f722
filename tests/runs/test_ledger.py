"""The ledger on a tiny T5: every module on every task, gone on with after a kill, and an LM that cannot forget."""

import dataclasses
import functools
import json
import weakref

import gin
import jax
import numpy as np
import pytest
from flax import nnx

from frozen_jax import controls
from frozen_jax.errors import UserError
from frozen_jax.evaluation import evaluate
from frozen_jax.methods.fine_tuning import FineTuning
from frozen_jax.runs import ledger, record
from frozen_jax.runs.data_sets import Layout
from frozen_jax.runs.evaluate import evaluate_module
from frozen_jax.runs.job import Job
from tests import tiny
from tests.runs import modules_of_tiny
from tests.runs.modules_of_tiny import LENGTHS, save

pytestmark = pytest.mark.loose_promotion
TASKS = {"chosen": LENGTHS, "text": {"inputs": 20, "targets": 8}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root, lm = tmp_path_factory.mktemp("modules"), tiny.t5()
    return {
        "prompt": [str(save(root / f"prompt_{seed}", tiny.prompt_tuning(lm), seed)) for seed in range(2)],
        "tuned": [str(save(root / "tuned", FineTuning(lm), 0, "text"))],
    }


@pytest.fixture
def counted(monkeypatch):
    """What was evaluated: (class of the model, task)."""
    seen = []

    def counting(model, tasks, **options):
        seen.append((type(model).__name__, tasks[0].name))
        return evaluate(model, tasks, **options)

    monkeypatch.setattr(record, "evaluate", counting)
    return seen


def run(folder, modules, tasks=TASKS, **changes):
    job = modules_of_tiny.job(folder, **changes)
    ledger.evaluate_modules(job, modules, tasks, "test", [FineTuning])
    return json.loads((folder / "ledger.json").read_text())


def shown(found):
    """{(row, seed, task): result} of a JSON file."""
    figures = [(figure["subject"], figure["result"]) for figure in found["figures"].values()]
    return {(subject["row"], subject["seed"], result["task"]): result for subject, result in figures}


def without_times(found):
    return [{key: value for key, value in f.items() if key != "seconds"} for f in found["figures"].values()]


def test_every_module_is_evaluated_on_every_task(folders, tmp_path):
    results = shown(run(tmp_path, folders))
    who = [("frozen LM alone", None), ("prompt", 0), ("prompt", 1), ("tuned", 0)]
    assert list(results) == [(*subject, task) for subject in who for task in TASKS]
    # The same as if the method with that module had been evaluated by hand.
    for row, seed, method in [("prompt", 1, tiny.prompt_tuning()), ("tuned", 0, FineTuning(tiny.t5()))]:
        job = modules_of_tiny.job(tmp_path, method=method)
        model = job.trained_method(folders[row][seed])
        for make in (modules_of_tiny.chosen, modules_of_tiny.text):
            (wanted,) = evaluate(model, [make(6)]).values()
            found = results[row, seed, wanted.task]
            assert (found["metrics"], found["nats_per_token"]) == (wanted.metrics, wanted.nats_per_token)
    assert len({result["nats_per_token"] for result in results.values()}) == len(results)


def test_it_leaves_table_picture_configuration_and_predictions(folders, tmp_path, capsys):
    run(tmp_path, folders)
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"ledger.{ending}" for ending in ("json", "md", "png", "gin")),
        "predictions",
    }
    table = (tmp_path / "ledger.md").read_text()
    printed = capsys.readouterr().out
    assert table in printed
    assert "its parameters are the same, bit for bit" in table
    assert "its figures the same, bit for bit (largest difference 0)" in table
    assert "tuned, seed 0: text nats per token" in printed.splitlines()[7]
    kept = sorted(path.parent.name.split("-")[0] for path in tmp_path.glob("predictions/*/chosen-test.jsonl"))
    assert kept == ["frozen_LM_alone", "prompt", "prompt", "tuned"]


def test_a_killed_evaluation_goes_on_where_it_stopped(folders, tmp_path, counted):
    whole = run(tmp_path, folders)
    assert len(counted) == 8 + 2  # the frozen LM comes twice
    half = dict(list(whole["figures"].items())[:5])
    (tmp_path / "ledger.json").write_text(json.dumps(whole | {"figures": half, "set_aside": {}}))
    counted.clear()
    again = run(tmp_path, folders)
    assert counted == [
        ("PromptTuning", "text"),
        ("FineTuning", "chosen"),
        ("FineTuning", "text"),
        ("T5", "chosen"),
        ("T5", "text"),
    ]
    assert without_times(again) == without_times(whole)


def test_what_is_complete_is_not_loaded_again(folders, tmp_path, counted, monkeypatch, capsys):
    run(tmp_path, folders)
    counted.clear()
    table = (tmp_path / "ledger.md").read_bytes()
    monkeypatch.setattr(Job, "trained_method", lambda *_: pytest.fail("loaded"))
    run(tmp_path, folders)
    assert counted == []
    assert (tmp_path / "ledger.md").read_bytes() == table
    assert "8 figures were there already" in capsys.readouterr().out


def test_a_kill_in_the_middle_of_writing_leaves_the_figures_before(folders, tmp_path, monkeypatch):
    run(tmp_path, {"prompt": folders["prompt"][:1]})
    before = (tmp_path / "ledger.json").read_text()
    monkeypatch.setattr(type(record.epath.Path(tmp_path)), "write_bytes", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, folders)
    assert (tmp_path / "ledger.json").read_text() == before


@pytest.mark.parametrize("change", ["module", "examples", "split", "metric", "setting", "lm"])
def test_what_was_measured_on_something_else_is_not_taken(folders, tmp_path, counted, change, monkeypatch):
    modules = {"prompt": str(save(tmp_path / "module", tiny.prompt_tuning()))}
    job = modules_of_tiny.job(tmp_path / "out")
    ledger.evaluate_modules(job, modules, "chosen", "test")
    assert len(counted) == 3
    counted.clear()
    split = "validation" if change == "split" else "test"
    if change == "module":  # the same figures, from another training in the same folder
        (tmp_path / "module").rename(tmp_path / "earlier")
        save(tmp_path / "module", tiny.prompt_tuning())
    if change == "examples":
        job = dataclasses.replace(job, data=dataclasses.replace(job.data, eval_examples=5))
    if change == "metric":
        other = [lambda targets, predictions: {"other": 1.0}]
        make = lambda size: dataclasses.replace(modules_of_tiny.chosen(size), predict_metrics=other)  # noqa: E731
        monkeypatch.setitem(modules_of_tiny.TASKS, "chosen", [make])
    if change == "lm":  # as loaded in another precision
        job.method.lm.decoder.decoder_norm.scale[...] *= 1.001
    with gin.unlock_config():
        if change == "setting":
            gin.bind_parameter("evaluate.normalize_by_length", True)
        ledger.evaluate_modules(job, modules, "chosen", split)
        gin.clear_config()
    assert len(counted) == {"module": 2}.get(change, 3)  # the LM alone is known; at the end it is evaluated again


def test_settings_that_change_no_figure_measure_nothing_anew(folders, tmp_path, counted):
    run(tmp_path, {})
    counted.clear()
    with gin.unlock_config():
        gin.bind_parameter("evaluate.batch_size", 3)
        run(tmp_path, {})
        gin.clear_config()
    assert counted == []


def test_a_failed_metric_is_measured_anew(tmp_path, counted):
    found = run(tmp_path, {}, "chosen")
    (figure,) = found["figures"].values()
    figure["result"]["metrics"] = {"accuracy": float("nan")}
    (tmp_path / "ledger.json").write_text(json.dumps(found))
    counted.clear()
    assert without_times(run(tmp_path, {}, "chosen"))[0]["result"]["metrics"]["accuracy"] >= 0
    assert counted == [("T5", "chosen"), ("T5", "chosen")]


def test_a_changed_lm_does_not_pass(folders, tmp_path, monkeypatch):
    job = modules_of_tiny.job(tmp_path)

    def touching(model, tasks, **options):
        if model is not job.method.lm:
            embedding = job.method.lm.token_embedder.embedding
            embedding[...] = embedding[...].at[3, 3].add(1e-6)
        return evaluate(model, tasks, **options)

    monkeypatch.setattr(record, "evaluate", touching)
    with pytest.raises(RuntimeError, match="parameters of the frozen LM have changed"):
        ledger.evaluate_modules(job, {"prompt": folders["prompt"]}, "chosen", "test")
    assert "its parameters are NOT the same" in (tmp_path / "ledger.md").read_text()
    assert json.loads((tmp_path / "ledger.json").read_text())["set_aside"]["parameters"] is False


def test_no_bit_escapes_the_hash():
    lm = tiny.t5()
    before = record.digest(lm)
    assert record.digest(tiny.t5()) == before
    paths = ["token_embedder", "decoder"]
    for path in paths:
        variable = nnx.to_flat_state(nnx.state(getattr(lm, path)))[-1][1]
        array = np.array(variable[...])
        array.reshape(-1).view(np.uint8)[-1] ^= 1
        variable[...] = jax.numpy.asarray(array)
        assert record.digest(lm) != before
        before = record.digest(lm)


def test_one_module_is_in_memory_at_a_time(folders, tmp_path, monkeypatch):
    load, alive = Job.trained_method, []

    def loading(job, path=None):
        assert [ref for ref in alive if ref() is not None] == []
        model = load(job, path)
        alive.append(weakref.ref(model))
        return model

    monkeypatch.setattr(Job, "trained_method", loading)
    run(tmp_path, folders)
    assert len(alive) == 3


def test_all_methods_stand_around_one_lm(folders, tmp_path):
    job = modules_of_tiny.job(tmp_path)
    jobs = ledger.jobs_by_method(job, [FineTuning, modules_of_tiny.tiny.PromptTuning])
    assert list(jobs) == ["PromptTuning", "FineTuning"]
    assert jobs["PromptTuning"] is job
    assert jobs["FineTuning"].method.lm is job.method.lm


def test_a_mixture_becomes_columns(tmp_path):
    assert [key[2] for key in shown(run(tmp_path, {}, ["both", "text"]))] == ["chosen", "written", "text"]
    assert shown(run(tmp_path / "one", {}, "both")).keys() == {
        ("frozen LM alone", None, t) for t in ("chosen", "written")
    }


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["chosen", "both"], "evaluate_module.tasks: chosen comes twice; name it once"),
        ({}, "evaluate_module.tasks is empty; name a task"),
        ({"chosen": 64}, r"evaluate_module.tasks: chosen has 64; give its lengths: \{'inputs': 64, ...\}"),
    ],
)
def test_tasks_that_do_not_fit(tmp_path, tasks, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, {}, tasks)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": 1}', '{"format": 2, "figures": {"a": {}}, "set_aside": {}}']
)
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "ledger.json").write_text(content)
    with pytest.raises(UserError, match=r"ledger.json is damaged or of another version .*; delete it"):
        run(tmp_path, {})


def test_modules_are_looked_at_before_the_data(folders, tmp_path):
    class NoData(modules_of_tiny.MadeUpData):
        def eval_tasks(self, split):
            pytest.fail("data was read")

    job = modules_of_tiny.job(tmp_path)
    job = dataclasses.replace(job, data=NoData("chosen", LENGTHS))
    for modules in ({"absent": str(tmp_path / "absent")}, folders):
        with pytest.raises(UserError):
            ledger.evaluate_modules(job, modules, "chosen", "test")
    layout = Layout(compare=[("prompt", "promt")])
    with pytest.raises(UserError, match="there is no row 'promt'"):
        ledger.evaluate_modules(job, {"prompt": folders["prompt"]}, "chosen", "test", layout=layout)


@pytest.fixture
def id_pt(tmp_path):
    """A job with a saved generator of prompts."""
    method = tiny.input_dependent_prompt_tuning(tiny.t5())
    save(tmp_path, method)
    return modules_of_tiny.job(tmp_path, method=method)


def test_swapped_prompts_are_figures_of_their_own(id_pt, counted, monkeypatch):
    other = lambda size: dataclasses.replace(modules_of_tiny.text(size), name="other")  # noqa: E731
    monkeypatch.setitem(modules_of_tiny.TASKS, "other", [other])
    settings = {"modules": [id_pt.model_dir], "tasks": ["text", "other"]}
    found, known = {}, set()
    for whose in ("own", "same task", "other data set"):
        evaluate_module(id_pt, "test", encoder_inputs_of=whose, **settings)
        figures = json.loads((id_pt.directory / "ledger.json").read_text())["figures"]
        for figure in (figures[key] for key in figures.keys() - known):
            result = figure["result"]
            found[whose, figure["subject"]["method"], result["task"]] = result["nats_per_token"]
        known |= figures.keys()
    assert len(known) == len(found) == 12
    for task in ("text", "other"):  # the LM alone has no encoder
        assert len({found[whose, "", task] for whose in controls.WHOSE}) == 1
        assert len({found[whose, "InputDependentPromptTuning", task] for whose in controls.WHOSE}) == 3
    counted.clear()
    evaluate_module(id_pt, "test", encoder_inputs_of="same task", **settings)
    assert {name for name, _ in counted} <= {"T5"}  # set aside once more, since figures have come since


def test_ablations_and_controls_stand_beside_the_method(id_pt, tmp_path, monkeypatch):
    """A row of its own class, and one whose encoder read one text in training and reads it here."""
    lm, tokens = id_pt.method.lm, np.array([9, 8, 1], np.int32)
    monkeypatch.setattr(modules_of_tiny.MadeUpData, "encoder_tokens", lambda data, _: data.encoder_text and tokens)
    bare = functools.partial(tiny.input_dependent_prompt_tuning, encoder_prompt_length=0)
    bare.__name__ = "bare"
    rows = {
        "ID-PT": id_pt.model_dir,
        "bare": str(save(tmp_path / "bare", bare(lm))),
        "control": str(save(tmp_path / "control", id_pt.method, encoder_text="a text")),
    }
    ledger.evaluate_modules(id_pt, rows, "text", "test", {"bare": bare})
    results = {key[0]: value for key, value in shown(json.loads((id_pt.directory / "ledger.json").read_text())).items()}
    (task,) = controls.evaluate_on_text([modules_of_tiny.text(6)], tokens)
    by_hand = {
        "ID-PT": (id_pt.trained_method(), modules_of_tiny.text(6)),
        "bare": (dataclasses.replace(id_pt, method=bare(lm)).trained_method(rows["bare"]), modules_of_tiny.text(6)),
        "control": (id_pt.trained_method(rows["control"]), task),
    }
    for row, (model, examples) in by_hand.items():
        (wanted,) = evaluate(model, [examples]).values()
        assert results[row]["nats_per_token"] == wanted.nats_per_token
    assert results["control"]["nats_per_token"] != results["ID-PT"]["nats_per_token"]


def test_a_module_is_evaluated_with_swapped_prompts(id_pt):
    data = dataclasses.replace(id_pt.data, mixture_or_task_name="text")
    job = dataclasses.replace(id_pt, data=data)
    for whose in ("own", "same task"):
        evaluate_module(job, "test", alone=False, encoder_inputs_of=whose)
    folders = [job.directory / name / "text-test.jsonl" for name in ("predictions", "predictions_same_task")]
    own, swapped = ([json.loads(line) for line in file.read_text().splitlines()] for file in folders)
    assert [line["inputs"] for line in own] == [line["inputs"] for line in swapped]
    assert [line["target_score"] for line in own] != [line["target_score"] for line in swapped]
    with pytest.raises(UserError, match="all tasks are of the data set text"):
        evaluate_module(job, "test", encoder_inputs_of="other data set")
