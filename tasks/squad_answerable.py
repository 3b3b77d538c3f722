"""SQuAD 2.0 answerability: does a paragraph answer the question that was asked about it?

A record of the source, in our own words (`tasks/squad.py` shows all of its fields):

    title          "Oxford"
    context        "Oxford lies where the rivers Thames and Cherwell meet ..."
    question       "Which rivers meet at Cambridge?"
    answers        []
    is_impossible  true

and the example made of it:

    inputs     "Does the passage answer the question, yes or no? Question: Which rivers meet at Cambridge? Passage:
                Oxford lies where the rivers Thames and Cherwell meet ..."
    targets    "no"
    choices    ["no", "yes"]

The question stands first, so that a cut takes from the passage. A cut that takes the answer away leaves "yes" standing:
allow enough tokens.

Source: all 11,873 questions of SQuAD 2.0's development set (Rajpurkar et al. 2018; CC BY-SA 4.0), in the splits of
`tasks/squad.py`, CARVED OUT OF THAT DEVELOPMENT SET: 8,584 train, 1,037 validation, 2,252 test. No article, paragraph
or question stands in two splits, neither of this task nor across the two: a module trained on one may be tested on the
other. 50% of the questions can be answered. What is said there of the few articles holds here too.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import seqio

from frozen_jax.text_metrics import accuracy, mean_class_recall
from tasks import squad
from tasks.common import OUTPUT_FEATURES, PREPROCESSORS, Example, source

CHOICES = ["no", "yes"]


@functools.cache
def examples() -> dict[str, list[Example]]:
    """All questions.

    Returns:
        The examples of each split.
    """
    return {split: [example(record) for record in members] for split, members in squad.records().items()}


def example(record: Mapping[str, Any]) -> Example:
    """The example made of one record.

    Args:
        record: as `squad.records` gives it; `squad.must_not_leak` says what keys its split.

    Returns:
        The example.
    """
    instruction = "Does the passage answer the question, yes or no?"
    inputs = f"{instruction} Question: {record['question'].strip()} Passage: {record['context']}"
    return {"inputs": inputs, "targets": CHOICES[not record["is_impossible"]], "choices": CHOICES}


TASK = seqio.TaskRegistry.add(
    "squad_answerable_from_validation",
    source=source(examples, sizes={"train": 8584, "validation": 1037, "test": 2252}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    metric_fns=[accuracy, mean_class_recall],
)
