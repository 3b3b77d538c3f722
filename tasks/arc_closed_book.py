r"""ARC's easy questions, closed-book: a question from a school exam without answers to choose from.

A record of the source, see `tasks/arc.py`:

    query    "Question: What does a warm hand do to an ice cube?\nAnswer:"
    choices  ["It melts it.", "It breaks it.", "It paints it.", "It lifts it."]
    gold     0

and the example made of it:

    inputs   "What does a warm hand do to an ice cube?"
    targets  "It melts it."
    answers  ["It melts it."]

Some questions mean little without their choices. Those that speak of them are left out: where "of these", "following",
"listed", "which statement", "which sentence" or "which best" stands in the question, 1,095 of 5,186. Many of the others
still have more than one good answer ("Which fuel will run out?"), of which one is right here, in one spelling: figures
of different methods can be compared, but 1.0 is out of anybody's reach.

Metrics are exact match and F1. Source and splits are those of `arc_easy`, without what is left out: 1,752 train, 457
validation and 1,882 test questions. What was trained on the one task may be tested on the other.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import seqio

from frozen_jax.text_metrics import squad, squad_postprocessor
from tasks import arc, choices, olmo
from tasks.common import OUTPUT_FEATURES, PREPROCESSORS, Example, source

OF_CHOICES = re.compile(r"\b(of these|following|listed|which (statement|sentence|best))\b", re.IGNORECASE)


@functools.cache
def examples() -> dict[str, list[Example]]:
    """The easy questions that do not speak of choices.

    Returns:
        The examples of each split.
    """
    return {
        split: [example(record) for record in members if record["set"] == "arc_easy" and stands_alone(record)]
        for split, members in arc.records().items()
    }


def stands_alone(record: Mapping[str, Any]) -> bool:
    """Whether a question can be asked without its choices.

    Args:
        record: of the source.

    Returns:
        Whether it speaks of none.
    """
    return not OF_CHOICES.search(olmo.question(record))


def example(record: Mapping[str, Any]) -> Example:
    """The example made of one record.

    Args:
        record: of the source; `arc.must_not_leak` says what keys its split.

    Returns:
        The example.
    """
    answer = choices.tidy(record["choices"][record["gold"]])
    return {"inputs": choices.tidy(olmo.question(record)), "targets": answer, "answers": [answer]}


TASK = seqio.TaskRegistry.add(
    "arc_easy_closed_book",
    source=source(examples, sizes={"train": 1752, "validation": 457, "test": 1882}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=squad_postprocessor,
    metric_fns=[squad],
)
