"""Plain language modelling over Wikipedia: go on with the text of an article.

A record of the source, in our own words, without the columns that are not read:

    url   "/wiki/River_Thames"
    text  "The Thames is a river in the south of England.[1][2] It rises in Gloucestershire and flows through ..."

and one of the examples made of it, here of 8 words a side in place of 36:

    inputs     "The Thames is a river in the south"
    targets    "of England. It rises in Gloucestershire and flows"

An article is cut into consecutive pieces of 72 words, the first 36 of which are the inputs and the next 36 the targets.
Words stand between spaces or line breaks, and one space stands between them afterwards; tokens would depend on the LM.
References such as [1] and [citation needed] are left out first, as they were in C4, from which T5 learnt. Nothing else
is lost but the end of an article that does not fill a piece: 1.4% of all words, and 154 articles whole. With T5's
vocabulary 36 words are 52 tokens, more than 70 one time in twenty: at 64 tokens a side less than 2% of the tokens are
cut.

The targets have no end-of-sequence token, since the text goes on. The inputs have one: T5's encoder never saw a text
without, and the untrained titler T5 gives the targets -5.6 nats a token with it, -6.0 without (96 validation pieces).

There are no metrics. What counts is the log-likelihood of the targets, `nats_per_token`, which is reported for every
task.

Source: 5,668 articles of English Wikipedia (CC BY-SA), 94 million characters of plain text, in the wheel insigen; 138
are copies of others under another name and left out. The splits are ours (`tasks.splits`), by article, keyed by its
title and its text: 5,308 articles are train, 111 validation, 111 test, which make 183,429, 4,017 and 2,973 pieces. More
held out would only take longer to score. Articles quote each other all the same: of the held-out pieces 2% share 20
words in a row with some article of train. Pieces of one article are alike: intervals over pieces are narrower than they
should be.

Only the articles' splits are kept in memory. The file is read anew, one article at a time, whenever a split is asked
for: 4 s of one core, and less than 20 MiB at any time beside TensorFlow's own. The first time it is read once more, to
compare the articles: 7 s. Making T5's tokens of all train pieces takes 100 s and 270 MiB.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping

import seqio
import tensorflow as tf

from frozen_jax import wheels
from frozen_jax.batching import FEATURES
from frozen_jax.data import LMVocabulary
from tasks.common import OUTPUT_FEATURES, PREPROCESSORS, Example
from tasks.splits import SPLITS, HeldOut, assign_splits, normalize

WHEEL, MEMBER = "insigen", "insigen/Data/wiki.csv"
HELD_OUT = HeldOut(validation=0.02, test=0.02)
SIZES = {"train": 183429, "validation": 4017, "test": 2973}  # pieces
WORDS = 36  # of inputs, and of targets
LONGEST_FIELD = 2**20  # characters; csv's own limit of 2**17 is too small for an article
REFERENCES = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")

GOES_ON = seqio.Feature(vocabulary=LMVocabulary(), add_eos=False)


def records() -> Iterator[dict[str, str]]:
    """Reads the articles, one at a time; of copies only the first.

    Yields:
        The records of the source, in the order of the file.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))
    seen = set()
    with wheels.open_member(WHEEL, MEMBER) as stream:
        for record in csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8", newline="")):
            digest = hashlib.sha256(record["text"].encode()).digest()
            if digest not in seen:
                seen.add(digest)
                yield record


@functools.cache
def keys() -> list[list[str]]:
    """Reads the articles to compare them.

    Returns:
        For each of the records what must not leak.
    """
    return [must_not_leak(record) for record in records()]


@functools.cache
def splits() -> list[str]:
    """Gives each article its split.

    Returns:
        For each of the records one of `SPLITS`.
    """
    return assign_splits(keys(), HELD_OUT)


def articles(split: str, length: int) -> Iterator[list[list[str]]]:
    """Reads the articles of a split, one at a time.

    Args:
        split: one of `SPLITS`.
        length: words of a piece.

    Yields:
        The pieces of one article; none of a short one.
    """
    for record, found in zip(records(), splits(), strict=True):
        if found == split:
            yield pieces(record, length)


def pieces(record: Mapping[str, str], length: int) -> list[list[str]]:
    """The pieces of one article.

    Args:
        record: of the source.
        length: words of a piece.

    Returns:
        The words of each piece, in the order of the text.
    """
    words = REFERENCES.sub("", record["text"]).split()
    return [words[start : start + length] for start in range(0, len(words) - length + 1, length)]


def example(words: list[str]) -> Example:
    """The example made of consecutive words.

    Args:
        words: as many for the inputs as for the targets.

    Returns:
        The example.
    """
    half = len(words) // 2
    return {"inputs": " ".join(words[:half]), "targets": " ".join(words[half:])}


def must_not_leak(record: Mapping[str, str]) -> list[str]:
    """What keys the split of a record.

    Args:
        record: of the source.

    Returns:
        The title of its article, without the section that the address may name, and its text: a sum of it, since all
        texts at once would take much memory.
    """
    title = urllib.parse.unquote(record["url"].partition("#")[0]).removeprefix("/wiki/")
    text = hashlib.sha256(normalize(record["text"]).encode()).hexdigest()
    return [f"title: {title}", f"text: {text}"]


def source(length: int, example: Callable[[list[str]], Example], sizes: Mapping[str, int]) -> seqio.DataSource:
    """A seqio source over the pieces of all articles, which are read when a split is iterated.

    Args:
        length: words of a piece.
        example: makes an example of the words of a piece.
        sizes: how many pieces there are, for mixing rates.

    Returns:
        The source; examples come in the order of the file.
    """

    def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        del shuffle_files, seed  # the order of training is made behind seqio, see frozen_jax.data

        def columns() -> Iterator[dict[str, list[str]]]:
            for article in articles(split, length):
                found = [example(words) for words in article]
                yield {name: [str(piece[name]) for piece in found] for name in FEATURES}

        signature = {name: tf.TensorSpec([None], tf.string) for name in FEATURES}
        return tf.data.Dataset.from_generator(columns, output_signature=signature).unbatch()

    return seqio.FunctionDataSource(dataset, splits=SPLITS, num_input_examples=dict(sizes))


TASK = seqio.TaskRegistry.add(
    "wikipedia_lm",
    source=source(2 * WORDS, example, SIZES),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES | {"targets": GOES_ON},
)
