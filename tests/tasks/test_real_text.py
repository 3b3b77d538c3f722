"""The tasks on the text of the pinned archives: sizes, overlap, batches read back, and metrics at both ends."""

import ast
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import seqio

import tasks
from frozen_jax import answering, data, text_metrics
from frozen_jax.batching import Batches
from frozen_jax.evaluation import judge
from frozen_jax.retrieval import corpora
from frozen_jax.tokenizer import lm_tokenizer
from tasks import (
    arc,
    arc_closed_book,
    arrow,
    boolq,
    cb,
    commonsenseqa,
    copa,
    hellaswag,
    hotpotqa,
    hotpotqa_open,
    imdb,
    mixtures,
    mrpc,
    natural_questions,
    openbookqa,
    p3_records,
    piqa,
    rte,
    sciq,
    sciq_closed_book,
    socialiqa,
    squad,
    squad_answerable,
    squad_open,
    sst2,
    triviaqa,
    winogrande,
)
from tasks.splits import SPLITS, normalize
from tests.task_batches import train_batches

CHOICE_TASKS = (boolq, commonsenseqa, copa, hellaswag, openbookqa, piqa, sciq, socialiqa, winogrande)
CLOSED_BOOK = (arc_closed_book, natural_questions, sciq_closed_book, triviaqa)
OTHERS = (*CLOSED_BOOK, cb, hotpotqa, hotpotqa_open, imdb, mrpc, rte, squad, squad_answerable, squad_open, sst2)
MODULES = {module.TASK.name: module for module in (*CHOICE_TASKS, *OTHERS)} | {
    task.name: SimpleNamespace(TASK=task, examples=functools.partial(arc.examples, task.name))
    for task in (arc.EASY, arc.CHALLENGE)
}
NUMBERS_OF_CHOICES = {  # where there are not two
    "arc_challenge": {3, 4, 5},
    "arc_easy": {3, 4, 5},
    "cb_from_validation": {3},
    "commonsenseqa": {4, 5},
    "hellaswag": {4},
    "openbookqa": {4},
    "sciq_from_validation": {4},
    "socialiqa": {2, 3},
}
WITHOUT_CHOICES = {module.TASK.name for module in (*CLOSED_BOOK, hotpotqa_open, squad, squad_open)}
WITH_CHOICES = sorted({*MODULES} - WITHOUT_CHOICES)
MAJORITY = {  # of the most frequent answer in the test split, where all examples have the same choices
    "boolq": 0.622,
    "cb_from_validation": 0.471,
    "hotpotqa_type_from_validation": 0.797,
    "imdb_sentiment": 0.506,
    "mrpc_from_validation": 0.705,
    "rte_from_validation": 0.614,
    "squad_answerable_from_validation": 0.504,
    "sst2_from_validation": 0.515,
}
MOST = dict.fromkeys(MODULES.keys() - MAJORITY, 300)  # examples of the test split to look at, where not all are counted
FOUR = [module.TASK.name for module in (hotpotqa, imdb, mrpc, sst2)]
every_task = pytest.mark.parametrize("name", sorted(MODULES))
pytestmark = pytest.mark.wheels


@functools.cache
def lengths_of(name):
    """The task's lengths in gin/tasks/."""
    files = [file.read_text() for file in (Path(__file__).parents[2] / "gin" / "tasks").glob("*.gin")]
    (file,) = [text for text in files if f'MIXTURE_OR_TASK_NAME = "{name}"' in text]
    return ast.literal_eval(re.search(r"^TASK_FEATURE_LENGTHS = (.*)$", file, re.MULTILINE)[1])


@functools.cache
def eval_task(name):
    (task,) = data.eval_tasks(name, lengths_of(name), "test", max_examples=MOST.get(name))
    return task


def evaluated(name, predict):
    """What the task's own metrics say if `predict(example)` is the answer, over the test split, or `MOST` of it."""
    task = eval_task(name)
    predictions = [predict(example) for example in task.examples]
    scores = np.zeros(len(predictions))
    return judge(task, answering.Answers(predictions, scores, [{} for _ in predictions]))


