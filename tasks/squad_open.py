"""SQuAD in the open domain: answer a question, whose paragraph has to be found first.

A record of the source, see `tasks/squad.py`:

    title          "Oxford"
    context        "Oxford lies where the rivers Thames and Cherwell meet ..."
    question       "Which rivers meet at Oxford?"
    answers        [{"text": "Thames and Cherwell", "answer_start": 28}, {"text": "the rivers ...", ...}]
    is_impossible  false

and the example made of it:

    inputs   "Which rivers meet at Oxford?"
    targets  "Thames and Cherwell"
    answers  ["Thames and Cherwell", "the rivers Thames and Cherwell"]
    gold     ["Oxford#5b0c9d11"]

`gold` names the paragraph in the corpus `squad` of `frozen_jax.retrieval.corpora`, 1,204 paragraphs of 35 articles: so
few that they are easily found. The questions were written by people who saw the paragraph, and some ("What did he do
then?") mean nothing without it. This task alone is closed-book.

Source: the 5,928 answerable questions of SQuAD 2.0's development set (Rajpurkar et al. 2018; CC BY-SA 4.0), in the
splits of `tasks/squad.py`, CARVED OUT OF THAT DEVELOPMENT SET: 4,296 train, 498 validation, 1,134 test. What is said
there of the few articles holds here too.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import seqio

from frozen_jax.retrieval.corpora import paragraph_id
from frozen_jax.text_metrics import squad as metric
from frozen_jax.text_metrics import squad_postprocessor
from tasks import squad
from tasks.common import OUTPUT_FEATURES, PREPROCESSORS, Example, source


@functools.cache
def examples() -> dict[str, list[Example]]:
    """The answerable questions.

    Returns:
        The examples of each split.
    """
    return {split: [example(record) for record in members] for split, members in squad.answerable().items()}


def example(record: Mapping[str, Any]) -> Example:
    """The example made of one record.

    Args:
        record: of an answerable question, as `squad.records` gives it; `squad.must_not_leak` says what keys its split.

    Returns:
        The example.
    """
    asked = {"inputs": record["question"].strip(), "gold": [paragraph_id(record["title"], record["context"])]}
    answered = squad.example(record)
    return {**asked, "targets": answered["targets"], "answers": answered["answers"]}


TASK = seqio.TaskRegistry.add(
    "squad_open_from_validation",
    source=source(examples, sizes={"train": 4296, "validation": 498, "test": 1134}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    postprocess_fn=squad_postprocessor,
    metric_fns=[metric],
)
