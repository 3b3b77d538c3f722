"""Training by several processes: the losses of one, and what follows where one dies, is told to end, or differs.

One run, broken twice, goes through two, four and again two processes; a copy of it ends in one.
"""

import json
import os
import re
import shutil
import signal
import socket
import time

import jax
import numpy as np
import pytest

from frozen_jax import checkpoints
from tests.end_to_end import forked
from tests.end_to_end.test_kill_and_resume import arrays

SEVERAL = "--gin_file=tests/multi_process/several.gin"
SLOW = "--gin_file=tests/multi_process/slow.gin"
STEPS = 24  # of several.gin
TWO_DEVICES = f"{forked.ONE_DEVICE} --xla_force_host_platform_device_count=2"
DEATH_SECONDS = 60

pytestmark = pytest.mark.slow


class Job:
    """A run of several processes with two devices each, on this machine."""

    def __init__(self, count, *arguments, differing=()):
        with socket.create_server(("localhost", 0)) as server:
            port = server.getsockname()[1]
        who = ["--distributed", f"--coordinator_address=localhost:{port}", f"--process_count={count}"]
        environment = {**os.environ, "XLA_FLAGS": TWO_DEVICES}
        self.processes = []
        for index in range(count):
            last = differing if index == count - 1 else ()
            given = [*who, f"--process_index={index}", *arguments, *last]
            self.processes.append(forked.Running(forked.run_py, given, environment))

    def ends(self, seconds=300):
        """The exit status and stderr of every process, without what a slow machine makes it say of its progress."""
        ends = [process.ended(seconds) for process in self.processes]
        return [(end.returncode, re.sub(r"train: .* so far.*\n", "", end.stderr)) for end in ends]

    def reaches(self, folder, step):
        """Returns when that step is in the metrics, which are written before every save."""
        deadline = time.monotonic() + 120
        while not (lines := losses(folder)) or max(lines) < step:
            assert time.monotonic() < deadline
            assert all(process.runs() for process in self.processes), self.ends()
            time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in filter(forked.Running.runs, self.processes):
            process.send(signal.SIGKILL)
            process.ended()


def lines_of(folder, kind):
    """Of metrics.jsonl."""
    file = folder / "metrics.jsonl"
    lines = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
    return [line for line in lines if line["kind"] == kind]


def losses(folder):
    """Step → loss."""
    return {line["step"]: line["loss"] for line in lines_of(folder, "train")}


def evaluations(folder):
    """The last validation's metrics."""
    return {name: value for name, value in lines_of(folder, "eval")[-1].items() if name != "kind"}


def alone(*arguments):
    """A run of one process, on one device."""
    environment = {**os.environ, "XLA_FLAGS": forked.ONE_DEVICE}
    done = forked.run([SEVERAL, *arguments], environment)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """What happened: the folders, and how the processes ended."""
    root = tmp_path_factory.mktemp("several")
    tokens = f"--gin.TOKEN_CACHE_DIR={root / 'tokens'}"
    alone(tokens, f"--gin.MODEL_DIR={root / 'none'}", "--run_mode=cache")
    alone(tokens, f"--gin.MODEL_DIR={root / 'alone'}")

    found, arguments = {"root": root}, [SEVERAL, SLOW, tokens, f"--gin.MODEL_DIR={root / 'several'}"]
    with Job(2, *arguments) as job:
        job.reaches(root / "several", 8)
        job.processes[1].send(signal.SIGKILL)
        killed = time.monotonic()
        found["killed"] = job.ends()
        found["seconds"] = time.monotonic() - killed
    shutil.copytree(root / "several", root / "rest_alone")
    alone(tokens, f"--gin.MODEL_DIR={root / 'rest_alone'}")
    with Job(4, *arguments) as job:
        job.reaches(root / "several", 12)
        job.processes[2].send(signal.SIGTERM)
        found["told"] = job.ends()
        found["saved"] = int(checkpoints.find(root / "several" / "checkpoints").name)
    with Job(2, *arguments) as job:
        found["end"] = job.ends()
    return found


def test_a_process_that_is_killed_ends_all_and_is_named(story):
    (status, stderr), (killed, _) = story["killed"]
    assert (status, killed) == (75, -signal.SIGKILL)
    assert stderr == f"ended: process 1 ({socket.gethostname()}) died; run the same command again in all processes\n"
    assert story["seconds"] < DEATH_SECONDS


def test_told_to_end_one_process_ends_all_at_one_saved_step(story):
    line = f"preempted: told to end by SIGTERM: step {story['saved']} is saved; run the same command again\n"
    assert story["told"] == [(75, line)] * 4
    assert 12 < story["saved"] < STEPS


def test_however_many_processes_go_on_the_losses_are_those_of_one(story):
    assert story["end"] == [(0, "")] * 2
    wanted, found, rest = (losses(story["root"] / name) for name in ("alone", "several", "rest_alone"))
    assert list(wanted) == list(found) == list(rest) == list(range(1, STEPS + 1))
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5)
    for losses_of in (found, rest):
        np.testing.assert_allclose(list(losses_of.values()), list(wanted.values()), rtol=1e-3)


@pytest.mark.parametrize("name", ["several", "rest_alone"])
def test_and_so_is_what_is_saved(story, name):
    wanted, found = (arrays(story["root"] / folder / "checkpoints" / str(STEPS)) for folder in ("alone", name))
    assert jax.tree.structure(wanted) == jax.tree.structure(found)
    for one, other in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-3 * np.abs(one).max())


def test_several_processes_evaluate_and_answer_as_one_does(story):
    folders = [story["root"] / name for name in ("alone", "several")]
    found = [predictions(folder) for folder in folders]
    assert found[0] == found[1]
    assert list(found[0]) == list(range(12))
    tables = [(folder / "report.md").read_text().partition("This run")[0] for folder in folders]
    assert tables[0] == tables[1]
    scores = [evaluations(folder) for folder in folders]
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)
    assert len(scores[0]) > 1


def predictions(folder):
    """Of the test split: index → what was chosen."""
    lines = (folder / "predictions" / "tiny_chosen-test.jsonl").read_text().splitlines()
    return {line["index"]: line["prediction"] for line in map(json.loads, lines)}


@pytest.mark.parametrize("mode", ["cache", "curves"])
def test_a_mode_that_nobody_divides_is_refused(mode, tmp_path):
    with Job(1, SEVERAL, f"--run_mode={mode}", f"--gin.MODEL_DIR={tmp_path}") as job:
        ((status, stderr),) = job.ends()
    assert status == 2
    assert stderr.startswith(f"error: --run_mode={mode} is the work of one process; --distributed is for train, eval,")


def test_processes_of_different_gin_all_name_the_one(tmp_path):
    arguments = [SEVERAL, "--gin.TOKEN_CACHE_DIR=unread", f"--gin.MODEL_DIR={tmp_path}"]
    with Job(2, *arguments, differing=["--gin.BATCH_SIZE=16"]) as job:
        host = socket.gethostname()
        line = f"process 1 ({host}) has another gin configuration than process 0 ({host}); give all the same gin files"
        assert job.ends() == [(2, f"error: {line} and flags\n")] * 2
    assert not any(tmp_path.iterdir())