@every_task
def test_sizes_are_as_written_down(name):
    found = {split: len(members) for split, members in MODULES[name].examples().items()}
    assert found == {split: MODULES[name].TASK.num_input_examples(split) for split in SPLITS}


def test_every_record_is_in_one_split():
    sizes = {name: sum(map(len, module.examples().values())) for name, module in MODULES.items()}
    assert sizes == {  # of BoolQ, ... those that were not dropped, see test_choice_tasks.py
        "arc_challenge": 1119 + 299 + 1172 - 9,
        "arc_easy": 2251 + 570 + 2376 - 11,
        "arc_easy_closed_book": 5186 - 1095,
        "boolq": 9427 + 3270 - 1454,
        "cb_from_validation": 56,
        "commonsenseqa": 9741 + 1221,
        "copa_from_validation": 100,
        "hellaswag": 39905 + 10042 - 145,
        "hotpotqa_open_from_validation": 7405,
        "hotpotqa_type_from_validation": 7405,
        "imdb_sentiment": 50000,
        "mrpc_from_validation": 408,
        "nq_open_from_validation": 3610,
        "openbookqa": 4957 + 500 + 500 - 46,
        "piqa": 16113 + 1838 - 592,
        "rte_from_validation": 277,
        "sciq_closed_book_from_validation": 1000,
        "sciq_from_validation": 1000,
        "socialiqa": 33410 + 1954,
        "squad_answerable_from_validation": 11873,
        "squad_open_from_validation": 5928,
        "squad_reading_from_validation": 5928,
        "sst2_from_validation": 872,
        "triviaqa_from_validation": 7993,
        "winogrande": 40398 + 1267,
    }


@every_task
def test_no_inputs_stand_in_two_splits(name):
    found = [{normalize(example["inputs"]) for example in members} for members in MODULES[name].examples().values()]
    assert len(set.union(*found)) == sum(map(len, found))


def test_no_sentence_of_mrpc_stands_in_two_splits():
    found = [
        {normalize(s) for e in members for s in e["inputs"].partition("Sentence 1: ")[2].split(" Sentence 2: ")}
        for members in mrpc.examples().values()
    ]
    assert len(set.union(*found)) == sum(map(len, found))


@pytest.mark.parametrize(
    ("module", "folder"),
    [
        (cb, "super_glue/cb/validation"),
        (copa, "super_glue/copa/validation"),
        (rte, "glue/rte/validation"),
        (sciq, "sciq/none/validation"),
    ],
)
def test_nothing_that_must_not_leak_stands_in_two_splits(module, folder):
    split_of = {example["inputs"]: split for split, members in module.examples().items() for example in members}
    texts = {split: set() for split in SPLITS}
    for record in arrow.read(folder):
        texts[split_of[module.example(record)["inputs"]]] |= set(map(normalize, module.must_not_leak(record)))
    assert len(set.union(*texts.values())) == sum(map(len, texts.values()))


def test_no_article_paragraph_or_question_of_squad_stands_in_two_splits():
    for field in ("title", "context", "question"):
        found = [{normalize(record[field]) for record in members} for members in squad.records().values()]
        assert len(set.union(*found)) == sum(map(len, found)), field


def test_no_article_of_hotpotqa_stands_in_two_splits():
    articles = [
        {normalize(title) for record in members for title, _ in record["context"]}
        for members in hotpotqa.records().values()
    ]
    assert len(set.union(*articles)) == sum(map(len, articles))


def questions_of(module):
    """The questions of each split of a task over HotpotQA, whatever stands before them."""
    instruction = "Is the type of this question comparison or bridge? "
    splits = module.examples().items()
    return {split: {e["inputs"].removeprefix(instruction).strip() for e in members} for split, members in splits}


