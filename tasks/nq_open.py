"""NQ-open from TensorFlow Datasets: answer what somebody asked a search engine (Lee et al. 2019).

A record of `natural_questions_open`, in our own words:

    question  "who built the lantern bridge"
    answer    ["John Smith", "Smith"]

and the example made of it:

    inputs   "who built the lantern bridge"
    targets  "John Smith"
    answers  ["John Smith", "Smith"]

Test is the official validation set, 3,610 questions, on which figures of NQ-open are reported; train is the first 90%
of the official training set of 87,925 questions, in TFDS's order, and validation the rest. Nobody has looked whether
questions of the one stand in other words in the other. No passage is named as gold: one that contains an answer is a
good one (`frozen_jax.retrieval.recall.has_answer`).

The corpus is Wikipedia of December 2018 in 21,015,324 passages of 100 words, DPR's `psgs_w100.tsv`: see
gin/tasks/nq_open.gin. For the place of TFDS's data see `tasks.tfds`. This task alone is closed-book.
"""

from __future__ import annotations

import tensorflow as tf

from frozen_jax.text_metrics import squad, squad_postprocessor
from tasks import tfds
from tasks.tfds import Record

SPLITS = {"train": "train[:90%]", "validation": "train[90%:]", "test": "validation"}


def example(record: Record) -> dict[str, tf.Tensor]:
    """The example made of one record.

    Args:
        record: of the source.

    Returns:
        The example.
    """
    return {
        "inputs": tf.strings.strip(record["question"]),
        "targets": tf.strings.strip(record["answer"][0]),
        "answers": record["answer"],
    }


TASK = tfds.add("tfds_nq_open", "natural_questions_open:1.0.0", example, [squad], SPLITS, squad_postprocessor)
