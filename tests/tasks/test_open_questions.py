"""NQ-open and TriviaQA on tiny data sets in TFDS's own format: as text, in batches, and through their metrics."""

import functools
import os

import gin
import numpy as np
import pytest
import seqio
import tensorflow_datasets as tfds

from frozen_jax import answering, data
from frozen_jax.evaluation import judge
from frozen_jax.retrieval.recall import has_answer
from frozen_jax.tokenizer import lm_tokenizer
from tasks import nq_open, triviaqa_open
from tests import tiny_tokenizer
from tests.task_batches import train_batches

LENGTHS = {"inputs": 16, "targets": 8}
NQ, TRIVIA = nq_open.TASK.name, triviaqa_open.TASK.name
SOURCES = {NQ: "natural_questions_open:1.0.0", TRIVIA: "trivia_qa/unfiltered.nocontext:1.1.0"}
RECORDS = {"train": 10, "validation": 4}  # in TFDS's names
SIZES = {"train": 9, "validation": 1, "test": 4}
WORDS = "who built bridge John Smith River AC/DC"
every_task = pytest.mark.parametrize("name", SOURCES)


def nq_record(i):
    return {"question": f"who built bridge {i} ", "answer": ["John Smith", "Smith"] if i % 2 else [" John Smith"]}


def trivia_record(i):
    answer = {
        "value": "River AC/DC",
        "aliases": ["AC/DC", "River AC/DC"] if i % 2 else [],
        "normalized_aliases": ["ac dc", "river ac dc"],
        "matched_wiki_entity_name": "",
        "normalized_matched_wiki_entity_name": "",
        "normalized_value": "river ac dc",
        "type": "FreeForm",
    }
    passages = {"entity_pages": [], "search_results": []}
    return {
        "question": f"who built bridge {i} ",
        "question_id": "",
        "question_source": "",
        "answer": answer,
        **passages,
    }


@pytest.fixture(scope="module", autouse=True)
def _prepared(tmp_path_factory):
    """What TFDS would have prepared, written by TFDS itself with its own builders' features."""
    folder = str(tmp_path_factory.mktemp("tensorflow_datasets"))
    for name, record in {NQ: nq_record, TRIVIA: trivia_record}.items():
        info = tfds.builder(SOURCES[name], data_dir=folder).info
        os.makedirs(info.data_dir)
        writer = tfds.core.SequentialWriter(info, max_examples_per_shard=4)
        writer.initialize_splits([*RECORDS])
        for split, count in RECORDS.items():
            first = 100 * (split == "validation")
            writer.add_examples({split: [record(first + i) for i in range(count)]})
        writer.close_all()
    seqio.set_tfds_data_dir_override(folder)
    words = ["<pad>", "</s>", "<unk>", *WORDS.split(), *map(str, range(104))]
    with gin.unlock_config():
        gin.bind_parameter("lm_tokenizer.source", tiny_tokenizer.write(tmp_path_factory.mktemp("tokenizer"), words))
    yield
    seqio.set_tfds_data_dir_override(None)
    gin.clear_config()


@functools.cache
def eval_task(name):
    (task,) = data.eval_tasks(name, LENGTHS, "test")
    return task


@every_task
def test_splits_are_parts_of_the_official_ones(name):
    task = seqio.TaskRegistry.get(name)
    assert task.source.tfds_dataset.name == SOURCES[name]
    assert {split: task.num_input_examples(split) for split in task.splits} == SIZES
    read = {split: task.source.get_dataset(split, shuffle=False).as_numpy_iterator() for split in SIZES}
    asked = {split: {int(record["question"].split()[-1]) for record in records} for split, records in read.items()}
    assert {split: len(numbers) for split, numbers in asked.items()} == SIZES
    assert asked["train"] | asked["validation"] == {*range(10)}
    assert asked["test"] == {*range(100, 104)}


@pytest.mark.parametrize(
    ("name", "target", "answers"),
    [
        (NQ, "John Smith", [[" John Smith"], ["John Smith", "Smith"]]),
        (
            TRIVIA,
            "River AC/DC",
            [["River AC/DC", "ac dc", "river ac dc"], ["River AC/DC", "AC/DC", "ac dc", "river ac dc"]],
        ),
    ],
)
def test_examples(name, target, answers):
    for example in eval_task(name).examples:
        number = int(example.inputs_text.split()[-1])
        assert example.inputs_text == f"who built bridge {number}"
        assert example.targets_text == target
        assert [text.decode() for text in example.raw["answers"]] == answers[number % 2]
        assert not example.choices
        assert "gold" not in example.raw


@every_task
def test_a_batch_reads_back_as_text(name):
    batches = train_batches(name, LENGTHS, 3)
    decode = lm_tokenizer().decode
    assert {decode(row.tolist()) for row in batches.batch(0).targets} == {"John Smith" if name == NQ else "River AC/DC"}
    assert {decode(row.tolist())[:16] for row in batches.batch(0).inputs} == {"who built bridge"}


@every_task
def test_metrics_at_both_ends_and_with_another_right_answer(name):
    task = eval_task(name)
    for said, wanted in {"targets": 1.0, "": 0.0, "smith" if name == NQ else "ac-dc": None}.items():
        predictions = [example.targets_text if said == "targets" else said for example in task.examples]
        metrics = judge(task, answering.Answers(predictions, np.zeros(4), [{} for _ in predictions])).metrics
        assert set(metrics) == {"exact_match", "f1"}
        if wanted is None:  # only questions with an odd number have that answer
            assert metrics["exact_match"] == 0.5
        else:
            assert metrics == {"exact_match": wanted, "f1": wanted}


@every_task
def test_passages_with_an_answer_are_found(name):
    for example in eval_task(name).examples:
        answers = [text.decode() for text in example.raw["answers"]]
        assert has_answer(answers, "It was john smith on the river AC/DC, they say.")
        assert not has_answer(answers, "It was somebody else.")