def test_the_two_tasks_of_hotpotqa_overlap_as_is_written_down():
    opened, typed = questions_of(hotpotqa_open), questions_of(hotpotqa)
    counts = {(one, other): len(opened[one] & typed[other]) for one in SPLITS for other in SPLITS}
    assert {pair: count for pair, count in counts.items() if count} == {
        ("train", "train"): 5924,
        ("validation", "train"): 1,
        ("validation", "validation"): 369,
        ("test", "validation"): 371,
        ("test", "test"): 740,
    }


def test_no_gold_paragraph_of_hotpotqa_stands_in_two_splits():
    gold = [{name for example in members for name in example["gold"]} for members in hotpotqa_open.examples().values()]
    assert len(set.union(*gold)) == sum(map(len, gold))
    assert {len(set(e["gold"])) for members in hotpotqa_open.examples().values() for e in members} == {2}


@pytest.mark.parametrize(
    ("module", "folder", "seen"), [(triviaqa, "trivia_qa/unfiltered", 902), (natural_questions, "nq_open", 361)]
)
def test_p3_tests_on_part_of_what_closed_book_tasks_test_on(module, folder, seen):
    p3 = {
        split: {record["question"].strip() for record in records}
        for split, records in p3_records.SOURCES[folder].records().items()
    }
    ours = questions_of(module)
    assert p3["test"] | p3["validation"] < ours["test"]
    assert len(p3["train"] & ours["test"]) == seen


@pytest.mark.parametrize(("module", "sizes", "again"), [(triviaqa, 2500, 864), (natural_questions, 1083, 179)])
def test_answers_that_recur_are_as_many_as_is_written_down(module, sizes, again):
    splits, same = module.examples(), text_metrics.normalize_answer
    known = {same(answer) for example in splits["train"] for answer in example["answers"]}
    assert (len(splits["test"]), sum(same(e["targets"]) in known for e in splits["test"])) == (sizes, again)


def test_closed_book_questions_have_the_splits_of_those_with_choices():
    for split in SPLITS:
        alone, chosen = sciq_closed_book.examples()[split], sciq.examples()[split]
        assert len(alone) == len(chosen)
        for one, other in zip(alone, chosen, strict=True):
            assert f" Question: {one['inputs']} Choices: " in other["inputs"]
            assert one["targets"] == other["targets"]
        said = {(e["inputs"], e["targets"]) for e in arc.examples("arc_easy")[split]}
        questions = {(text.partition(" Question: ")[2].rpartition(" Choices: ")[0], answer) for text, answer in said}
        assert {(e["inputs"], e["targets"]) for e in arc_closed_book.examples()[split]} < questions
        left_out = questions - {(e["inputs"], e["targets"]) for e in arc_closed_book.examples()[split]}
        assert all(arc_closed_book.OF_CHOICES.search(question) for question, _ in left_out)


@pytest.mark.parametrize("module", [natural_questions, triviaqa])
def test_every_spelling_of_an_answer_counts(module):
    last = evaluated(module.TASK.name, lambda e: e.raw["answers"][-1].decode())
    assert set(last.metrics.values()) == {1.0}


def test_answers_of_yes_and_no():
    splits = hotpotqa_open.examples().items()
    counts = {split: sum(text_metrics.is_yes_or_no(e["answers"]) for e in members) for split, members in splits}
    assert counts == {"train": 361, "validation": 21, "test": 76}
    assert [len(hotpotqa_open.questions(split)) for split in SPLITS] == [5924, 370, 1111]


@pytest.mark.parametrize(
    ("module", "corpus", "count"), [(hotpotqa_open, "hotpotqa", 66635), (squad_open, "squad", 1204)]
)
def test_gold_paragraphs_are_in_the_corpus(module, corpus, count):
    with corpora.path_of(corpus).open(encoding="utf-8") as lines:
        passages = {passage["id"]: passage for passage in map(json.loads, lines)}
    assert len(passages) == count
    assert all(passage["text"].strip() for passage in passages.values())
    for example in module.examples()["test"]:
        assert all(name.startswith(passages[name]["title"] + "#") for name in example["gold"])
        if module is squad_open:
            assert all(answer in passages[example["gold"][0]]["text"] for answer in example["answers"])


