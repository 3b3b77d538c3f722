"""Articles become consecutive pieces, each article in one split, and are read only when a split is asked for."""

import collections
import tracemalloc

import gin
import pytest

from frozen_jax import data, wheels
from frozen_jax.tokenizer import lm_tokenizer
from tasks import wikipedia, wikipedia_causal
from tasks.splits import SPLITS, HeldOut, normalize
from tasks.wikipedia import WORDS

LENGTHS = {"inputs": 64, "targets": 64}
WORD = [f"word{number}" for number in range(5 * WORDS)]


def record(text, url="/wiki/A_b"):
    return {"url": url, "text": text}


def test_pieces_follow_each_other_and_only_the_end_is_lost():
    found = wikipedia.pieces(record("\n " + " \n".join(WORD)), 2 * WORDS)
    assert found == [WORD[: 2 * WORDS], WORD[2 * WORDS : 4 * WORDS]]
    assert len(wikipedia.pieces(record(" ".join(WORD)), 10)) == len(WORD) // 10


def test_a_piece_is_parted_in_the_middle():
    assert wikipedia.example(["a", "b", "c", "d"]) == {"inputs": "a b", "targets": "c d"}


def test_a_causal_example_is_the_piece_and_mostly_targets():
    piece = WORD[: wikipedia_causal.INPUTS + wikipedia_causal.TARGETS]
    found = wikipedia_causal.example(piece)
    assert found["inputs"] == " ".join(WORD[:8])
    assert found["inputs"] + found["targets"] == " ".join(piece)
    assert found["targets"].startswith(" word8 ")


def test_a_piece_that_is_just_full_is_kept_and_a_short_article_gives_none():
    assert len(wikipedia.pieces(record(" ".join(WORD[: 2 * WORDS])), 2 * WORDS)) == 1
    assert wikipedia.pieces(record(" ".join(WORD[: 2 * WORDS - 1])), 2 * WORDS) == []
    assert wikipedia.pieces(record(""), 2 * WORDS) == []


def test_references_are_left_out():
    text = "It is old.[1][23] It is[citation needed] long[edit] [sic], [x] and x[i].[] " + " ".join(WORD)
    (first, *_) = wikipedia.pieces(record(text), 2 * WORDS)
    assert " ".join(first).startswith("It is old. It is long [sic], [x] and x[i]. word0")


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
    assert beginnings(wikipedia.TASK, "train") == [
        name for number in range(0, 9, 2) for name in (str(number), f"word{2 * WORDS - 1}")
    ]
    assert beginnings(wikipedia_causal.TASK, "train") == [str(number) for number in range(0, 9, 2)]
    assert [len(pieces) for pieces in wikipedia.articles("validation", 2 * WORDS)] == [2, 2, 2, 2, 0]
    assert beginnings(wikipedia.TASK, "test") == []


def beginnings(task, split):
    """The first word of each example of a split."""
    found = task.source.get_dataset(split, shuffle=False).as_numpy_iterator()
    return [example["inputs"].decode().split()[0] for example in found]


def test_nothing_is_read_before_a_split_is_iterated(monkeypatch):
    monkeypatch.setattr(wheels, "open_member", lambda *_: pytest.fail("the archive was opened"))
    monkeypatch.setattr(wikipedia, "splits", lambda: pytest.fail("the articles were read"))
    assert wikipedia.TASK.num_input_examples("train") == wikipedia.SIZES["train"]
    wikipedia.TASK.source.get_dataset("train", shuffle=False)


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
    lengths = {wikipedia.TASK: 2 * WORDS, wikipedia_causal.TASK: 128}
    counted = {task: dict.fromkeys(SPLITS, 0) for task in lengths}
    for article, split in zip(wikipedia.records(), wikipedia.splits(), strict=True):
        for task, length in lengths.items():
            counted[task][split] += len(wikipedia.pieces(article, length))
    assert counted == {task: {split: task.num_input_examples(split) for split in SPLITS} for task in lengths}


@pytest.mark.wheels
def test_reading_holds_one_article_at_a_time():
    wikipedia.splits()
    tracemalloc.start()
    articles = wikipedia.articles("test", 2 * WORDS)
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


@pytest.fixture
def _smollm2():
    with gin.unlock_config():
        gin.bind_parameter("lm_tokenizer.source", "smollm2-135m")
    yield
    gin.clear_config()


@pytest.mark.wheels
@pytest.mark.usefixtures("_smollm2")
def test_causal_examples_are_the_tokens_of_the_text_without_an_end():
    (task,) = data.eval_tasks("wikipedia_causal_lm", {"inputs": 32, "targets": 192}, "test")
    tokenizer = lm_tokenizer()
    assert len(task.examples) == wikipedia_causal.SIZES["test"]
    wholes = [tokenizer.encode(example.inputs_text + example.targets_text) for example in task.examples]
    kept = [[*example.inputs, *example.targets] for example in task.examples]
    assert all(some == whole for some, whole in zip(kept, wholes, strict=True) if len(some) == len(whole))
    assert tokenizer.eos_id not in {token for some in kept for token in some}
    assert sum(map(len, kept)) > 0.98 * sum(map(len, wholes))
