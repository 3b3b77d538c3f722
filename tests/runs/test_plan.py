"""`--run_mode=plan`, with CPU devices in the place of TPUs."""

import dataclasses
import importlib
import json
import types

import gin
import jax
import optax
import pytest

import run
from frozen_jax import chips
from frozen_jax.errors import UserError
from frozen_jax.plans import Plan, Shapes, Step
from frozen_jax.program_costs import Collective
from frozen_jax.runs import plan_page
from frozen_jax.runs.job import Job

GIB = 2**30
plan_mode = importlib.import_module("frozen_jax.runs.plan")  # `runs.plan` is its function
STEP = Step(1 * GIB, 6 * GIB, True, 10**15, 0.3, 0.1, {"all-reduce": Collective(3, GIB, GIB)}, 0, 1.0)
PLAN = Plan(
    topology="v5e:2x2",
    chips=4,
    mesh={"data": 2, "model": 2},
    hbm_bytes=16 * GIB,
    frozen_bytes=4 * GIB,
    trained_bytes=GIB,
    optimizer_bytes=GIB // 2,
    trained=10**6,
    model_flops=2 * 10**14,
    peak_flops=4 * 197e12,
    steps={"train": STEP, "score": STEP, "read": STEP, "write": STEP},
    shapes=Shapes(16, {"inputs": 512, "targets": 128}, 32),
)
TOO_LARGE = dataclasses.replace(PLAN, steps={"train": Step(peak_bytes=20 * GIB, fits=False)})

BINDINGS = """
MIXTURE_OR_TASK_NAME = "no_task_is_read"
TASK_FEATURE_LENGTHS = {"inputs": 16, "targets": 8}
BATCH_SIZE = 8
TRAIN_STEPS = 100
TOKENIZER = "no tokenizer is read"
INITIAL_CHECKPOINT_PATH = "no source is read"
load_lm.vocab_size = 64
load_lm.emb_dim = 16
load_lm.num_heads = 4
load_lm.head_dim = 8
load_lm.mlp_dim = 32
load_lm.num_encoder_layers = 1
load_lm.num_decoder_layers = 1
make_mesh.model = 2
"""


@pytest.fixture(autouse=True)
def _gin_cleared():
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.fixture
def planned(tmp_path, monkeypatch, capsys):
    """Runs the mode; gives its exit status and what it printed."""
    monkeypatch.setattr(chips, "require_libtpu", lambda: None)
    monkeypatch.setattr(chips, "devices", lambda topology: jax.devices())
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.0")
    (tmp_path / "run.gin").write_text(BINDINGS)
    files = ["gin/runs/base.gin", "gin/methods/prompt_tuning.gin", tmp_path / "run.gin"]

    def call(*flags):
        arguments = [*(f"--gin_file={file}" for file in files), f"--gin.MODEL_DIR={tmp_path}/out", *flags]
        return run.main(["--run_mode=plan", *arguments]), capsys.readouterr()

    return call


@pytest.mark.slow
def test_a_run_is_planned_without_weights_tokenizer_or_data(planned, tmp_path):
    status, printed = planned("--topology=v5e:2x4")
    assert status == 0, printed.err
    assert "| v5e:2x4 " in printed.out
    assert {file.name for file in (tmp_path / "out/plan").iterdir()} == {"plan.json", "plan.md", "plan.png"}
    (told,) = json.loads((tmp_path / "out/plan/plan.json").read_text())
    assert told["fits"]
    assert told["trained"] == 20 * 16
    assert told["tokens"] == 100 * 8 * (16 + 8)
    assert told["steps"]["train"]["flops"] > 0
    assert (tmp_path / "out/plan/plan.md").read_text().startswith("# Plan: PromptTuning around no source is read, 100")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "say for which TPUs, with --topology=v5p:4x4x4"),
        (["--topology=v9:2x2"], "no TPU that is known here; known are v4"),
        (["--topology=v5e"], "write GENERATION:SIZES"),
        (["--topology=v5e:2x4", "--gin.make_mesh.model=8"], "does not divide the 4 heads"),
        (["--topology=v5e:2x4", "--gin.BATCH_SIZE=9"], "use 8 or 12"),
        (["--topology=v5e", "--smallest", "--gin.BATCH_SIZE=9"], "no slice of v5e holds the run; the last try: batch"),
    ],
)
def test_bad_input_is_one_line(planned, flags, message):
    status, printed = planned(*flags)
    assert status == 2
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_flags_of_plans_are_for_plans(capsys):
    assert run.main(["--run_mode=eval", "--smallest"]) == 2
    assert "are for --run_mode=plan" in capsys.readouterr().err


def test_the_smallest_slice_is_the_first_that_fits(monkeypatch):
    tried = []

    def plan(topology, job, optimizer):
        tried.append((topology, gin.query_parameter("make_mesh.model")))
        if tried[-1] == ("v5e:1x1", 1):
            raise UserError("this mesh does not divide something")
        return object.__new__(Job), PLAN if tried[-1] == ("v5e:2x2", 2) else TOO_LARGE

    monkeypatch.setattr(plan_mode, "_planned", plan)
    assert plan_mode._smallest("v5e", lambda: None, optax.sgd(1.0))[1] is PLAN
    assert tried == [("v5e:1x1", 1), ("v5e:2x2", 1), ("v5e:2x2", 2)]


def test_the_share_is_model_flops_over_estimated_seconds_and_published_peak():
    assert PLAN.share_of_peak == pytest.approx(2e14 / (0.4 * 4 * 197e12))
    assert PLAN.compute_share == pytest.approx(2e14 / (0.3 * 4 * 197e12))


def test_the_table_compares_topologies_and_says_what_to_change():
    text = plan_page.text([PLAN, dataclasses.replace(TOO_LARGE, topology="v5e:1x1")], 1000)
    assert "| v5e:2x2 " in text
    assert "| NO " in text
    rows = {cells[1].strip(): cells[2].strip() for line in text.splitlines() if len(cells := line.split("|")) > 3}
    assert rows["examples/s, all chips"] == "40.0"
    assert rows["hours of 1,000 steps"] == "0.11"
    assert rows["all-reduce of train"] == "3 x, 1 GiB sent"
    assert (
        "v5e:1x1: the step 'train' does not fit, by 4.0 GiB a chip; most of it is activations: raise train.acc" in text
    )


def test_advice_follows_what_fills_the_chip():
    weights = dataclasses.replace(TOO_LARGE, frozen_bytes=15 * GIB)
    assert "raise make_mesh.model from 2" in plan_page.advice(weights)[0]
    reads = dataclasses.replace(PLAN, steps={"train": STEP, "score": Step(peak_bytes=20 * GIB, fits=False)})
    assert "lower evaluate.batch_size from 32" in plan_page.advice(reads)[0]
    uneven = dataclasses.replace(PLAN, mesh={"data": 64, "model": 1})
    assert "set evaluate.batch_size to a multiple of 64" in plan_page.advice(uneven)[0]
    assert plan_page.advice(PLAN) == []


def test_the_page_says_that_times_are_estimates_and_what_they_leave_out():
    page = plan_page.page("| table |", types.SimpleNamespace(lm=types.SimpleNamespace(name="an LM")), 1000)
    assert "**Times are estimates**" in page
    assert "checkpoints, validation" in page
    assert plan_page.picture([PLAN, TOO_LARGE]).startswith(b"\x89PNG")
