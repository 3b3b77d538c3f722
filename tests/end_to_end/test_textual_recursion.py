"""From nothing to answers: three p1s are trained, candidates sampled, a p2 learns to choose among them."""

import json

import pytest

from tests.end_to_end.test_run import mistake, run

GIN = """
include "tests/end_to_end/tiny.gin"
include "gin/methods/textual_recursion.gin"
SELECTOR = @PromptTuning()
MIXTURE_OR_TASK_MODULE = "tests.end_to_end.open_tasks"
MIXTURE_OR_TASK_NAME = "open_questions"
TASK_FEATURE_LENGTHS = {"inputs": 30, "targets": 4}
P1_LENGTHS = {"inputs": 8, "targets": 4}
EVAL_PERIOD = 0
TRAIN_STEPS = 2
P1_STEPS = 2
TextualRecursion.template = "{candidates} w7 {question}"
TextualRecursion.separator = " w8 "
TextualRecursion.n = (1, 4)
TextualRecursion.train_n = 4
Proposer.max_length = 3
evaluate.scored = False
train.report_alone = False
infer.max_length = 3
"""
PLACES = {"MODEL_DIR": "p2", "CANDIDATES_DIR": "candidates", "P1_DIR": "p1", "P1_FIRST_DIR": "first"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("textual")
    places = {**PLACES, "P1_SECOND_DIR": "second"}
    (folder / "run.gin").write_text(GIN + "".join(f'{name} = "{folder / place}"\n' for name, place in places.items()))
    done = run(gin_files=[f"--gin_file={folder / 'run.gin'}"])
    assert done.returncode == 0, done.stderr
    return folder, done


def lines_in(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.slow
def test_one_command_goes_from_nothing_to_answers(trained):
    folder, done = trained
    halves = {}
    for name in ("p1", "first", "second"):
        (step,) = (folder / name / "checkpoints").iterdir()
        halves[name] = json.loads((step / "description" / "metadata").read_text())["train_half"]
    assert halves == {"p1": None, "first": 0, "second": 1}
    assert "4 samples, " in done.stdout
    assert "oracle, the upper bound: EM" in done.stdout
    for name in ("open_questions@1", "open_questions@4", "open_questions@4-scored"):
        assert name in done.stdout
        lines = lines_in(folder / "p2" / "predictions" / f"{name}-test.jsonl")
        assert len(lines) == 8
        for line in lines:
            assert line["inputs"].endswith(f"w7 {line['question']}")
            assert all(candidate["text"] in line["inputs"] for candidate in line["candidates"])
    for line in lines:
        assert (
            line["choice_scores"].keys() == {candidate["text"] for candidate in line["candidates"]}
            or not line["candidates"]
        )
        assert line["prediction"] == max(line["choice_scores"], key=line["choice_scores"].__getitem__)
    rows = {how: str(folder / "candidates" / how) for how in ("greedy", "vote", "oracle")} | {"p2": str(folder / "p2")}
    compared = f"--gin.compare_answers.runs={rows}"
    done = run("--run_mode=compare_answers", compared, f"--gin.compare_answers.directory={folder}", gin_files=[])
    assert done.returncode == 0, done.stderr
    assert "| p2, scored" in done.stdout


@pytest.mark.slow
def test_a_killed_run_samples_the_same_and_questions_of_users_get_candidates(trained, tmp_path):
    folder, _ = trained
    files = sorted((folder / "candidates").glob("sampled-*/*.npz"))
    made = {file: file.read_bytes() for file in files}
    for file in files[::2]:
        file.unlink()
    gin_file = f"--gin_file={folder / 'run.gin'}"
    done = run("--run_mode=prepare", "--gin.prepare.splits=('train', 'test')", gin_files=[gin_file])
    assert done.returncode == 0, done.stderr
    assert "train: 16 examples of open_questions" in done.stdout
    assert {file: file.read_bytes() for file in sorted((folder / "candidates").glob("sampled-*/*.npz"))} == made
    asked, answered = tmp_path / "asked.jsonl", tmp_path / "answered.jsonl"
    asked.write_text('{"inputs": "w43 w5"}\n')
    given = [f"--gin.infer.input_file={asked}", f"--gin.infer.output_file={answered}"]
    done = run("--run_mode=infer", *given, gin_files=[gin_file])
    assert done.returncode == 0, done.stderr
    (line,) = lines_in(answered)
    assert sum(candidate["count"] for candidate in line["candidates"]) in range(5)
    assert isinstance(line["prediction"], str)


@pytest.mark.slow
def test_halves_that_are_swapped_are_told_of(trained):
    folder, _ = trained
    given = [f"--gin.p1/{half}/Proposer.checkpoint={str(folder / place)!r}" for half, place in (("first", "second"),)]
    told = mistake(f"--gin_file={folder / 'run.gin'}", *given, f"--gin.MODEL_DIR={str(folder / 'other')!r}")
    assert "was trained with TaskData.train_half = 1; its candidates" in told
