"""The multiple-choice tasks: examples as their files promise, how records are read, and what was dropped of them."""

import gzip
import io
import itertools
import json
import re
from collections import Counter

import pytest

from frozen_jax import data, wheels
from frozen_jax.errors import UserError
from tasks import (
    arc,
    arrow,
    boolq,
    choices,
    commonsenseqa,
    hellaswag,
    olmo,
    openbookqa,
    piqa,
    socialiqa,
    winogrande,
)
from tasks.splits import SPLITS, normalize

MODULES = (arc, boolq, commonsenseqa, hellaswag, openbookqa, piqa, socialiqa, winogrande)
every_module = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
on_text = pytest.mark.wheels


# Examples.


def test_answers_are_listed_once_each():
    assert choices.listed(" Where is  milk kept?", ["in a fridge", "in bed", "in  a fridge"], 2) == {
        "inputs": "Answer the question with one of the choices. Question: Where is milk kept? "
        "Choices: (A) in a fridge (B) in bed",
        "targets": "in a fridge",
        "choices": ["in a fridge", "in bed"],
    }


def test_answers_that_go_on_with_a_text_are_not_listed():
    assert choices.example("A man\nsits", ["down ", "\nup"], 1) == {
        "inputs": "A man sits",
        "targets": "up",
        "choices": ["down", "up"],
    }


@pytest.mark.parametrize("module", [arc, commonsenseqa, openbookqa])
def test_questions_with_listed_answers(module):
    record = {"query": "Question: Where is milk kept?\nAnswer:", "choices": ["in bed", "in a fridge"], "gold": 1}
    assert module.example(record) == choices.listed("Where is milk kept?", ["in bed", "in a fridge"], 1)
    assert module.must_not_leak(record) == ["Where is milk kept?"]


def test_boolq():
    query = "Bridge -- Question: whose?\nIt is closed.\nQuestion: is the bridge open?\nAnswer:"
    record = {"query": query, "choices": ["yes", "no"], "gold": 1}
    assert boolq.example(record) == {
        "inputs": "Answer the question from the passage, yes or no. Question: is the bridge open? "
        "Passage: Bridge -- Question: whose? It is closed.",
        "targets": "no",
        "choices": ["yes", "no"],
    }
    assert boolq.must_not_leak(record) == [
        "passage: Bridge -- Question: whose?\nIt is closed.",
        "question: is the bridge open",
    ]


def test_piqa():
    record = {"goal": "Keep apples fresh", "choices": ["Use lemon juice", "Use wax"], "gold": 0}
    assert piqa.example(record) == {
        "inputs": "How is this goal reached? Goal: Keep apples fresh",
        "targets": "Use lemon juice",
        "choices": ["Use lemon juice", "Use wax"],
    }
    assert piqa.must_not_leak(record) == ["Keep apples fresh"]


@pytest.mark.parametrize(("alike", "apart"), [(149, True), (150, False), (0, True)])
def test_piqa_leaves_out_answers_that_differ_too_late(alike, apart):
    assert piqa.can_be_told_apart({"choices": ["so " * alike + "it is", "so " * alike + "is it"]}) == apart


def test_socialiqa():
    record = {"context": "Kai ran.", "question": "Why?", "choices": ["late", "slow", "slow"], "gold": 0}
    assert socialiqa.example(record) == choices.listed("Kai ran. Why?", ["late", "slow"], 0)
    assert socialiqa.must_not_leak(record) == ["Kai ran."]


def test_winogrande():
    record = {"sentence": "The _ is too big.", "option1": "trunk", "option2": "cello", "answer": "2"}
    assert winogrande.example(record) == {
        "inputs": "Does the blank _ stand for trunk or cello? The _ is too big.",
        "targets": "cello",
        "choices": ["trunk", "cello"],
    }
    assert set(winogrande.must_not_leak(record)) == {"The _ is too big."}
    assert winogrande.must_not_leak(record | {"twin": "The _ is small."}) == ["The _ is too big.", "The _ is small."]


def test_hellaswag():
    record = {"query": "Baking: . A man kneads. He", "choices": ["swims.", "bakes."], "gold": 1}
    assert hellaswag.example(record) == {
        "inputs": "Continue the text. Baking: . A man kneads. He",
        "targets": "bakes.",
        "choices": ["swims.", "bakes."],
    }
    assert hellaswag.must_not_leak(record) == [". A man kneads. He", "A man kneads.", "He bakes."]
    article = record | {"query": "Home: How to knead? Take flour. Add water."}
    assert hellaswag.must_not_leak(article) == ["How to knead? Take flour. Add water.", "How to knead?"]


# Records.


