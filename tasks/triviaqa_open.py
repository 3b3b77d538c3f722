"""TriviaQA in the open domain, from TensorFlow Datasets: answer a quiz question (Joshi et al. 2017).

A record of `trivia_qa/unfiltered.nocontext`, in our own words, without the fields that are not read:

    question  "Which river was spanned by Lantern Bridge?"
    answer    {"value": "River Aln", "aliases": ["River Aln", "Aln"], "normalized_aliases": ["river aln", "aln"], ...}

and the example made of it:

    inputs   "Which river was spanned by Lantern Bridge?"
    targets  "River Aln"
    answers  ["River Aln", "Aln", "river aln", "aln"]

Both the aliases and their normalised forms are right answers: normalised, they have lost signs such as the stroke in
"AC/DC". Metrics normalise as SQuAD's official script does, which TriviaQA's differs from in rare signs alone.

Test is the official validation set, 11,313 questions, on which figures of the open domain are reported, since the
answers of the official test set are not public; train is the first 90% of the official training set of 87,622
questions, in TFDS's order, and validation the rest. No passage is named as gold: one that contains an answer is a good
one (`frozen_jax.retrieval.recall.has_answer`).

The corpus is that of `tasks/nq_open.py`. For the place of TFDS's data see `tasks.tfds`. This task alone is closed-book.
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
    answer = record["answer"]
    spellings = tf.concat([answer["value"][None], answer["aliases"], answer["normalized_aliases"]], axis=0)
    return {
        "inputs": tf.strings.strip(record["question"]),
        "targets": tf.strings.strip(answer["value"]),
        "answers": tf.unique(spellings).y,
    }


TASK = tfds.add(
    "tfds_triviaqa_open", "trivia_qa/unfiltered.nocontext:1.1.0", example, [squad], SPLITS, squad_postprocessor
)
