"""GLUE (Wang et al. 2018) from TensorFlow Datasets: `tfds_glue_cola`, `tfds_glue_sst2` and so on.

A record of `glue/rte`, in our own words:

    sentence1  "The shop opened in 1950 and was sold in 1990."
    sentence2  "The shop was opened in 1990."
    label      1
    idx        7

and the example made of it:

    inputs     "Does the second sentence follow from the first, yes or no? Sentence 1: The shop opened in 1950 and was
                sold in 1990. Sentence 2: The shop was opened in 1990."
    targets    "no"
    choices    ["yes", "no"]

STS-B has a number between 0 and 5 for a label. It is rounded to the nearest fifth and written out, "3.8", as Raffel et
al. (2020) did, and the LM writes it too: there are no choices. The other wordings are ours.

Train and validation are the official ones. TFDS's test splits are LEFT OUT: their labels are not public, and stand
there as -1. What is reported is reported on validation, so set `train.report_split = "validation"`. `tfds_glue_mnli` is
validated on the matched genres, and has `validation_mismatched` beside; `tfds_glue_mnli_matched` and
`tfds_glue_mnli_mismatched` have a validation split alone. For the data's place see `tasks.tfds`.
"""

from __future__ import annotations

import tensorflow as tf

from frozen_jax.text_metrics import accuracy, correlations, f1_of_yes, matthews_correlation
from tasks import tfds
from tasks.tfds import Record, labelled

SPLITS = {"train": "train", "validation": "validation"}
VALIDATION = {"validation": "validation"}
MNLI_SPLITS = {
    "train": "train",
    "validation": "validation_matched",
    "validation_mismatched": "validation_mismatched",
}

SENTENCES = "Sentence 1: {sentence1} Sentence 2: {sentence2}"
ENTAILMENT = f"Does the second sentence follow from the first, yes or no? {SENTENCES}"
MNLI = labelled(
    "Does the hypothesis follow from the premise, yes, no or maybe? Premise: {premise} Hypothesis: {hypothesis}",
    ["yes", "maybe", "no"],
)


def similarity(record: Record) -> dict[str, tf.Tensor]:
    """The example of STS-B.

    Args:
        record: of the source.

    Returns:
        The example.
    """
    fifths = tf.round(record["label"] * 5) / 5
    return {
        "inputs": tfds.fill(f"How similar are these two sentences, from 0.0 to 5.0? {SENTENCES}", record),
        "targets": tf.strings.as_string(fifths, precision=1),
    }


DATA_SETS = {  # task and config of TFDS → examples, metrics, splits
    "cola": (
        labelled("Is this sentence acceptable English, yes or no? {sentence}", ["no", "yes"]),
        [matthews_correlation, accuracy],
        SPLITS,
    ),
    "sst2": (
        labelled(
            "Is the sentiment of this movie review sentence positive or negative? {sentence}", ["negative", "positive"]
        ),
        [accuracy],
        SPLITS,
    ),
    "mrpc": (
        labelled(f"Do these two sentences mean the same thing, yes or no? {SENTENCES}", ["no", "yes"]),
        [accuracy, f1_of_yes],
        SPLITS,
    ),
    "qqp": (
        labelled(
            "Do these two questions ask the same thing, yes or no? Question 1: {question1} Question 2: {question2}",
            ["no", "yes"],
        ),
        [accuracy, f1_of_yes],
        SPLITS,
    ),
    "stsb": (similarity, [correlations], SPLITS),
    "mnli": (MNLI, [accuracy], MNLI_SPLITS),
    "mnli_matched": (MNLI, [accuracy], VALIDATION),
    "mnli_mismatched": (MNLI, [accuracy], VALIDATION),
    "qnli": (
        labelled(
            "Does the sentence answer the question, yes or no? Question: {question} Sentence: {sentence}",
            ["yes", "no"],
        ),
        [accuracy],
        SPLITS,
    ),
    "rte": (labelled(ENTAILMENT, ["yes", "no"]), [accuracy], SPLITS),
    "wnli": (labelled(ENTAILMENT, ["no", "yes"]), [accuracy], SPLITS),
}

TASKS = [
    tfds.add(f"tfds_glue_{config}", f"glue/{config}:2.0.0", make, metrics, splits)
    for config, (make, metrics, splits) in DATA_SETS.items()
]
