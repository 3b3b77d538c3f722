"""A decoder-only LM through run.py: every method from its gin file, and the ways to write."""

import dataclasses
import json

import pytest

from tests import tiny
from tests.end_to_end.test_run import INPUTS, ROOT, mistake, run
from tests.lm.pretrained import written


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """What the runs below have in common."""
    config = dataclasses.replace(tiny.LLAMA_CONFIG, context_length=48)
    folder = written.llama_folder(tmp_path_factory.mktemp("lm") / "llama", config, max_position_embeddings=48)
    return [
        f"--gin.INITIAL_CHECKPOINT_PATH={folder}",
        "--gin.load_lm.mlp_activations=None",
        "--gin.lm_tokenizer.template=w5 {inputs} w6",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "task"),
    [
        ("prompt_tuning", "tiny_written"),
        ("fine_tuning", "tiny_chosen"),
        ("input_dependent_prompt_tuning", "tiny_chosen"),
    ],
)
def test_every_method_trains_and_is_evaluated(method, task, llama, tmp_path):
    files = ["--gin_file=tests/end_to_end/tiny.gin", f"--gin_file=gin/methods/{method}.gin"]
    settings = [
        f"--gin.MODEL_DIR={tmp_path}",
        f"--gin.MIXTURE_OR_TASK_NAME={task}",
        "--gin.warmup_cosine.warmup_steps=1",
    ]
    done = run(*llama, *settings, gin_files=files)
    assert done.returncode == 0, done.stderr
    assert "frozen LM alone" in done.stdout
    figures = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len({line["loss"] for line in figures if line["kind"] == "train"}) == 6


@pytest.mark.slow
def test_a_connector_is_pretrained_and_goes_on_with_a_task(llama, tmp_path):
    files = ["--gin_file=tests/end_to_end/tiny.gin", "--gin_file=gin/methods/neural_recursion.gin"]
    common = [*llama, "--gin.EVAL_PERIOD=0", "--gin.warmup_cosine.warmup_steps=1"]
    first, second, states = (tmp_path / name for name in ("first", "second", "states"))
    pretraining = [
        "--gin.MIXTURE_OR_TASK_NAME=tiny_written",
        f"--gin.MODEL_DIR={first}",
        "--gin.train.report_split=None",
    ]
    done = run(*common, *pretraining, f"--gin.train.first_pass={states}", gin_files=files)
    assert done.returncode == 0, done.stderr
    assert (states / "states.bin").stat().st_size > 1000
    task = ["--gin.MIXTURE_OR_TASK_NAME=tiny_chosen", f"--gin.MODEL_DIR={second}", f"--gin.train.start_from={first}"]
    done = run(*common, *task, gin_files=files)
    assert done.returncode == 0, done.stderr
    assert "with NeuralRecursion" in done.stdout


@pytest.mark.slow
def test_several_texts_with_their_log_probabilities(llama, tmp_path):
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(json.dumps({"inputs": text}) + "\n" for text in INPUTS))
    arguments = [*llama, f"--gin.MODEL_DIR={tmp_path}", "--run_mode=infer", f"--gin.infer.input_file={asked}"]
    arguments += ["--gin.infer.checkpoint='none'", "--gin.infer.max_length=6", "--gin.infer.log_probs=True"]
    arguments += ["--gin.infer.strategy=@Sample()", "--gin.Sample.n=2", "--gin.infer.batch_size=4"]

    def answers(*more):
        done = run(*arguments, *more, f"--gin.infer.output_file={tmp_path / 'answers.jsonl'}")
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
        (tmp_path / "answers.jsonl").unlink()
        assert [line["inputs"] for line in lines] == INPUTS
        return lines

    whole = answers()
    assert all(len(line["prediction"]) == len(line["log_probability"]) == 2 for line in whole)
    assert all(nats < 0 for line in whole for nats in line["log_probability"])
    string = next(text.split()[1] for line in whole for text in line["prediction"] if " " in text)
    cut = answers(f"--gin.infer.stop_strings=['{string}']", "--gin.infer.batch_size=3")
    token = json.loads((ROOT / "tests/end_to_end/tokenizer.json").read_text())["model"]["vocab"][string]
    ended = answers(f"--gin.infer.stop_ids=[{token}]")
    for line, before, until in zip(whole, cut, ended, strict=True):
        for text, without, included in zip(*(one["prediction"] for one in (line, before, until)), strict=True):
            assert without == text.partition(string)[0]
            words = text.split()
            assert included.split() == words[: words.index(string) + 1 if string in words else None]


@pytest.mark.slow
def test_what_does_not_fit_into_the_context(llama, tmp_path):
    line = mistake(*llama, f"--gin.MODEL_DIR={tmp_path}", '--gin.TASK_FEATURE_LENGTHS={"inputs": 30, "targets": 4}')
    assert "with 2 of the template and a prompt of 20 that is 8 more than the context of" in line
