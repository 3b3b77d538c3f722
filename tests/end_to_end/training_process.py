"""Trains a prompt for a tiny T5 in a process of its own, which can be told when to die.

The tiny T5 was written by T5X; the batches are made up. Moments, of which none lets anything be finished:

    batch      as the batch of a step is asked for
    save       the saving of a step has begun, its files are being written
    commit     all files of a step are written, its folder is about to get its name
    best       the saving of a step as the best has begun
    metrics    half of metrics.jsonl has been written, before the saving of a step
    told       no death, but SIGTERM, as the batch of a step is asked for
    told while it judges    the same at the first evaluation
    full       no death: from the saving of a step on, the disk is full
"""

import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np
import optax
from etils import epath

from frozen_jax import load_lm, partitioning, preemption, training
from frozen_jax.checkpoints import Checkpointer, describe
from frozen_jax.errors import UserError
from frozen_jax.methods.prompt_tuning import PromptTuning
from frozen_jax.metrics import MetricWriter
from frozen_jax.prompts import random_uniform
from frozen_jax.runs import environment
from frozen_jax.types import Batch

FIXTURE = Path(__file__).parents[1] / "fixtures" / "t5x" / "t5_1_1_tiny_legacy" / "checkpoint_7"
STEPS, SAVE_PERIOD, EVAL_PERIOD = 12, 2, 3


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def batch(index):
    """Batch `index`, whichever process asks for it."""
    rng = np.random.default_rng(index)
    inputs, targets = rng.integers(2, 90, (4, 8)), rng.integers(2, 90, (4, 2))
    mask = np.arange(8)[None] < rng.integers(2, 9, (4, 1))
    return Batch(inputs.astype(np.int32), mask, targets.astype(np.int32), np.ones((4, 2), np.float32))


class Mortal(Checkpointer):
    """A checkpointer that dies when it is told to."""

    moment, at = "", -1

    def save(self, step, state):
        if step == self.at:
            self._before(step)
        super().save(step, state)
        if (self.moment, self.at) == ("save", step):
            die()

    def save_best(self, step, state, metrics):
        super().save_best(step, state, metrics)
        if (self.moment, self.at) == ("best", step):
            die()

    def _before(self, step):
        if self.moment == "commit":
            self.wait()
            for name in ("rename", "replace"):
                setattr(os, name, dying_for(self.directory / "checkpoints" / str(step), getattr(os, name)))
        elif self.moment == "full":
            self.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))  # stderr is a file as well


def dying_for(folder, rename):
    def renamed(source, target):
        if str(target) == str(folder):
            die()
        return rename(source, target)

    return renamed


class MortalWriter(MetricWriter):
    """A writer of metrics that dies in the middle of it when it is told to."""

    moment, at = "", -1

    def flush(self):
        if self.moment == "metrics" and self._lines and f'"step": {self.at},' in self._lines[-1]:
            path = type(epath.Path("/"))
            write = path.write_text
            path.write_text = lambda file, text: (write(file, text[: len(text) // 2]), die())
        super().flush()


def batches(first, moment, at):
    for index in range(first, STEPS):
        if (moment, at) == ("batch", index):
            die()
        if (moment, at) == ("told", index):
            os.kill(os.getpid(), signal.SIGTERM)
        yield batch(index)


def judge(model, judged, moment):
    if moment == "told while it judges":
        os.kill(os.getpid(), signal.SIGTERM)
    return {"mean": float(np.mean(model.score(judged.inputs, judged.targets)))}


def main(directory, moment="", at="-1"):
    Mortal.moment = MortalWriter.moment = moment
    Mortal.at = MortalWriter.at = int(at)
    method = PromptTuning(
        load_lm(str(FIXTURE), mlp_activations=("gelu", "linear")), length=6, initializer=random_uniform
    )
    optimizer = optax.adafactor(0.1, multiply_by_parameter_scale=False)
    state, split = training.start(method, optimizer, partitioning.make_mesh())
    train_step = training.make_train_step(split, state, optimizer)
    judged = batch(1000)
    with Mortal(directory, describe(method, state.trained, seed=0), best_metric="mean") as checkpointer:
        state = checkpointer.restore(state)
        print(f"from {int(state.step)}", flush=True)
        training.fit(
            state,
            split,
            train_step,
            batches(int(state.step), moment, int(at)),
            train_steps=STEPS,
            writer=MortalWriter(directory, first_step=int(state.step), log_period=1),
            checkpointer=checkpointer,
            save_period=SAVE_PERIOD,
            evaluate=lambda model: judge(model, judged, moment),
            eval_period=EVAL_PERIOD,
        )


def process(*arguments):
    """Is the whole process, and ends it as run.py would."""
    environment.prepare()
    preemption.listen()
    try:
        main(*arguments)
    except preemption.Preempted as told:
        print(f"preempted: {told}", file=sys.stderr, flush=True)
        os._exit(preemption.EXIT_STATUS)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(2)  # as run.py
