"""run.py as a user runs it: a tiny T5 that T5X wrote, a task from outside the tree, and mistakes."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end import forked
from tests.end_to_end.forked import ONE_DEVICE

ROOT = Path(__file__).parents[2]
TINY = ["--gin_file=tests/end_to_end/tiny.gin"]
INPUTS = [" ".join(f"w{5 + (i * 7 + j) % 90}" for j in range(3 + i % 4)) for i in range(7)]


def run(*arguments, gin_files=TINY, **options):
    """Runs run.py on one device."""
    environment = {**os.environ, "XLA_FLAGS": ONE_DEVICE, "FROZEN_JAX_CACHE": os.environ.get("FROZEN_JAX_CACHE", "")}
    environment = {name: value for name, value in environment.items() if value}
    given = [*gin_files, *map(str, arguments)]
    if not options and "PYTHONPATH" not in environment:
        return forked.run(given, environment)
    command = [sys.executable, "run.py", *given]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600, **options
    )


def mistake(*arguments):
    """The one line that a user's mistake gets."""
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    return line


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "model"
    done = run(f"--gin.MODEL_DIR={folder}", "--profile_steps=1")
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.mark.slow
def test_train_leaves_what_the_readme_says(trained):
    folder, done = trained
    assert "| data set" in done.stdout
    assert "frozen LM alone" in done.stdout
    assert "Trained: 320 of" in done.stdout
    assert (folder / "report.md").read_text().splitlines()[0] == done.stdout.splitlines()[0]
    kinds = [json.loads(line)["kind"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert kinds.count("train") == 6
    assert kinds.count("eval") == 2
    assert len((folder / "predictions" / "tiny_chosen-test.jsonl").read_text().splitlines()) == 12
    assert "sampled_vocabulary.most_common = 90" in (folder / "config.gin").read_text()
    assert list((folder / "profile").rglob("*.xplane.pb"))
    size = sum(path.stat().st_size for path in (folder / "checkpoints").rglob("*") if path.is_file())
    assert size < 1_000_000


@pytest.mark.slow
def test_eval_finds_the_module_and_shows_both(trained):
    folder, _ = trained
    done = run(f"--gin.MODEL_DIR={folder}", "--run_mode=eval")
    assert done.returncode == 0, done.stderr
    assert "with PromptTuning" in done.stdout
    assert "12 (validation)" in done.stdout


@pytest.mark.slow
def test_the_prompt_can_be_looked_at(trained):
    folder, _ = trained
    done = run(f"--gin.MODEL_DIR={folder}", "--run_mode=inspect_prompts", "--gin.inspect_prompts.neighbours=2")
    assert done.returncode == 0, done.stderr
    assert "The prompt does not depend on the input: it is the same for all 12 inputs of one task." in done.stdout
    assert len((folder / "prompts" / "nearest.jsonl").read_text().splitlines()) == 12
    assert (folder / "prompts" / "prompts.png").stat().st_size > 5000


@pytest.mark.slow
def test_curves_of_what_was_trained(trained, tmp_path):
    folder, _ = trained
    rows = json.dumps({"tiny": [str(folder)]})
    done = run("--run_mode=curves", f"--gin.MODEL_DIR={tmp_path}", f"--gin.curves.runs={rows}", gin_files=[])
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\| tiny +\| 1 +\| 48 ", done.stdout, re.MULTILINE)  # six steps of eight
    assert (tmp_path / "curves.png").stat().st_size > 5000


@pytest.mark.slow
def test_dry_run_trains_nothing(tmp_path):
    done = run(f"--gin.MODEL_DIR={tmp_path / 'new'}", "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "trained: 320 numbers, 1,280 bytes" in done.stdout
    assert "first batch of tiny_chosen" in done.stdout
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_infer_answers_every_line_and_goes_on_where_it_stopped(trained, tmp_path):
    folder, _ = trained
    asked, answered = tmp_path / "asked.jsonl", tmp_path / "answered.jsonl"
    asked.write_text("".join(json.dumps({"inputs": text, "id": i}) + "\n" for i, text in enumerate(INPUTS)))
    arguments = [
        f"--gin.MODEL_DIR={folder}",
        "--run_mode=infer",
        f"--gin.infer.input_file={asked}",
        f"--gin.infer.output_file={answered}",
        "--gin.infer.batch_size=4",
        "--gin.infer.max_length=4",
    ]
    assert run(*arguments).returncode == 0
    whole = answered.read_text()
    lines = [json.loads(line) for line in whole.splitlines()]
    assert [(line["inputs"], line["id"]) for line in lines] == [(text, i) for i, text in enumerate(INPUTS)]
    assert all(isinstance(line["prediction"], str) for line in lines)
    answered.write_text("".join(whole.splitlines(keepends=True)[:3]))  # as a kill leaves it
    assert run(*arguments).returncode == 0
    assert answered.read_text() == whole
    asked.write_text('{"inputs": "w5"}\n{"inputs": \n')
    assert f"{asked}, line 2: no JSON" in mistake(*arguments)


@pytest.mark.slow
def test_without_a_file_it_asks_in_the_terminal(trained):
    folder, _ = trained
    terminal, side = pty.openpty()
    os.write(terminal, b"w5 w6 w7\n\n")
    done = run(f"--gin.MODEL_DIR={folder}", "--run_mode=infer", "--gin.infer.max_length=3", stdin=side)
    assert done.returncode == 0, done.stderr
    assert "frozen LM alone: " in done.stdout
    assert "with PromptTuning: " in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nonsense"], "unknown argument '--nonsense'"),
        (["--gin.MODEL_DIR=x", "--gin.TRAIN_STEP=3"], "nothing uses the macro TRAIN_STEP. Close: TRAIN_STEPS"),
        (["--gin.PromptTuning.lenght=3"], "Close: length"),
        (["--gin.MODEL_DIR=x", "--gin.INITIAL_CHECKPOINT_PATH=titler-t5-smal"], "unknown language model"),
        ([], "MODEL_DIR"),
        (["--gin.MODEL_DIR=/tmp/none", "--gin.make_mesh.data=2"], "needs 2 devices; there are 1"),
    ],
)
def test_a_mistake_gets_one_line(arguments, message):
    assert message in mistake(*arguments)


@pytest.mark.slow
def test_an_unknown_task_or_module_is_named(tmp_path):
    folder = f"--gin.MODEL_DIR={tmp_path}"
    assert "tiny_chosen" in mistake(folder, "--gin.MIXTURE_OR_TASK_NAME=tiny_chose")
    assert "does not import" in mistake(folder, "--gin.MIXTURE_OR_TASK_MODULE=tests.end_to_end.absent")


@pytest.mark.slow
def test_a_metric_that_raises_costs_nothing_but_its_own_number(tmp_path):
    arguments = [
        f"--gin.MODEL_DIR={tmp_path}",
        "--gin.MIXTURE_OR_TASK_MODULE=tests.end_to_end.failing_tasks",
        "--gin.MIXTURE_OR_TASK_NAME=tiny_half_failing",
    ]
    done = run(*arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line == (
        "error: everything else is done, but metric broken of task tiny_failing failed on validation: ValueError: "
        "12 are too many; without that there was no validation mean to choose by: MODEL_DIR/best holds no state of "
        "then; metric broken of task tiny_failing failed on test: ValueError: 12 are too many"
    )
    rows = {row.split("|")[1].strip(): row.split("|")[2:5] for row in done.stdout.splitlines() if row.startswith("|")}
    assert [cell.strip() for cell in rows["tiny_failing"]] == ["broken", "failed", "failed"]
    assert rows["tiny_chosen"][0].strip() == "accuracy"
    assert (tmp_path / "report.md").read_text() == done.stdout
    assert {path.name for path in (tmp_path / "predictions").iterdir()} == {
        "tiny_chosen-test.jsonl",
        "tiny_failing-test.jsonl",
    }
    figures = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (validation, _) = [figure for figure in figures if figure["kind"] == "eval"]
    assert "tiny_failing/accuracy" in validation
    assert {"mean", "tiny_failing/broken"}.isdisjoint(validation)
    evaluated = run(*arguments, "--run_mode=eval")
    assert evaluated.returncode == 2
    assert evaluated.stdout.splitlines()[-1].startswith("| mean")
    assert "metric broken of task tiny_failing failed on validation" in evaluated.stderr


@pytest.mark.slow
def test_inspect_needs_a_task_and_nothing_else():
    arguments = [
        "--run_mode=inspect",
        "--gin.TOKENIZER=tests/end_to_end/tokenizer.json",
        "--gin.MIXTURE_OR_TASK_MODULE=tests.end_to_end.failing_tasks",
    ]
    done = run(*arguments, "--gin.MIXTURE_OR_TASK_NAME=tiny_chosen", gin_files=())
    assert (done.returncode, done.stderr) == (0, "")
    assert "train: 64 examples, chosen among" in done.stdout
    assert "Example 1 of test" in done.stdout
    failed = run(*arguments, "--gin.MIXTURE_OR_TASK_NAME=tiny_half_failing", gin_files=())
    assert failed.returncode == 2
    assert "Example 1 of test" in failed.stdout.split("tiny_failing, 50% of what is drawn")[1]
    (line,) = failed.stderr.splitlines()
    assert "metric broken of task tiny_failing failed on train" in line
    assert "MIXTURE_OR_TASK_NAME is used but not set" in run(*arguments, gin_files=()).stderr