def test_imdb_holds_the_copies_that_its_page_speaks_of():
    reviews = [example["inputs"] for members in imdb.examples().values() for example in members]
    assert len(reviews) - len(set(map(normalize, reviews))) == 424
    assert not any("<br" in review for review in reviews)


@every_task
def test_a_batch_reads_back_as_text(name):
    lengths = lengths_of(name)
    batches = train_batches(name, lengths, 4, split="validation")
    batch, examples = batches.batch(0), MODULES[name].examples()["validation"]
    for row, (_, index) in enumerate(batches.rows(0)):
        said = lm_tokenizer().decode(batch.inputs[row][batch.inputs_mask[row]].tolist())
        wanted = lm_tokenizer().decode(lm_tokenizer().encode(examples[index]["inputs"])[: lengths["inputs"] - 1])
        assert said == wanted
        assert lm_tokenizer().decode(batch.targets[row].tolist()) == examples[index]["targets"]
        assert batch.inputs[row][batch.inputs_mask[row]][-1] == lm_tokenizer().eos_id


@every_task
def test_metrics_at_both_ends(name):
    perfect, empty = evaluated(name, lambda e: e.targets_text), evaluated(name, lambda e: "")
    assert set(perfect.metrics.values()) == {1.0}
    assert set(empty.metrics.values()) == {0.0}
    assert perfect.split_size == MODULES[name].TASK.num_input_examples("test")
    assert perfect.examples == min(MOST.get(name, perfect.split_size), perfect.split_size)
    assert perfect.majority_rate == (pytest.approx(MAJORITY[name], abs=5e-4) if name in MAJORITY else None)


@pytest.mark.parametrize("name", WITH_CHOICES)
def test_choices_hold_the_target_and_end(name):
    for example in eval_task(name).examples:
        assert example.choices[example.targets_text].tolist() == example.targets.tolist()
        assert {tokens[-1] for tokens in example.choices.values()} == {lm_tokenizer().eos_id}
        assert len(example.choices) in NUMBERS_OF_CHOICES.get(name, {2})


def test_mixture_draws_equally_from_its_four_tasks():
    rates = data.find_tasks("four_classifications", "train")
    assert {task.name: rate for task, rate in rates.items()} == dict.fromkeys(FOUR, 1.0)


def test_mixture_of_yes_or_no_questions():
    rates = data.find_tasks("yes_no_questions", "train")
    for task, rate in rates.items():
        assert rate == 1.0
        for example in MODULES[task.name].examples()["test"]:
            assert sorted(example["choices"]) == ["no", "yes"]
            assert "yes or no?" in example["inputs"]


def test_mixture_of_all_tasks_with_choices():
    rates = data.find_tasks("all_choices", "train")
    assert {task.name for task in rates} == set(WITH_CHOICES)
    assert rates == {task: seqio.mixing_rate_num_examples(task, maximum=mixtures.MOST) for task in rates}
    assert (min(rates.values()), max(rates.values())) == (28, mixtures.MOST)


def test_batches_of_the_mixture():
    batches: Batches = train_batches("four_classifications", {"inputs": 128, "targets": 16}, 16, split="validation")
    drawn = [batches.tasks[task].name for number in range(40) for task, _ in batches.rows(number)]
    assert {name: round(drawn.count(name) / len(drawn), 1) for name in set(drawn)} == pytest.approx(
        dict.fromkeys(FOUR, 0.25), abs=0.06
    )
    widths = {batches.batch(number).inputs.shape[1] for number in range(40)}
    assert widths <= {64, 128}


@pytest.mark.slow
def test_importing_the_tasks_fetches_nothing(tmp_path):
    environment = os.environ | {"FROZEN_JAX_CACHE": str(tmp_path / "cache"), "PIP_NO_INDEX": "1"}
    code = f"import sys; sys.path.insert(0, {os.path.dirname(tasks.__path__[0])!r}); import tasks"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    assert not (tmp_path / "cache").exists()