def test_a_record_is_read_once_however_many_answers_it_has(monkeypatch):
    records = [{"query": 'He said: ", "request": "', "id": 1}, {"query": "Ü", "id": 2}]
    rows = [{"request_type": "x", "doc": record, "request": {"doc": 0}} for record in records for _ in range(3)]
    content = gzip.compress("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    monkeypatch.setattr(wheels, "open_member", lambda name, member: io.BytesIO(content))
    assert olmo.read("any") == records


def labelled(records, question, answers, place):
    return Counter((record[question], *(record[answer] for answer in answers), place(record)) for record in records)


@on_text
@pytest.mark.parametrize(
    ("ours", "theirs", "question", "answers", "label"),
    [
        ("piqa", "piqa/plain_text", "goal", ("sol1", "sol2"), "label"),
        ("socialiqa", "social_i_qa/none", "context", ("question", "answerA", "answerB", "answerC"), "label"),
        ("winogrande", "winogrande/winogrande_xl", "sentence", ("option1", "option2"), "answer"),
    ],
)
def test_the_test_split_is_that_of_another_copy(ours, theirs, question, answers, label):
    found, wanted = olmo.read(f"{ours}/val_rc_5shot"), arrow.read(f"{theirs}/validation")
    read = [labelled(records, question, answers, lambda record: str(record[label])) for records in (found, wanted)]
    assert read[0] == read[1]


@on_text
@pytest.mark.parametrize(
    ("ours", "theirs", "question"),
    [
        ("arc_easy", "ai2_arc/ARC-Easy", "question"),
        ("arc_challenge", "ai2_arc/ARC-Challenge", "question"),
        ("csqa", "tau/commonsense_qa/none", "question"),
        ("openbookqa", "openbookqa/main", "question_stem"),
    ],
)
def test_questions_and_answers_are_those_of_another_copy(ours, theirs, question):
    wanted = Counter(
        (record[question], record["choices"]["text"][record["choices"]["label"].index(record["answerKey"])])
        for record in arrow.read(f"{theirs}/validation")
    )
    found = olmo.read(f"{ours}/val_rc_5shot")
    assert Counter((olmo.question(record), record["choices"][record["gold"]]) for record in found) == wanted


@on_text
def test_yes_is_yes_in_another_copy_of_boolq():
    wanted = Counter((r["question"], "yes" if r["answer"] else "no") for r in arrow.read("boolq/none/validation"))
    found = olmo.read("boolq/val_rc_5shot")
    assert (
        Counter((boolq.must_not_leak(r)[1].removeprefix("question: "), r["choices"][r["gold"]]) for r in found)
        == wanted
    )


# Splits.


@on_text
@every_module
def test_no_text_that_must_not_leak_stands_in_two_splits(module):
    found = [
        {normalize(text) for record in members for text in module.must_not_leak(record)}
        for members in module.records().values()
    ]
    assert min(map(len, found)) > 250
    assert len(set.union(*found)) == sum(map(len, found))


def texts(module, split, pattern):
    """What a pattern finds in the inputs of a split, whatever the module thinks must not leak."""
    found = [re.search(pattern, example["inputs"]) for example in module.examples()[split]]
    return {normalize(match[1]) for match in found if match}


@on_text
@pytest.mark.parametrize(
    ("module", "pattern", "least"),
    [
        (boolq, r"Question: (.*?) Passage: ", 796),
        (boolq, r"Passage: (.*)", 700),
        (commonsenseqa, r"Question: (.*) Choices: ", 973),
        (openbookqa, r"Question: (.*) Choices: ", 490),
        (socialiqa, r"Question: (.*[.?!]) .* Choices: ", 1900),
        (hellaswag, r"Continue the text\. [^:]*: (How to [^.?!]*)", 2000),
    ],
)
def test_no_question_passage_or_heading_stands_in_two_splits(module, pattern, least):
    found = [texts(module, split, pattern) for split in SPLITS]
    assert min(map(len, found)) >= least
    assert len(set.union(*found)) == sum(map(len, found))


@on_text
def test_no_question_of_arc_stands_in_another_split_of_either_set():
    found = [
        {normalize(e["inputs"].partition(" Choices: (A) ")[0]) for name in arc.SETS for e in arc.examples(name)[split]}
        for split in SPLITS
    ]
    assert len(set.union(*found)) == sum(map(len, found))


@on_text
@pytest.mark.parametrize(
    ("module", "repeated", "in_test", "right_one"),
    [(commonsenseqa, 146, 24, 48), (socialiqa, 38, 5, 7), (openbookqa, 3, 0, 0), (piqa, 0, 0, 0)],
)
def test_answers_that_are_there_twice(module, repeated, in_test, right_one):
    found = {
        split: [record for record in members if len(set(map(choices.tidy, record["choices"]))) < len(record["choices"])]
        for split, members in module.records().items()
    }
    records = [record for members in found.values() for record in members]
    right = [list(map(choices.tidy, record["choices"])).count(module.example(record)["targets"]) for record in records]
    assert (len(records), len(found["test"]), sum(count > 1 for count in right)) == (repeated, in_test, right_one)


@on_text
def test_long_answers_of_piqa_are_told_apart_at_256_tokens_and_no_fewer():
    (task,) = data.eval_tasks("piqa", {"inputs": 64, "targets": 256}, "validation")
    assert {len(example.choices) for example in task.examples} == {2}
    with pytest.raises(UserError, match="cannot be told apart when cut at 128 tokens"):
        data.eval_tasks("piqa", {"inputs": 64, "targets": 128}, "validation")


@on_text
@every_module
def test_choices_differ_and_hold_the_target(module):
    examples = map(module.example, itertools.chain.from_iterable(module.records().values()))
    for example in examples:
        assert example["targets"] in example["choices"]
        assert len(set(example["choices"])) == len(example["choices"]) > 1
        assert all(example["choices"])


@on_text
def test_twins_follow_each_other():
    records = olmo.read("winogrande/train_rc_5shot")
    for one, other in zip(records[::2], records[1::2], strict=True):
        words, others = ({*normalize(record["sentence"]).split()} for record in (one, other))
        assert len(words & others) > 0.6 * len(words)
        assert {normalize(one[f"option{i}"]) for i in "12"} == {normalize(other[f"option{i}"]) for i in "12"}
    split_of = {record["index"]: split for split in ("train", "validation") for record in winogrande.records()[split]}
    assert all(split_of[index] == split_of[index ^ 1] for index in split_of)
    assert len(split_of) == len(records)
