"""What the first pass makes, kept on disk: the same numbers with it and without, and refusals."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple

import numpy as np
import optax
import pytest

from frozen_jax import first_pass, freezing, training
from frozen_jax.batching import Batches, Ragged, TaskTokens
from frozen_jax.errors import UserError
from frozen_jax.methods.neural_recursion import NeuralRecursion
from tests import tiny

LMS = {
    "T5": tiny.t5,
    "Llama": tiny.llama,
    "Llama that puts a token in front": lambda: tiny.llama(bos_first=True, bos_id=2),
    "bfloat16": lambda: tiny.llama(dtype="bfloat16"),
}


def ragged(rng, longest):
    return Ragged.from_sequences(rng.integers(3, 90, rng.integers(1, longest + 1)) for _ in range(11))


def batches(seed=0, batch_size=4):
    rng = np.random.default_rng(seed)
    tasks = [TaskTokens(name, {"inputs": ragged(rng, 12), "targets": ragged(rng, 6)}) for name in ("one", "two")]
    return Batches(tasks, batch_size=batch_size, seed=0, buckets={"inputs": (6, 12), "targets": (6,)})


def keep(method, found, folder):
    first_pass.keep(method, freezing.trainable_mask(method, method.rules), found, str(folder))
    return found


def trained(method, found):
    optimizer = optax.sgd(0.1)
    state, split = training.start(method, optimizer, tiny.mesh(1, 1))
    step = training.make_train_step(split, state, optimizer)
    for number in range(3):
        state, metrics = step(state, split.frozen, found.batch(number))
    return state.trained, metrics


@pytest.mark.parametrize("kind", LMS)
def test_training_comes_out_the_same_with_it(kind, tmp_path):
    method = NeuralRecursion(LMS[kind]())
    kept = keep(method, batches(), tmp_path / "states")
    assert kept.batch(0).first_pass.decoder.dtype == method.lm.config.dtype
    (with_it, metrics), (without, others) = trained(method, kept), trained(method, batches())
    tolerance = 3e-2 if kind == "bfloat16" else 1e-5
    np.testing.assert_allclose(metrics["loss"], others["loss"], rtol=tolerance)
    for name, array in without.items():
        np.testing.assert_allclose(with_it[name], array, atol=tolerance)


def test_it_is_really_read(tmp_path):
    method = NeuralRecursion(tiny.llama())
    kept = keep(method, batches(), tmp_path)
    before = float(trained(method, kept)[1]["loss"])
    states = np.memmap(tmp_path / "states.bin", np.float32, "r+")
    states[:] = np.random.default_rng(0).normal(size=len(states))
    states.flush()
    assert abs(float(trained(method, kept)[1]["loss"]) - before) > 1e-2


def test_a_kill_goes_on_behind_the_last_chunk(tmp_path, monkeypatch):
    method = NeuralRecursion(tiny.t5())
    keep(method, batches(), tmp_path / "whole")
    calls, run = [], first_pass._run

    def killed(*args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return run(*args)

    monkeypatch.setattr(first_pass, "_run", killed)
    with pytest.raises(KeyboardInterrupt):
        keep(method, batches(), tmp_path / "torn")
    monkeypatch.setattr(first_pass, "_run", lambda *args: calls.append(1) or run(*args))
    keep(method, batches(), tmp_path / "torn")
    assert len(calls) == 6  # chunks of 4 of 22 examples, none of them twice
    assert (tmp_path / "torn/states.bin").read_bytes() == (tmp_path / "whole/states.bin").read_bytes()


def test_what_was_done_counts_for_nothing_where_the_states_are_made_anew(tmp_path):
    method = NeuralRecursion(tiny.llama())
    keep(method, batches(), tmp_path)
    before = (tmp_path / "states.bin").read_bytes()
    (tmp_path / "made.json").unlink()
    keep(method, batches(), tmp_path)
    assert (tmp_path / "states.bin").read_bytes() == before


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"lm": lambda: tiny.llama(1)}, r"its LM is tiny-llama-0 \(fingerprint .*\), here it is tiny-llama-1"),
        ({"lm": lambda: tiny.llama(dtype="bfloat16")}, "its dtype is float32, here it is bfloat16"),
        ({"seed": 1}, "its positions is .*; give another folder as train.first_pass"),
    ],
)
def test_states_of_something_else_are_refused(other, message, tmp_path):
    keep(NeuralRecursion(tiny.llama()), batches(), tmp_path)
    with pytest.raises(UserError, match=message):
        keep(NeuralRecursion(other.get("lm", tiny.llama)()), batches(other.get("seed", 0)), tmp_path)


def test_other_tokens_of_the_same_lengths_are_refused(tmp_path):
    method = NeuralRecursion(tiny.llama())
    keep(method, batches(), tmp_path)
    others = batches()
    others.tasks[0].features["inputs"].tokens[0] += 1
    with pytest.raises(UserError, match="its tokens is"):
        keep(method, others, tmp_path)


def test_a_full_disk_is_told_of_before_anything_is_computed(tmp_path, monkeypatch):
    free = namedtuple("usage", "free")(100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(UserError, match=r"takes 0.00 GiB, 0.00 are free \(No space left on device\); give a folder"):
        keep(NeuralRecursion(tiny.llama()), batches(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_refuses_the_room_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(first_pass.os, "posix_fallocate", full)
    with pytest.raises(UserError, match="No space left on device"):
        keep(NeuralRecursion(tiny.llama()), batches(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_trained_before_the_first_pass_is_refused(tmp_path):
    lm = tiny.llama()
    with pytest.raises(UserError, match="before/prompt stands before the first pass, which changes with it"):
        keep(NeuralRecursion(tiny.prompt_tuning(lm)), batches(), tmp_path)
    with pytest.raises(UserError, match="the method is PromptTuning"):
        keep(tiny.prompt_tuning(lm), batches(), tmp_path)
    with pytest.raises(UserError, match="in a local folder"):
        keep(NeuralRecursion(lm), batches(), "gs://bucket/states")


def test_what_they_are_of_is_written_down(tmp_path):
    keep(NeuralRecursion(tiny.llama()), batches(), tmp_path)
    made = json.loads((tmp_path / "made.json").read_text())
    assert made["width"] == 16
    assert (tmp_path / "states.bin").stat().st_size == made["positions"] * 16 * 4
