"""Train, validation and test for data sets that come without them, or with some, so that no text stands on two sides.

Each record names the texts that must not leak (a review; a question and its articles). Texts are compared normalised:
Unicode NFKC, lower case, runs of anything but letters and digits as one space. Records that share such a text, directly
or through a chain of others, form a group, and a group is never torn. Groups are put in the order of the SHA-256 of
their alphabetically first text; in that order they fill the test split, then the validation split, as long as they fit
into what is left of it; all others are training examples. So the split depends on nothing but the texts: not on the
order of the file, not on a random generator, not on the task that asks.

Official splits are not always free of each other. `official` keeps the test split whole and drops from the others what
shares a text with it.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

Example = TypeVar("Example")
Record = TypeVar("Record")

SPLITS = ("train", "validation", "test")


class HeldOut(NamedTuple):
    """The shares of the examples that are held out.

    Attributes:
        validation: for choices made while developing, such as which checkpoint to keep.
        test: for the figures that are reported.
    """

    validation: float
    test: float


LARGE = HeldOut(validation=0.1, test=0.1)  # thousands of examples
SMALL = HeldOut(validation=0.2, test=0.3)  # hundreds: a smaller test split would tell methods apart no more


def normalize(text: str) -> str:
    """The form in which texts are compared.

    Args:
        text: any text.

    Returns:
        Its letters and digits in lower case, with single spaces; the bare text if it has none of these.
    """
    words = re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).lower()).strip()
    return words or text.strip()


def assign_splits(must_not_leak: Sequence[Sequence[str]], held_out: HeldOut) -> list[str]:
    """Gives each record its split.

    Args:
        must_not_leak: for each record, at least one text that must not stand in two splits.
        held_out: the shares of validation and test; at most as many records are held out.

    Returns:
        For each record one of `SPLITS`.
    """
    groups = _groups([[normalize(text) for text in texts] for texts in must_not_leak])
    splits = ["train"] * len(must_not_leak)
    room = {"test": round(held_out.test * len(splits)), "validation": round(held_out.validation * len(splits))}
    for members in sorted(groups.values(), key=lambda members: members.digest):
        split = next((split for split, left in room.items() if len(members.records) <= left), None)
        if split is not None:
            room[split] -= len(members.records)
            for record in members.records:
                splits[record] = split
    return splits


def carve(
    examples: Sequence[Example], must_not_leak: Sequence[Sequence[str]], held_out: HeldOut
) -> dict[str, list[Example]]:
    """Sorts examples into their splits.

    Args:
        examples: in the order of the file, which each split keeps.
        must_not_leak: see `assign_splits`.
        held_out: see `assign_splits`.

    Returns:
        The examples of each of `SPLITS`.
    """
    splits: dict[str, list[Example]] = {split: [] for split in SPLITS}
    for example, split in zip(examples, assign_splits(must_not_leak, held_out), strict=True):
        splits[split].append(example)
    return splits


def official(
    train: Sequence[Record],
    test: Sequence[Record],
    must_not_leak: Callable[[Record], Sequence[str]],
    validation: Sequence[Record] | None = None,
) -> dict[str, list[Record]]:
    """Keeps official splits apart, and carves a validation split where there is none to spare.

    Args:
        train: the official training set.
        test: what figures are reported on, with public labels: the official test set, or else validation set.
        must_not_leak: the texts of a record that must not stand in two splits, at least one.
        validation: the official one, where it is not `test`; otherwise a tenth of `train` is carved out.

    Returns:
        The records of each of `SPLITS`: all of `test`; of `validation` those that share no text with it; of `train`
        those that share none with either.
    """
    train = _apart(train, test, must_not_leak)
    if validation is None:
        carved = carve(train, [must_not_leak(record) for record in train], HeldOut(LARGE.validation, 0.0))
        return {**carved, "test": list(test)}
    validation = _apart(validation, test, must_not_leak)
    return {"train": _apart(train, validation, must_not_leak), "validation": validation, "test": list(test)}


def _apart(
    records: Sequence[Record], others: Sequence[Record], must_not_leak: Callable[[Record], Sequence[str]]
) -> list[Record]:
    """The records that share no text with the others."""

    def texts(record: Record) -> set[str]:
        return {normalize(text) for text in must_not_leak(record)}

    taken = {text for other in others for text in texts(other)}
    return [record for record in records if taken.isdisjoint(texts(record))]


class _Group(NamedTuple):
    digest: str
    records: list[int]


def _groups(texts: Sequence[Sequence[str]]) -> dict[str, _Group]:
    """Records joined by shared texts; the key is the group's alphabetically first text."""
    parent: dict[str, str] = {}
    for first, *others in texts:
        root = _root(parent, first)
        for text in others:
            root = _join(parent, root, _root(parent, text))
    groups: dict[str, _Group] = {}
    for record, (first, *_) in enumerate(texts):
        root = _root(parent, first)
        group = groups.setdefault(root, _Group(hashlib.sha256(root.encode()).hexdigest(), []))
        group.records.append(record)
    return groups


def _root(parent: dict[str, str], text: str) -> str:
    """The text that stands for `text`'s group; the path to it is shortened on the way."""
    parent.setdefault(text, text)
    while parent[text] != text:
        parent[text] = parent[parent[text]]
        text = parent[text]
    return text


def _join(parent: dict[str, str], one: str, other: str) -> str:
    first, second = sorted((one, other))
    parent[second] = first
    return first
