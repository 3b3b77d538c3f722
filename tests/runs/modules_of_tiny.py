"""Module checkpoints beside a tiny T5, a job around it, and tasks without seqio."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import optax

from frozen_jax import training
from frozen_jax.checkpoints import Checkpointer, describe
from frozen_jax.methods.fine_tuning import FineTuning
from frozen_jax.runs.job import Job, TaskData
from tests import fake_model, tiny

LENGTHS = {"inputs": 40, "targets": 4}
METHODS = {"PromptTuning": tiny.prompt_tuning, "FineTuning": FineTuning}


def save(folder, method, seed=0, trained_on="chosen", steps=(1,), encoder_text=None, train_half=None):
    """Saves a module with random parameters, as its training would, and returns its folder."""
    state, _ = training.start(method, optax.sgd(0.1), tiny.mesh(1, 1))
    rng = np.random.default_rng(seed)
    trained = jax.tree.map(lambda leaf: leaf + 0.3 * rng.standard_normal(leaf.shape).astype(leaf.dtype), state.trained)
    description = describe(
        method,
        trained,
        seed=seed,
        gin_config=f"# Macros:\nMIXTURE_OR_TASK_NAME = '{trained_on}'\nX = 1\n",
        encoder_text=encoder_text,
        train_half=train_half,
    )
    with Checkpointer(folder, description) as checkpointer:
        for step in steps:
            checkpointer.save(step, state._replace(trained=trained, step=jax.numpy.int32(step)))
    return folder


def chosen(size):
    return dataclasses.replace(fake_model.choosing(size), name="chosen", targets_length=4)


def written(size):
    examples = [fake_model.example(i, f"{5 + i} 7 8", "5 7") for i in range(size)]
    return fake_model.task(examples, name="written", score_metrics=[fake_model.mean_score])


def text(size):
    """Plain text: nothing to judge but its likelihood."""
    examples = [fake_model.example(i, f"{5 + i} 7 8", f"5 {7 + i} 9 20") for i in range(size)]
    return fake_model.task(examples, name="text", predict_metrics=[])


TASKS = {"chosen": [chosen], "written": [written], "text": [text], "both": [chosen, written]}


@dataclasses.dataclass(frozen=True)
class MadeUpData(TaskData):
    """Its examples are as many as `eval_examples`; each call is noted."""

    def eval_tasks(self, split):
        tasks = [make(self.eval_examples) for make in TASKS[self.mixture_or_task_name]]
        return [dataclasses.replace(task, split=split) for task in tasks]

    def check_fits(self, model):
        """Made of token ids, without a tokenizer."""


def job(folder, lm=None, **changes):
    data = MadeUpData(mixture_or_task_name="chosen", task_feature_lengths=LENGTHS, eval_examples=6)
    settings = {"method": tiny.prompt_tuning(lm), "data": data, "model_dir": str(folder), "mesh": tiny.mesh(1, 1)}
    return Job(**settings | changes)
