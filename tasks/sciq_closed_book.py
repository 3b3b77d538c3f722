"""SciQ, closed-book: a question from a science examination, without its passage and without answers to choose from.

A record of the source, see `tasks/sciq.py`:

    question        "What gas do plants take from the air to make sugar?"
    correct_answer  "carbon dioxide"
    distractor1     "oxygen"
    support         "In their leaves plants turn water and carbon dioxide into sugar ..."

and the example made of it:

    inputs   "What gas do plants take from the air to make sugar?"
    targets  "carbon dioxide"
    answers  ["carbon dioxide"]

Metrics are exact match and F1. There is one spelling of each answer, so that exact match is stricter here than people
would be.

Source and splits are those of `tasks/sciq.py`, record by record, CARVED OUT OF SCIQ'S VALIDATION SET: 500 train, 200
validation, 300 test. What was trained on the one task may be tested on the other.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import seqio

from frozen_jax.text_metrics import squad, squad_postprocessor
from tasks import sciq
from tasks.common import OUTPUT_FEATURES, PREPROCESSORS, Example, source


@functools.cache
def examples() -> dict[str, list[Example]]:
    """The questions as examples.

    Returns:
        The examples of each split.
    """
    return {split: [example(record) for record in members] for split, members in sciq.records().items()}


def example(record: Mapping[str, Any]) -> Example:
    """The example made of one record.

    Args:
        record: of the source; `sciq.must_not_leak` says what keys its split.

    Returns:
        The example.
    """
    answer = record["correct_answer"].strip()
    return {"inputs": record["question"].strip(), "targets": answer, "answers": [answer]}


TASK = seqio.TaskRegistry.add(
    "sciq_closed_book_from_validation",
    source=source(examples, sizes={"train": 500, "validation": 200, "test": 300}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=squad_postprocessor,
    metric_fns=[squad],
)
