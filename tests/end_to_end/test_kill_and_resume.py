"""A run that is killed again and again, and meets a full disk, ends as the run that was not: bit for bit."""

import json
import os
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath

from frozen_jax import checkpoints
from tests.end_to_end import forked, training_process

TIMES = {"seconds_per_step", "examples_per_second", "real_tokens_per_second", "padding_tokens_per_second"}

# When a process dies, and from which steps the next may go on: what was being saved may or may not be whole.
DEATHS = [
    ("save", 2, {0, 2}),
    ("commit", 4, {2}),
    ("metrics", 6, {2, 4}),
    ("told", 6, {7}),
    ("best", 9, {7, 8}),
    ("batch", 11, {8, 10}),
]


def train(folder, *moment):
    """Trains in a process on one device, and returns its exit status and what it printed."""
    environment = {**os.environ, "XLA_FLAGS": forked.ONE_DEVICE}
    done = forked.Running(training_process.process, [folder, *moment], environment).ended()
    return done.returncode, done.stdout, done.stderr


def figures(folder):
    """The lines of metrics.jsonl without what a clock measured."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def arrays(step):
    """All that one saved step holds, on the host."""
    reader, folder = ocp.PyTreeCheckpointer(), epath.Path(step / "state")
    stored = ocp.PyTreeCheckpointHandler().metadata(folder).tree
    numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
    return reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=numpy))


def assert_same(one, other):
    """The same figures, and the same steps are kept, with the same bits."""
    assert figures(one) == figures(other)
    kept = [sorted(path.relative_to(run) for path in run.glob("*/*") if path.name.isdigit()) for run in (one, other)]
    assert kept[0] == kept[1]
    assert [path.parts[0] for path in kept[0]] == ["best", "checkpoints", "checkpoints"]
    for step in kept[0]:
        first, second = arrays(one / step), arrays(other / step)
        assert jax.tree.structure(first) == jax.tree.structure(second)
        for leaves in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
            assert leaves[0].tobytes() == leaves[1].tobytes()


@pytest.mark.slow
def test_told_to_end_while_it_evaluates_it_ends_at_once(tmp_path):
    status, printed, errors = train(tmp_path, "told while it judges", 0)
    assert (status, printed) == (75, "from 0\n")
    assert errors == "preempted: told to end by SIGTERM; run the same command again to go on\n"
    assert checkpoints.find(tmp_path / "checkpoints").name == "2"


@pytest.mark.slow
def test_killed_again_and_again_it_ends_as_if_nothing_had_happened(tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert train(unbroken) == (0, "from 0\n", "")

    allowed = {0}
    for moment, step, next_allowed in DEATHS:
        status, printed, errors = train(broken, moment, step)
        assert status == (75 if moment == "told" else -signal.SIGKILL), f"it was to die at {moment} {step}"
        if moment == "told":
            assert errors == "preempted: told to end by SIGTERM: step 7 is saved; run the same command again\n"
        assert printed in {f"from {first}\n" for first in allowed}
        allowed = next_allowed

    status, printed, errors = train(broken, "full", training_process.STEPS)
    assert printed in {f"from {first}\n" for first in allowed}
    message = f"cannot save to {broken}/checkpoints: File too large; what was saved before is untouched"
    assert (status, errors) == (2, f"error: {message}\n")
    assert checkpoints.find(broken / "checkpoints").name == "10"

    assert train(broken) == (0, "from 10\n", "")
    assert_same(unbroken, broken)
    assert not [path for path in broken.rglob("*") if "orbax-checkpoint-tmp" in path.name], (
        "what was half-written is gone"
    )
