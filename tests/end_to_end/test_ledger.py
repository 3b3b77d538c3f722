"""The ledger as a user makes it: modules of two methods, trained by run.py, on two tasks and in two goes."""

import json
import re

import matplotlib.image
import pytest

from tests.end_to_end.test_run import mistake, run

TUNED = ["--gin_file=gin/methods/fine_tuning.gin", "--gin.MIXTURE_OR_TASK_NAME=tiny_written", "--gin.SEED=1"]
TASKS = '{"tiny_chosen": {"inputs": 16, "targets": 4}, "tiny_written": {"inputs": 12, "targets": 5}}'


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    root = tmp_path_factory.mktemp("modules")
    for name, arguments in {"prompt": [], "tuned": TUNED}.items():
        done = run(f"--gin.MODEL_DIR={root / name}", "--gin.train.report_split=None", *arguments)
        assert done.returncode == 0, done.stderr
    return root


def ledger(folder, rows, *arguments):
    """The arguments of an evaluation; gin's own file gives the methods, as gin/runs/ledger.gin does."""
    gin = folder / "ledger_of_tiny.gin"
    gin.parent.mkdir(exist_ok=True)
    gin.write_text(
        'include "gin/methods/fine_tuning.gin"\n'
        'include "gin/methods/prompt_tuning.gin"\n'
        "warmup_cosine.warmup_steps = 1\n"
        "evaluate_module.methods = [@PromptTuning, @FineTuning]\n"
        f"evaluate_module.modules = {json.dumps(rows)}\n"
        f"evaluate_module.tasks = {TASKS}\n"
        f'MODEL_DIR = "{folder}"\n'
    )
    return [f"--gin_file={gin}", "--run_mode=eval", *arguments]


@pytest.mark.slow
def test_modules_of_two_methods_on_two_tasks(modules, tmp_path):
    rows = {"prompt": [str(modules / "prompt"), str(modules / "prompt" / "checkpoints" / "4")]}
    done = run(*ledger(tmp_path, rows))
    assert done.returncode == 0, done.stderr
    first = json.loads((tmp_path / "ledger.json").read_text())["figures"]
    assert len(re.findall(r"^prompt, seed 0: tiny_\w+ accuracy 0\.\d+ \[", done.stdout, re.MULTILINE)) == 4

    done = run(*ledger(tmp_path, {**rows, "tuned": str(modules / "tuned")}))
    assert done.returncode == 0, done.stderr
    assert "6 figures were there already" in done.stdout
    assert next(line for line in done.stdout.splitlines() if line.endswith(" s)")).startswith("tuned, seed 1: ")
    second = json.loads((tmp_path / "ledger.json").read_text())
    assert dict(list(second["figures"].items())[:6]) == first
    assert (second["set_aside"]["parameters"], second["set_aside"]["figures"]) == (True, True)

    table = (tmp_path / "ledger.md").read_text()
    assert "| tuned " in table
    assert "its parameters are the same, bit for bit" in table
    assert len(re.findall(r"^\| (?:prompt|tuned) .*\*\*", table, re.MULTILINE)) == 4  # what each was trained on, twice
    assert matplotlib.image.imread(tmp_path / "ledger.png").shape[0] > 300
    tuned = [f for f in second["figures"].values() if f["subject"]["row"] == "tuned"]
    assert [f["subject"]["trained_on"] for f in tuned] == ["tiny_written"] * 2
    assert {f["result"]["task"]: f["lengths"]["targets"] for f in tuned} == {"tiny_chosen": 4, "tiny_written": 5}

    assert run(f"--gin_file={tmp_path / 'ledger.gin'}", "--run_mode=eval").returncode == 0
    assert (tmp_path / "ledger.md").read_text() == table


TEMPLATES = [
    '--gin.evaluate_module.tasks=["tiny.even.bare", "tiny.even.asked", "tiny.odd.written"]',
    '--gin.evaluate_module.held_out=["tiny.odd"]',
    '--gin.TASK_FEATURE_LENGTHS={"inputs": 16, "targets": 4}',
]


@pytest.mark.slow
def test_templates_are_summed_up_by_data_set(modules, tmp_path):
    rows = {"prompt": str(modules / "prompt"), "tuned": str(modules / "tuned")}
    compare = '--gin.evaluate_module.compare=[("tuned", "prompt"), ("prompt", "frozen LM alone")]'
    done = run(*ledger(tmp_path, rows, *TEMPLATES, compare))
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "data_sets.md").read_text()
    assert text in done.stdout
    assert not (tmp_path / "ledger.md").exists()
    trained, held_out = text.split("## Trained on")[1].split("## Held out")
    assert len(re.findall(r"^\| tiny.even +\| 2 +\| 24 \(validation\) ", trained, re.MULTILINE)) == 3
    assert "tiny.odd" in held_out
    assert "tiny.odd" not in trained
    assert "its parameters are the same, bit for bit" in text

    figures = json.loads((tmp_path / "ledger.json").read_text())["figures"].values()
    of = {(f["subject"]["row"], f["result"]["task"]): f["result"] for f in figures}
    assert len(of) == 9
    gains = [
        of["tuned", task]["nats_per_token"] - of["prompt", task]["nats_per_token"]
        for task in ("tiny.even.bare", "tiny.even.asked")
    ]
    differences = trained.split("tuned, minus prompt")[1]
    assert f"| tiny.even | {sum(gains) / 2:+.3f} [" in re.sub(" +", " ", differences)
    assert len((tmp_path / "templates.csv").read_text().splitlines()) == 1 + 9
    assert matplotlib.image.imread(tmp_path / "ledger.png").shape[0] > 300

    told = mistake(*ledger(tmp_path, rows, *TEMPLATES, '--gin.evaluate_module.compare=[("tuned", "promt")]'))
    assert "evaluate_module.compare: there is no row 'promt'; there are frozen LM alone, prompt, tuned" in told


@pytest.mark.slow
def test_one_run_on_other_tasks(modules):
    folder = modules / "prompt"
    done = run(f"--gin.MODEL_DIR={folder}", "--run_mode=eval", f"--gin.evaluate_module.tasks={TASKS}")
    assert done.returncode == 0, done.stderr
    assert "prompt, seed 0: tiny_written" in done.stdout


@pytest.mark.slow
def test_a_mistake_gets_one_line(modules, tmp_path):
    arguments = ledger(tmp_path, {"tuned": str(modules / "tuned")}, "--gin.evaluate_module.methods=[]")
    assert "holds a module of FineTuning; evaluate_module.methods has PromptTuning" in mistake(*arguments)
