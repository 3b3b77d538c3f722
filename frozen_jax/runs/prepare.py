"""`--run_mode=prepare`: what a method makes of a task's texts, made and kept before anything is trained on it."""

from __future__ import annotations

from collections.abc import Sequence

import gin

from frozen_jax.errors import UserError
from frozen_jax.runs.job import Job


@gin.configurable
def prepare(job: Job = gin.REQUIRED, splits: Sequence[str] = ("train", "validation", "test")) -> None:
    """Prepares splits, going on where an earlier run stopped; training and evaluation then find them done.

    Args:
        job: the method, its data and the run's folder.
        splits: which; `TaskData.train_examples` and `TaskData.eval_examples` say how much of them.

    Raises:
        UserError: for a method that prepares nothing, and whatever it raises.
    """
    if not job.method.prepares:
        raise UserError(f"{type(job.method).__name__} takes a task's texts as they are: there is nothing to prepare")
    for split in splits:
        if split == "train":
            found = {task.name: len(task) for task in job.data.train_batches().tasks}
        else:
            found = {task.name: len(task.examples) for task in job.data.eval_tasks(split)}
        print("".join(f"{split}: {count} examples of {name}\n" for name, count in found.items()), end="")
