"""Everything on `gs://`, in an emulator: train, be killed, go on, evaluate, infer; as if it were a local disk."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.emulated_cloud import serving
from tests.end_to_end import forked, training_process
from tests.end_to_end.forked import ONE_DEVICE
from tests.end_to_end.test_kill_and_resume import assert_same, figures

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "t5x"
IN_THE_CLOUD = ["--gin.INITIAL_CHECKPOINT_PATH=gs://bucket/lm", "--gin.TOKENIZER=gs://bucket/tokenizer.json"]

# As what is about to be written the process dies, and from which steps the next may go on.
DEATHS = [
    (r"run/checkpoints/2/state/.*/d/", {0}),  # arrays
    (r"run/checkpoints/4/commit_success", {2}),  # all else of the step is there
    (r"run/metrics\.jsonl$", {2}),
    (r"run/best/9/commit_success", {6, 8}),
]


@pytest.fixture(scope="module")
def cloud():
    with serving() as server:
        server.upload(FIXTURES / "t5_1_1_tiny_legacy" / "checkpoint_7", "lm/checkpoint_7")
        server.put("tokenizer.json", (ROOT / "tests" / "end_to_end" / "tokenizer.json").read_bytes())
        yield server


def finished(cloud, main, *arguments, dies_before=None):
    """The exit status of a process on one device to which `gs://` is the emulator, and what it printed.

    It is killed as it is about to write an object of such a name.
    """
    process = forked.Running(main, arguments, {**os.environ, **cloud.environment, "XLA_FLAGS": ONE_DEVICE})

    def die(name):
        if dies_before and re.search(dies_before, name):
            process.send(signal.SIGKILL)
            raise ConnectionAbortedError

    cloud.about_to_write = die
    try:
        done = process.ended()
    finally:
        cloud.about_to_write = lambda name: None
    return done.returncode, done.stdout, done.stderr


def run(cloud, *arguments, **options):
    return finished(cloud, forked.run_py, "--gin_file=tests/end_to_end/tiny.gin", *arguments, **options)


@pytest.fixture(scope="module")
def trained(cloud, tmp_path_factory):
    """A run in the bucket that was killed and went on, copied; and the same run on the local disk, unbroken."""
    local, copy = tmp_path_factory.mktemp("local"), tmp_path_factory.mktemp("copy")
    unbroken = ["--gin_file=tests/end_to_end/tiny.gin", f"--gin.MODEL_DIR={local}"]
    assert forked.run(unbroken, {**os.environ, "XLA_FLAGS": ONE_DEVICE}).returncode == 0
    arguments = ["--gin.MODEL_DIR=gs://bucket/model", *IN_THE_CLOUD]
    status, _, errors = run(cloud, *arguments, "--profile_steps=1", dies_before=r"model/checkpoints/4/commit_success")
    assert status == -signal.SIGKILL, errors
    before = cloud.get("model/metrics.jsonl")
    status, printed, errors = run(cloud, *arguments)
    assert status == 0, errors
    assert cloud.get("model/metrics.jsonl").startswith(b"".join(before.splitlines(keepends=True)[:2]))
    return local, cloud.download("model", copy), printed


@pytest.mark.slow
def test_a_run_that_was_killed_ends_as_an_unbroken_one_on_a_disk(trained):
    local, copy, printed = trained
    assert_same(local, copy)
    assert (copy / "predictions" / "tiny_chosen-test.jsonl").read_text() == (
        local / "predictions" / "tiny_chosen-test.jsonl"
    ).read_text()
    assert printed.startswith((copy / "report.md").read_text())
    assert (copy / "report.md").read_text().splitlines()[:3] == (local / "report.md").read_text().splitlines()[:3]
    assert "gs://bucket/model" in (copy / "config.gin").read_text()
    assert len(list((copy / "tensorboard").iterdir())) == 2
    assert list((copy / "profile").rglob("*.xplane.pb"))
    assert not [path for path in copy.rglob("*") if "unfinished" in path.name or "tmp" in path.name]


@pytest.mark.slow
def test_eval_finds_the_module_in_the_bucket(cloud, trained):
    status, printed, errors = run(cloud, "--gin.MODEL_DIR=gs://bucket/model", *IN_THE_CLOUD, "--run_mode=eval")
    assert status == 0, errors
    assert "with PromptTuning" in printed
    assert len(cloud.get("model/predictions/tiny_chosen-validation.jsonl").splitlines()) == 12


@pytest.mark.slow
def test_infer_reads_and_writes_the_bucket_and_goes_on_where_it_stopped(cloud, trained):
    asked = [{"inputs": f"w{5 + i} w{6 + 2 * i}", "id": i} for i in range(7)]
    cloud.put("asked.jsonl", "".join(json.dumps(line) + "\n" for line in asked).encode())
    arguments = [
        "--gin.MODEL_DIR=gs://bucket/model",
        *IN_THE_CLOUD,
        "--run_mode=infer",
        "--gin.infer.input_file=gs://bucket/asked.jsonl",
        "--gin.infer.output_file=gs://bucket/out/answered.jsonl",
        "--gin.infer.batch_size=4",
        "--gin.infer.max_length=4",
    ]
    status, printed, errors = run(cloud, *arguments)
    assert status == 0, errors
    assert "7 answers in gs://bucket/out/answered.jsonl" in printed
    whole = cloud.get("out/answered.jsonl")
    answered = [json.loads(line) for line in whole.splitlines()]
    assert [
        {**line, "prediction": found["prediction"]} for line, found in zip(asked, answered, strict=True)
    ] == answered
    cloud.put("out/answered.jsonl", b"".join(whole.splitlines(keepends=True)[:3]))  # as a kill leaves it
    status, printed, errors = run(cloud, *arguments)
    assert status == 0, errors
    assert "3 answers were there already" in printed
    assert cloud.get("out/answered.jsonl") == whole
    assert cloud.names("out/") == ["out/answered.jsonl"]


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_from_what_was_whole(cloud, tmp_path):
    local = tmp_path / "local"
    assert finished(cloud, training_process.process, local)[:2] == (0, "from 0\n")
    allowed = {0}
    for name, next_allowed in DEATHS:
        status, printed, errors = finished(cloud, training_process.process, "gs://bucket/run", dies_before=name)
        assert status == -signal.SIGKILL, f"it was to die before {name}: {errors}"
        assert printed in {f"from {first}\n" for first in allowed}
        allowed = next_allowed
    status, printed, errors = finished(cloud, training_process.process, "gs://bucket/run")
    assert status == 0, errors
    assert printed in {f"from {first}\n" for first in allowed}
    copy = cloud.download("run", tmp_path / "copy")
    assert_same(local, copy)
    assert [line["step"] for line in figures(copy) if line["kind"] == "train"] == list(range(1, 13))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bucket", "message"),
    [("private", "no credentials, or none that are valid; run `gcloud auth"), ("read-only", "no permission; give the")],
)
def test_a_bucket_that_refuses_gets_one_line(cloud, bucket, message):
    status, _, errors = run(cloud, f"--gin.MODEL_DIR=gs://{bucket}/model")
    assert status == 2, errors
    (line,) = errors.splitlines()
    assert line.startswith(f"error: gs://{bucket}/model: {message}")
