"""A split never tears apart what shares a text, and depends on the texts alone."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.splits import LARGE, SMALL, SPLITS, HeldOut, assign_splits, carve, normalize, official


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("A Film!", "a film"),
        ("  two\tspaces\n", "two spaces"),
        ("don't", "don t"),
        ("snake_case", "snake case"),
        ("ﬁne Ｆｉｌｍ", "fine film"),  # a ligature and full-width letters
        ("Škoda 3", "škoda 3"),
        ("...", "..."),  # nothing would be left of it
    ],
)
def test_normalize(text, same):
    assert normalize(text) == same


records = st.lists(st.lists(st.sampled_from([str(i) for i in range(40)]), min_size=1, max_size=3), max_size=60)


@given(records, st.sampled_from([LARGE, SMALL, HeldOut(0.0, 1.0)]))
def test_no_text_stands_in_two_splits(texts, held_out):
    splits = assign_splits(texts, held_out)
    found = {split: {t for ts, s in zip(texts, splits, strict=True) if s == split for t in ts} for split in SPLITS}
    assert len(found["train"] | found["validation"] | found["test"]) == sum(map(len, found.values()))
    assert splits.count("test") <= round(held_out.test * len(texts))
    assert splits.count("validation") <= round(held_out.validation * len(texts))


@given(records, st.randoms(use_true_random=False))
def test_the_order_of_the_file_does_not_matter(texts, shuffler: random.Random):
    order = list(range(len(texts)))
    shuffler.shuffle(order)
    splits, shuffled = assign_splits(texts, SMALL), assign_splits([texts[i][::-1] for i in order], SMALL)
    assert [splits[i] for i in order] == shuffled


def test_single_records_fill_the_splits_exactly():
    splits = assign_splits([[f"text {i}"] for i in range(1000)], SMALL)
    assert [splits.count(split) for split in SPLITS] == [500, 200, 300]


def test_a_chain_stays_together():
    texts = [["a", "b"], ["b", "c"], ["C!", "d"], ["e"], ["f"], ["g"], ["h"], ["i"], ["j"], ["k"]]
    for held_out in (SMALL, LARGE, HeldOut(0.5, 0.5)):
        assert len(set(assign_splits(texts, held_out)[:3])) == 1


def test_a_group_too_large_to_hold_out_is_train():
    texts = [["one", str(i)] for i in range(60)] + [[f"alone {i}"] for i in range(40)]
    splits = assign_splits(texts, SMALL)
    assert set(splits[:60]) == {"train"}
    assert splits.count("test") == 30


def test_splits_are_golden():
    # Written down once: a trained module must not meet its training examples again in a later release's test split.
    found = assign_splits([[f"text {i}"] for i in range(10)], SMALL)
    assert {split: [i for i, s in enumerate(found) if s == split] for split in SPLITS} == {
        "train": [1, 2, 4, 5, 8],
        "validation": [0, 9],
        "test": [3, 6, 7],
    }


def test_carve_keeps_examples_and_their_order():
    splits = carve(list(range(100)), [[f"text {i}"] for i in range(100)], SMALL)
    assert sorted(itertools.chain.from_iterable(splits.values())) == list(range(100))
    assert all(members == sorted(members) for members in splits.values())


def words(record):
    return record.split("+")


@given(*[st.lists(st.sampled_from([f"{i}+{j}" for i in "abcdefgh" for j in range(9)]), max_size=20)] * 3, st.booleans())
def test_official_splits_share_no_text_and_lose_nothing_else(train, validation, test, has_validation):
    splits = official(train, test, words, validation if has_validation else None)
    found = {split: {word for record in members for word in words(record)} for split, members in splits.items()}
    assert len(found["train"] | found["validation"] | found["test"]) == sum(map(len, found.values()))
    assert splits["test"] == test
    kept, taken = [], found["test"] | (found["validation"] if has_validation else set())
    for record in train if has_validation else [*splits["train"], *splits["validation"]]:
        kept += [record] if taken.isdisjoint(words(record)) else []
    assert sorted(kept) == sorted(splits["train"] if has_validation else splits["train"] + splits["validation"])


def test_official_splits_drop_what_they_share():
    splits = official(["a+1", "b+2", "c+3", "d+4"], ["A!+9"], words, ["b+8", "e+9"])
    assert splits == {"train": ["c+3", "d+4"], "validation": ["b+8"], "test": ["A!+9"]}


def test_a_validation_split_is_carved_out_of_what_is_left_of_train():
    train = [f"text {i}" for i in range(110)]
    splits = official(train, train[:10], lambda record: [record])
    assert [len(splits[split]) for split in SPLITS] == [90, 10, 10]
    assert splits["test"] == train[:10]
    assert sorted([*splits["train"], *splits["validation"]]) == sorted(train[10:])
