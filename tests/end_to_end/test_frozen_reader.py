"""From nothing to answers: a re-ranker is trained, passages are found, ranked and packed, a prompt learns."""

import json

import pytest

from tests.end_to_end import open_tasks
from tests.end_to_end.test_run import mistake, run

GIN = """
import frozen_jax.methods.fine_tuning
include "tests/end_to_end/tiny.gin"
include "gin/methods/frozen_reader.gin"
READER = @PromptTuning()
RERANKER = @reranker/train
MIXTURE_OR_TASK_MODULE = "tests.end_to_end.open_tasks"
MIXTURE_OR_TASK_NAME = "open_questions"
TASK_FEATURE_LENGTHS = {"inputs": 30, "targets": 4}
EVAL_PERIOD = 0
TRAIN_STEPS = 3
FrozenReader.template = "{passages} w7 {question}"
FrozenReader.passage_template = "{title} {text}"
FrozenReader.separator = " "
FrozenReader.lengths = (14, 30)
FrozenReader.train_lengths = (14, 22, 30)
Evidence.hits = 6
evaluate.scored = False
infer.max_length = 3

Reranker.tokenizer = "tests/end_to_end/tokenizer.json"
Reranker.template = "w40 {question} {passage} w6"
Reranker.words = ("yes", "no")
Reranker.max_length = 24
reranker/load_lm.source = %INITIAL_CHECKPOINT_PATH
reranker/FineTuning.lm = @reranker/load_lm()
reranker/Job.method = @reranker/FineTuning()
reranker/TaskData.mixture_or_task_name = "pairs"
reranker/TaskData.task_feature_lengths = {"inputs": 24, "targets": 2}
reranker/train.job = @reranker/Job()
reranker/train.optimizer = @optax.sgd()
optax.sgd.learning_rate = 0.1
reranker/train.train_steps = 2
reranker/train.report_split = None
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    open_tasks.write_passages(folder / "passages.jsonl")
    places = {
        "MODEL_DIR": "model",
        "EVIDENCE_DIR": "evidence",
        "CORPUS": "passages.jsonl",
        "reranker/Job.model_dir": "reranker",
    }
    (folder / "reader.gin").write_text(
        GIN + "".join(f'{name} = "{folder / place}"\n' for name, place in places.items())
    )
    done = run(gin_files=[f"--gin_file={folder / 'reader.gin'}"])
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.mark.slow
def test_one_command_goes_from_nothing_to_answers(trained):
    folder, done = trained
    assert (folder / "reranker" / "checkpoints" / "2").is_dir()
    assert "retrieved: a gold passage among the first 1 / 5: 100.0 / 100.0%" in done.stdout
    assert "reranked: all gold passages in inputs of 14 / 30:" in done.stdout
    (figures,) = (folder / "evidence").glob("recall-test-retrieved-reranked-*.json")
    assert json.loads(figures.read_text())["questions"] == 8
    for length in (14, 30):
        assert f"open_questions@{length}" in done.stdout
        lines = (folder / "model" / "predictions" / f"open_questions@{length}-test.jsonl").read_text().splitlines()
        line = json.loads(lines[0])
        assert line["inputs"].endswith(f"w7 {line['question']}")
        assert line["gold"] == ["p" + str(int(line["answers"][0][1:]) - 10)]
        assert all(passage["ranks"].keys() == {"retrieved", "reranked"} for passage in line["passages"])
    assert "frozen LM alone" in done.stdout


@pytest.mark.slow
def test_a_second_time_nothing_is_found_anew_and_questions_are_answered_with_their_passages(trained, tmp_path):
    folder, _ = trained
    made = {path: path.stat().st_mtime_ns for path in (folder / "evidence").rglob("*.npz")}
    gin_file = f"--gin_file={folder / 'reader.gin'}"
    done = run("--run_mode=prepare", "--gin.prepare.splits=('train', 'test')", gin_files=[gin_file])
    assert done.returncode == 0, done.stderr
    assert "train: 16 examples of open_questions" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (folder / "evidence").rglob("*.npz")} == made
    asked, answered = tmp_path / "asked.jsonl", tmp_path / "answered.jsonl"
    asked.write_text('{"inputs": "w43 w5"}\n{"inputs": "w9 w8"}\n')
    files = [f"--gin.infer.input_file={asked}", f"--gin.infer.output_file={answered}"]
    done = run("--run_mode=infer", *files, gin_files=[gin_file])
    assert done.returncode == 0, done.stderr
    found, without = [json.loads(line) for line in answered.read_text().splitlines()]
    assert "p3" in [passage["id"] for passage in found["passages"]]
    assert isinstance(found["prediction"], str)
    assert without["passages"] == []
    assert "no passage was found for the question 'w9 w8'" in done.stderr


@pytest.mark.slow
def test_a_dry_run_prepares_nothing(trained, tmp_path):
    folder, _ = trained
    done = run("--dry_run", f"--gin.EVIDENCE_DIR={tmp_path}", gin_files=[f"--gin_file={folder / 'reader.gin'}"])
    assert done.returncode == 0, done.stderr
    assert "reader/prompt" in done.stdout
    assert "once its texts are prepared: --run_mode=prepare" in done.stdout
    assert not list(tmp_path.glob("retrieved-*"))


@pytest.mark.slow
def test_mistakes_get_one_line(trained):
    folder, _ = trained
    gin_file = f"--gin_file={folder / 'reader.gin'}"
    (folder / "empty.jsonl").write_text("")
    told = mistake(gin_file, f"--gin.CORPUS={str(folder / 'empty.jsonl')!r}")
    assert "holds no passages" in told
    told = mistake(gin_file, '--gin.TASK_FEATURE_LENGTHS={"inputs": 20, "targets": 4}')
    assert "packs inputs of 30 tokens, and TASK_FEATURE_LENGTHS cuts them at 20" in told
    told = mistake("--run_mode=prepare", f"--gin.MODEL_DIR={str(folder / 'plain')!r}")
    assert "PromptTuning takes a task's texts as they are" in told
