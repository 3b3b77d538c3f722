"""SuperGLUE (Wang et al. 2019) from TensorFlow Datasets: `tfds_super_glue_boolq` and so on.

A record of `super_glue/wsc.fixed`, in our own words:

    text         "The dog barked at the cat because it was scared of the cat ."
    span1_text   "The dog"
    span1_index  0
    span2_text   "it"
    span2_index  7                                               words before it
    label        1
    idx          3

and the example made of it:

    inputs       "Does *it* stand for The dog, yes or no? The dog barked at the cat because *it* was scared of the
                  cat ."
    targets      "yes"
    choices      ["no", "yes"]

COPA chooses between the record's two sentences, ReCoRD among all entities of the passage; `answers` holds those that
are right, and the first of them is the target. In MultiRC each answer is judged on its own, and `question` says which
belong together. The wordings are ours; questions stand before passages, so that a cut takes from the passage.

Train and validation are the official ones. TFDS's test splits are LEFT OUT: their labels are not public, and stand
there as -1. What is reported is reported on validation, so set `train.report_split = "validation"`. For the data's
place see `tasks.tfds`.
"""

from __future__ import annotations

import tensorflow as tf

from frozen_jax.text_metrics import (
    accuracy,
    mean_class_f1,
    multirc,
    multirc_postprocessor,
    squad,
    squad_postprocessor,
)
from tasks import tfds
from tasks.tfds import Record, fill, labelled

SPLITS = {"train": "train", "validation": "validation"}
NO_YES = ["no", "yes"]
PREMISE = "Premise: {premise} Hypothesis: {hypothesis}"


def copa(record: Record) -> dict[str, tf.Tensor]:
    """The example of COPA.

    Args:
        record: of the source.

    Returns:
        The example.
    """
    choices = tf.strings.strip(tf.stack([record["choice1"], record["choice2"]]))
    return {
        "inputs": fill("What is the likelier {question} of this: {choice1} or: {choice2} This: {premise}", record),
        "targets": tf.gather(choices, record["label"]),
        "choices": choices,
    }


def multirc_example(record: Record) -> dict[str, tf.Tensor]:
    """The example of MultiRC.

    Args:
        record: of the source.

    Returns:
        The example, and which question it belongs to.
    """
    template = (
        "Is this answer to the question right, yes or no? Question: {question} Answer: {answer} Text: {paragraph}"
    )
    paragraph = tf.strings.regex_replace(record["paragraph"], r"</?br? ?/?>", " ")  # as some versions have it
    numbers = [tf.strings.as_string(record["idx"][part]) for part in ("paragraph", "question")]
    return {**labelled(template, NO_YES)({**record, "paragraph": paragraph}), "question": tf.strings.join(numbers, "-")}


def record_example(record: Record) -> dict[str, tf.Tensor]:
    """The example of ReCoRD.

    Args:
        record: of the source.

    Returns:
        The example.
    """
    highlights = tf.strings.regex_replace(record["passage"], r"\s*@highlight\s*", " ")
    template = "Which name stands for @placeholder? {query} Text: {passage}"
    answers = _different(record["answers"])
    return {
        "inputs": fill(template, {"query": record["query"], "passage": highlights}),
        "targets": answers[0],
        "choices": _different(record["entities"]),
        "answers": answers,
    }


def wsc(record: Record) -> dict[str, tf.Tensor]:
    """The example of WSC, the pronoun marked, since the same word may stand there twice.

    Args:
        record: of the source.

    Returns:
        The example.
    """
    words, length = tf.strings.split(record["text"]), tf.size(tf.strings.split(record["span2_text"]))
    start, end = record["span2_index"], record["span2_index"] + length
    left, pronoun, right = (_joined(part) for part in (words[:start], words[start:end], words[end:]))
    text = tf.strings.join([left, tf.strings.join(["*", pronoun, "*"]), right], " ")
    template = "Does *{span2_text}* stand for {span1_text}, yes or no? {text}"
    return labelled(template, NO_YES)({**record, "text": text})


def _joined(words: tf.Tensor) -> tf.Tensor:
    return tf.strings.reduce_join(words, separator=" ")


def _different(texts: tf.Tensor) -> tf.Tensor:
    """Texts that differ in more than spaces, each once, in their order."""
    return tf.unique(tf.strings.strip(tf.strings.regex_replace(texts, r"\s+", " "))).y


DATA_SETS = {  # config of TFDS → examples, metrics, postprocessor
    "boolq": (
        labelled("Answer the question from the passage, yes or no. Question: {question} Passage: {passage}", NO_YES),
        [accuracy],
        None,
    ),
    "cb": (
        labelled(f"Does the hypothesis follow from the premise, yes, no or maybe? {PREMISE}", ["yes", "no", "maybe"]),
        [accuracy, mean_class_f1],
        None,
    ),
    "copa": (copa, [accuracy], None),
    "multirc": (multirc_example, [multirc], multirc_postprocessor),
    "record": (record_example, [squad], squad_postprocessor),
    "rte": (
        labelled(f"Does the hypothesis follow from the premise, yes or no? {PREMISE}", ["yes", "no"]),
        [accuracy],
        None,
    ),
    "wic": (
        labelled(
            'Does the word "{word}" mean the same in both sentences, yes or no? '
            "Sentence 1: {sentence1} Sentence 2: {sentence2}",
            NO_YES,
        ),
        [accuracy],
        None,
    ),
    "wsc.fixed": (wsc, [accuracy], None),
}

TASKS = [
    tfds.add(
        f"tfds_super_glue_{config.removesuffix('.fixed')}",
        f"super_glue/{config}:1.0.2",
        make,
        metrics,
        SPLITS,
        postprocessor,
    )
    for config, (make, metrics, postprocessor) in DATA_SETS.items()
]
