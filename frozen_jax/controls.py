"""Controls for experiments on what an encoder reads: the same text for every input, or the inputs of another example.

    own               x ──▶ LM      encoder reads x        p(x)
    on_text           x ──▶ LM      encoder reads a text   p, whatever x is: what a static prompt can do
    same task         x ──▶ LM      encoder reads x'       p(x'), x' of the same template: is the instance used?
    other data set    x ──▶ LM      encoder reads x'       p(x'), x' of another data set: is the task told by it?

A task is one template of a data set (`templates`): "same task" stays within the template, not only within the data set.

No method knows of them: all they change is `encoder_inputs`. Where the encoder reads `inputs`, since it has the LM's
vocabulary, another example's inputs become this one's `encoder_inputs`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from frozen_jax.answering import EvalExample, EvalTask
from frozen_jax.batching import ENCODER_INPUTS, Ragged, TaskTokens, Tokens
from frozen_jax.errors import UserError
from frozen_jax.ordering import permutation
from frozen_jax.templates import data_set_of

OWN, SAME_TASK, OTHER_DATA_SET = WHOSE = ("own", "same task", "other data set")


def train_on_text(tasks: Sequence[TaskTokens], text: Tokens) -> list[TaskTokens]:
    """Training examples whose encoder reads one text.

    Args:
        tasks: one, or those of a mixture.
        text: in the encoder's vocabulary.

    Returns:
        The same, with other `encoder_inputs`.

    Raises:
        UserError: for packed rows.
    """
    if any(task.packed for task in tasks):
        raise UserError("TaskData.encoder_text: an encoder reads whole examples; set TaskData.pack = False")

    def repeated(count: int) -> Ragged:
        return Ragged(np.tile(text, count), np.arange(count + 1) * len(text))

    return [
        dataclasses.replace(task, features={**task.features, ENCODER_INPUTS: repeated(len(task))}) for task in tasks
    ]


def evaluate_on_text(tasks: Sequence[EvalTask], text: Tokens) -> list[EvalTask]:
    """Examples whose encoder reads one text.

    Args:
        tasks: with their examples.
        text: in the encoder's vocabulary.

    Returns:
        The same, with other `encoder_inputs`.
    """
    return [_with(task, [text] * len(task.examples)) for task in tasks]


def swapped(tasks: Sequence[EvalTask], whose: str, seed: int) -> list[EvalTask]:
    """Examples whose encoder reads the inputs of another one.

    Args:
        tasks: all that are evaluated together.
        whose: one of `WHOSE`: "own" changes nothing; "same task" gives each example the inputs of another of its
            task (the same template), none its own; "other data set" those of an example of another data set, all in
            turn.
        seed: of who is given whose.

    Returns:
        The same, with other `encoder_inputs`.

    Raises:
        UserError: if `whose` is something else, a task has one example, or there is only one data set.
    """
    if whose not in WHOSE:
        raise UserError(f"encoder_inputs_of is {whose!r}; choose from {', '.join(map(repr, WHOSE))}")
    if whose == OWN:
        return list(tasks)
    if len({example.encoder_inputs is None for task in tasks for example in task.examples}) > 1:
        raise UserError(f"some tasks have {ENCODER_INPUTS} and some have none: they cannot be swapped")
    found = [
        _others_of_task(task, seed) if whose == SAME_TASK else _of_other_data_sets(task, tasks, seed) for task in tasks
    ]
    return [_with(task, [_read(giver) for giver in givers]) for task, givers in zip(tasks, found, strict=True)]


def _with(task: EvalTask, encoder_inputs: Sequence[Tokens]) -> EvalTask:
    pairs = zip(task.examples, encoder_inputs, strict=True)
    return dataclasses.replace(task, examples=[dataclasses.replace(e, encoder_inputs=read) for e, read in pairs])


def _read(example: EvalExample) -> Tokens:
    return example.inputs if example.encoder_inputs is None else example.encoder_inputs


def _others_of_task(task: EvalTask, seed: int) -> list[EvalExample]:
    """The next one on a round way through all examples: nobody's own."""
    if len(task.examples) < 2:
        raise UserError(f"task {task.name} has one example in {task.split}: there is none to swap inputs with")
    order = permutation(len(task.examples), seed, task.name, SAME_TASK)
    following = dict(zip(order.tolist(), np.roll(order, -1).tolist(), strict=True))
    return [task.examples[following[row]] for row in range(len(order))]


def _of_other_data_sets(task: EvalTask, tasks: Sequence[EvalTask], seed: int) -> list[EvalExample]:
    own = data_set_of(task.name)
    others = [example for other in tasks if data_set_of(other.name) != own for example in other.examples]
    if not others:
        raise UserError(f"all tasks are of the data set {own}: there is no other to swap inputs with; evaluate more")
    order = permutation(len(others), seed, task.name, OTHER_DATA_SET)
    return [others[order[row % len(order)]] for row in range(len(task.examples))]
