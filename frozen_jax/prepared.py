"""A task's examples as a method has prepared them: text to text on the hosts, then tokens.

    EvalTask ──texts──▶ Method.prepare ──▶ sets of texts ──tokens──▶ EvalTask, one a set    to evaluate on
                                                                 └──▶ TaskTokens             to train on

Only methods that prepare come this way: training examples are read as text first, which costs memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from frozen_jax.answering import EvalExample, EvalTask
from frozen_jax.batching import ENCODER_INPUTS, Ragged, TaskTokens, Tokens

Prepare = Callable[[Sequence[Mapping[str, Any]], str, int], Mapping[str, Sequence[Mapping[str, Any]]]]
Tokenize = Callable[[Mapping[str, Any]], Tokens]  # an example's inputs → tokens
CHOICES = "choose_among"  # texts of which the likeliest is to be the answer, where a method lets one be chosen
SHOWN = ("passages", "candidates")  # what methods put beside a question, and people want to see beside its answer


@dataclasses.dataclass(frozen=True)
class Preparing:
    """How examples are prepared and become tokens.

    Attributes:
        prepare: of the method.
        length: the most tokens of inputs.
        inputs: of an example to tokens.
        encoder_inputs: inputs to what an encoder reads; gives None where it reads the inputs.
        choice: an answer that can be chosen to tokens.
    """

    prepare: Prepare
    length: int
    inputs: Tokenize
    encoder_inputs: Callable[[str], Tokens | None]
    choice: Callable[[str], Tokens]

    def eval_tasks(self, task: EvalTask) -> list[EvalTask]:
        """Prepares the examples of a split.

        Args:
            task: the split as the task has it.

        Returns:
            The same with other inputs; several, with names of their own, if the method makes several sets.

        Raises:
            UserError: as the method; if it makes longer inputs than there may be.
        """
        given = [{**texts(example), "task": task.name, "index": example.index} for example in task.examples]
        sets = self.prepare(given, task.split, self.length)
        return [
            dataclasses.replace(
                task,
                name=task.name + suffix,
                examples=[self._example(old, new) for old, new in zip(task.examples, examples, strict=True)],
            )
            for suffix, examples in sets.items()
        ]

    def train_tokens(self, task: EvalTask, rate: float) -> TaskTokens:
        """Prepares training examples.

        Args:
            task: the training split as the task has it.
            rate: of the task in its mixture.

        Returns:
            Their tokens.

        Raises:
            UserError: as `eval_tasks`.
        """
        (found,) = self.eval_tasks(task)
        return as_tokens(found, rate)

    def _example(self, old: EvalExample, new: Mapping[str, Any]) -> EvalExample:
        tokens, text = self.inputs(new), shown(new["inputs"])
        return dataclasses.replace(
            old,
            inputs=tokens,
            inputs_text=text,
            choices={text: self.choice(text) for text in new.get(CHOICES, ())} or old.choices,
            raw={**old.raw, **{name: new[name] for name in ("question", *SHOWN) if name in new}},
            encoder_inputs=self.encoder_inputs(text),
        )


def as_tokens(task: EvalTask, rate: float) -> TaskTokens:
    """Examples as training takes them.

    Args:
        task: whose examples.
        rate: of the task in its mixture.

    Returns:
        Their tokens.
    """
    features = {
        "inputs": Ragged.from_sequences(example.inputs for example in task.examples),
        "targets": Ragged.from_sequences(example.targets for example in task.examples),
    }
    read = [example.encoder_inputs for example in task.examples]
    if sequences := [tokens for tokens in read if tokens is not None]:
        features[ENCODER_INPUTS] = Ragged.from_sequences(sequences)
    return TaskTokens(task.name, features, rate)


def texts(example: EvalExample) -> dict[str, Any]:
    """An example as text.

    Args:
        example: with what seqio gave.

    Returns:
        Its inputs and targets, and all else that is a text or a list of texts.
    """
    found = {name: _decoded(value) for name, value in example.raw.items()}
    others = {name: value for name, value in found.items() if value is not None}
    return {**others, "inputs": example.inputs_text, "targets": example.targets_text}


def _decoded(value: Any) -> Any:
    """What seqio holds as bytes; None of numbers. What a method has added is no longer seqio's."""
    if isinstance(value, list | str):
        return value
    found = np.asarray(value)
    if found.dtype.kind not in "SO":
        return None
    return found.item().decode() if found.ndim == 0 else [text.decode() for text in found.tolist()]


def shown(inputs: str | Sequence[str]) -> str:
    """Inputs in one text.

    Args:
        inputs: a text, or those of several passages.

    Returns:
        The text, or all of them on lines of their own.
    """
    return inputs if isinstance(inputs, str) else "\n".join(inputs)
