"""Articles become consecutive pieces, each article in one split, and are read only when a split is asked for."""

import collections
import tracemalloc

import pytest

from frozen_jax import data, wheels
from frozen_jax.tokenizer import lm_tokenizer
from tasks import wikipedia
from tasks.splits import SPLITS, HeldOut, normalize
from tasks.wikipedia import WORDS

LENGTHS = {"inputs": 64, "targets": 64}
WORD = [f"word{number}" for number in range(5 * WORDS)]


def record(text, url="/wiki/A_b"):
    return {"url": url, "text": text}


def test_pieces_follow_each_other_and_only_the_end_is_lost():
    found = wikipedia.pieces(record("\n " + " \n".join(WORD)))
    text = " ".join(f"{piece['inputs']} {piece['targets']}" for piece in found)
    assert text.split() == WORD[: 4 * WORDS]
    assert {len(side.split()) for piece in found for side in piece.values()} == {WORDS}
    assert [sorted(piece) for piece in found] == [["inputs", "targets"]] * 2


def test_a_piece_that_is_just_full_is_kept_and_a_short_article_gives_none():
    assert len(wikipedia.pieces(record(" ".join(WORD[: 2 * WORDS])))) == 1
    assert wikipedia.pieces(record(" ".join(WORD[: 2 * WORDS - 1]))) == []
    assert wikipedia.pieces(record("")) == []


def test_references_are_left_out():
    text = "It is old.[1][23] It is[citation needed] long[edit] [sic], [x] and x[i].[] " + " ".join(WORD)
    (first, *_) = wikipedia.pieces(record(text))
    assert first["inputs"].startswith("It is old. It is long [sic], [x] and x[i]. word0")


def test_keys_are_the_title_without_its_section_and_the_normalised_text():
    title, text = wikipedia.must_not_leak(record("One, two.", "/wiki/Caf%C3%A9_au_lait#History"))
    assert title == "title: Café_au_lait"
    assert [text] == wikipedia.must_not_leak(record(" one TWO"))[1:]
    assert [text] != wikipedia.must_not_leak(record("one three"))[1:]


def test_articles_that_share_a_title_share_a_split(monkeypatch):
    written = [record(f"text {number}", f"/wiki/Title_{number % 20}#{number}") for number in range(100)]
    monkeypatch.setattr(wikipedia, "keys", lambda: [wikipedia.must_not_leak(article) for article in written])
    monkeypatch.setattr(wikipedia, "HELD_OUT", HeldOut(validation=0.3, test=0.3))
    found = wikipedia.splits.__wrapped__()
    assert found == found[:20] * 5
    assert [found.count(split) for split in SPLITS] == [40, 30, 30]


def test_dataset_is_that_of_the_split_in_the_order_of_the_file(monkeypatch):
    texts = [*(f"{number} " + " ".join(WORD) for number in range(9)), "too short"]
    monkeypatch.setattr(wikipedia, "records", lambda: map(record, texts))
    monkeypatch.setattr(wikipedia, "splits", lambda: ["train", "validation"] * 5)
    found = [e["inputs"].decode().split()[0] for e in wikipedia.dataset("train", False).as_numpy_iterator()]
    assert found == [name for number in range(0, 9, 2) for name in (str(number), f"word{2 * WORDS - 1}")]
    assert [len(pieces) for pieces in wikipedia.examples("validation")] == [2, 2, 2, 2, 0]
    assert list(wikipedia.dataset("test", False)) == []


def test_nothing_is_read_before_a_split_is_iterated(monkeypatch):
    monkeypatch.setattr(wheels, "open_member", lambda *_: pytest.fail("the archive was opened"))
    monkeypatch.setattr(wikipedia, "splits", lambda: pytest.fail("the articles were read"))
    assert wikipedia.TASK.num_input_examples("train") == wikipedia.SIZES["train"]
    wikipedia.dataset("train", False)


@pytest.mark.wheels
def test_articles_and_splits_are_as_written_down():
    titles = collections.defaultdict(set)
    texts = collections.defaultdict(set)
    for (title, text), split in zip(wikipedia.keys(), wikipedia.splits(), strict=True):
        titles[normalize(title)].add(split)
        texts[text].add(split)
    assert collections.Counter(wikipedia.splits()) == {"train": 5308, "validation": 111, "test": 111}
    assert len(texts) == 5530
    assert {len(found) for found in [*titles.values(), *texts.values()]} == {1}


@pytest.mark.wheels
def test_sizes_are_as_written_down():
    counted = dict.fromkeys(SPLITS, 0)
    for article, split in zip(wikipedia.records(), wikipedia.splits(), strict=True):
        counted[split] += len(wikipedia.pieces(article))
    assert counted == wikipedia.SIZES == {split: wikipedia.TASK.num_input_examples(split) for split in SPLITS}


@pytest.mark.wheels
def test_reading_holds_one_article_at_a_time():
    wikipedia.splits()
    tracemalloc.start()
    articles = wikipedia.examples("test")
    for _ in range(3):
        next(articles)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * 2**20  # the text of all of them is 90 MB


@pytest.mark.wheels
def test_batches_and_evaluation():
    (task,) = data.eval_tasks("wikipedia_lm", LENGTHS, "validation", max_examples=8)
    assert (task.split_size, len(task.examples)) == (wikipedia.SIZES["validation"], 8)
    assert not [*task.predict_metrics, *task.score_metrics]
    for example in task.examples:
        assert len(example.inputs_text.split()) == len(example.targets_text.split()) == WORDS
        encode, end = lm_tokenizer().encode, lm_tokenizer().eos_id
        assert example.inputs.tolist() == [*encode(example.inputs_text)[:63], end]
        assert example.targets.tolist() == encode(example.targets_text)[:64]  # the text goes on
        assert example.choices == {}
