"""What docs/tasks.md tells collaborators to write does what it says, outside this tree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import gin
import pytest
import seqio

from frozen_jax import data, gin_config
from frozen_jax.text_metrics import METRICS
from tasks.splits import SPLITS
from tests import tiny_tokenizer
from tests.end_to_end.forked import ONE_DEVICE

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
LENGTHS = {"inputs": 32, "targets": 4}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


(TASK_FILE,), (ONE_FILE, SEVERAL, IMPORTED), (TABLE,) = blocks("python"), blocks("gin"), blocks("csv")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of a user's, in which Python finds the user's package, and registries that are empty."""
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "mountains.py").write_text(TASK_FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(seqio.TaskRegistry, "_REGISTRY", {})
    monkeypatch.setattr(seqio.MixtureRegistry, "_REGISTRY", {})
    tokenizer = tiny_tokenizer.write(tmp_path, [*tiny_tokenizer.WORDS, "negative", "positive"])
    yield lambda text: describe(tmp_path / "described.gin", text, tokenizer)
    gin.clear_config()
    sys.modules.pop("my_lab.mountains", None)


def describe(path, text, tokenizer):
    """Reads a gin block as run.py does."""
    path.write_text(text)
    gin_config.parse([str(path)], [f"lm_tokenizer.source={tokenizer}"])


def texts(name, split):
    (task,) = data.eval_tasks(name, LENGTHS, split)
    return [(example.inputs_text, example.targets_text, list(example.choices)) for example in task.examples]


@pytest.mark.slow
def test_the_task_file_trains_from_a_package_outside_the_tree(folder, tmp_path):
    settings = {
        "MIXTURE_OR_TASK_MODULE": "my_lab.mountains",
        "MIXTURE_OR_TASK_NAME": "mountains",
        "TASK_FEATURE_LENGTHS": LENGTHS,
        "TRAIN_STEPS": 2,
        "BATCH_SIZE": 2,
        "EVAL_PERIOD": 0,
        "MODEL_DIR": tmp_path / "run",
    }
    done = subprocess.run(
        [
            *(sys.executable, "run.py", "--gin_file=tests/end_to_end/tiny.gin"),
            *(f"--gin.{name}={value}" for name, value in settings.items()),
        ],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": ONE_DEVICE, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"\| mountains +\| accuracy", done.stdout)
    assert "3 (test)" in done.stdout


def test_the_task_file_imported_by_gin(folder):
    folder(IMPORTED)
    assert gin.query_parameter("MIXTURE_OR_TASK_NAME/gin.macro.value") == "mountains"
    assert ("Is Zugspitze higher than Snowdon?", "yes", ["no", "yes"]) in texts("mountains", "train")
    assert [len(texts("mountains", split)) for split in SPLITS] == [6, 3, 3]


def test_one_file(folder):
    header, *lines = TABLE.splitlines()
    Path("reviews.csv").write_text(
        "\n".join([header, *(line.replace(",", f" {i},", 1) for i in range(5) for line in lines)])
    )
    folder(ONE_FILE)
    data.load_task_module("tasks")
    found = [example for split in SPLITS for example in texts("reviews", split)]
    assert len(found) == 10
    choices = ["negative", "positive"]
    assert (
        "Is this review positive or negative? Two hours 3: We laughed, and went again.",
        "positive",
        choices,
    ) in found
    assert ("Is this review positive or negative? The sea 3: Nothing happens in it.", "negative", choices) in found


def test_several_files_beside_an_imported_module(folder):
    folder(IMPORTED + SEVERAL)
    data.load_task_module("tasks")
    assert set(seqio.TaskRegistry.names()) == {"short_reviews", "long_reviews", "mountains"}
    assert set(seqio.TaskRegistry.get("long_reviews").splits) == {"train", "validation"}


def test_the_example_in_the_tree(folder):
    Path("passages.jsonl").write_text('{"question": "one", "passage": "two three", "answer": "yes"}\n' * 2)
    Path("held_out.csv").write_text("question,passage,answer\none,two three,no\n")
    folder((ROOT / "gin" / "tasks" / "csv_file.gin").read_text())
    data.load_task_module("tasks")
    assert texts("passages", "train") == [("Question: one Passage: two three", "yes", ["no", "yes"])] * 2
    assert texts("passages", "validation") == [("Question: one Passage: two three", "no", ["no", "yes"])]


def test_every_metric_for_files_is_named():
    assert [name for name in METRICS if f"`{name}`" not in PAGE] == ["multirc", "hotpotqa"]
