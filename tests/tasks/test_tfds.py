"""GLUE and SuperGLUE on tiny data sets in TFDS's own format: every config as text, in batches, through its metrics."""

import os

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

import tasks
from frozen_jax import answering, data
from frozen_jax.errors import UserError
from frozen_jax.evaluation import judge
from frozen_jax.tokenizer import lm_tokenizer
from tasks import tfds_glue, tfds_super_glue
from tests import tiny_tokenizer
from tests.task_batches import train_batches

LENGTHS = {"inputs": 64, "targets": 8}
ONE, OTHER = "A man sings. ", " Somebody sings. "
PAIR, PREMISE = {"sentence1": ONE, "sentence2": OTHER}, {"premise": ONE, "hypothesis": OTHER}
SENTENCES = "Sentence 1: A man sings. Sentence 2: Somebody sings."
PREMISES = "Premise: A man sings. Hypothesis: Somebody sings."
FOLLOWS = "Does the second sentence follow from the first, yes or no? " + SENTENCES
MNLI = "Does the hypothesis follow from the premise, yes, no or maybe? " + PREMISES
NO_YES, YES_NO = ["no", "yes"], ["yes", "no"]

# Data set → the fields of a record but for label and idx, what inputs it becomes, and the target of each label.
CLASSIFICATIONS = {
    "glue/cola:2.0.0": (
        {"sentence": "Sings man a. "},
        "Is this sentence acceptable English, yes or no? Sings man a.",
        NO_YES,
    ),
    "glue/sst2:2.0.0": (
        {"sentence": "a warm little film "},
        "Is the sentiment of this movie review sentence positive or negative? a warm little film",
        ["negative", "positive"],
    ),
    "glue/mrpc:2.0.0": (PAIR, "Do these two sentences mean the same thing, yes or no? " + SENTENCES, NO_YES),
    "glue/qqp:2.0.0": (
        {"question1": "Who sings?", "question2": "Who is it that sings?"},
        "Do these two questions ask the same thing, yes or no? "
        "Question 1: Who sings? Question 2: Who is it that sings?",
        NO_YES,
    ),
    "glue/mnli:2.0.0": (PREMISE, MNLI, ["yes", "maybe", "no"]),
    "glue/mnli_matched:2.0.0": (PREMISE, MNLI, ["yes", "maybe", "no"]),
    "glue/mnli_mismatched:2.0.0": (PREMISE, MNLI, ["yes", "maybe", "no"]),
    "glue/qnli:2.0.0": (
        {"question": "Who sings?", "sentence": "A man sings."},
        "Does the sentence answer the question, yes or no? Question: Who sings? Sentence: A man sings.",
        YES_NO,
    ),
    "glue/rte:2.0.0": (PAIR, FOLLOWS, YES_NO),
    "glue/wnli:2.0.0": (PAIR, FOLLOWS, NO_YES),
    "super_glue/boolq:1.0.2": (
        {"question": "does a man sing", "passage": "A man sings."},
        "Answer the question from the passage, yes or no. Question: does a man sing Passage: A man sings.",
        NO_YES,
    ),
    "super_glue/cb:1.0.2": (PREMISE, MNLI, ["yes", "no", "maybe"]),
    "super_glue/copa:1.0.2": (
        {"premise": "The man sang.", "choice1": "He was happy.", "choice2": "He slept.", "question": "cause"},
        "What is the likelier cause of this: He was happy. or: He slept. This: The man sang.",
        ["He was happy.", "He slept."],
    ),
    "super_glue/multirc:1.0.2": (
        {
            "paragraph": "A man<br>sings.",
            "question": "Who sings?",
            "answer": "A cat",
            "idx": {"paragraph": 4, "question": 2, "answer": 0},
        },
        "Is this answer to the question right, yes or no? Question: Who sings? Answer: A cat Text: A man sings.",
        NO_YES,
    ),
    "super_glue/rte:1.0.2": (PREMISE, "Does the hypothesis follow from the premise, yes or no? " + PREMISES, YES_NO),
    "super_glue/wic:1.0.2": (
        {**PAIR, "word": "sing", "start1": 6, "end1": 11, "start2": 9, "end2": 14},
        'Does the word "sing" mean the same in both sentences, yes or no? ' + SENTENCES,
        NO_YES,
    ),
    "super_glue/wsc.fixed:1.0.2": (
        {
            "text": "It was late, and the man saw that it was, it was.",
            "span1_text": "the man",
            "span1_index": 4,
            "span2_text": "it",
            "span2_index": 8,
        },
        "Does *it* stand for the man, yes or no? It was late, and the man saw that *it* was, it was.",
        NO_YES,
    ),
}
NUMBERS = {"glue/stsb:2.0.0": PAIR}
NAMES = {
    "super_glue/record:1.0.2": {
        "passage": "Ann Lee sang.\nBob  Ray slept.\n@highlight\nAnn Lee sang well",
        "query": "It was @placeholder who sang",
        "entities": ["Ann Lee", "Bob  Ray", "Bob Ray"],
        "idx": {"passage": 3, "query": 8},
    }
}
DATA_SETS = [*CLASSIFICATIONS, *NUMBERS, *NAMES]
TASKS = {task.source.tfds_dataset.name: task.name for task in [*tfds_glue.TASKS, *tfds_super_glue.TASKS]}
every_data_set = pytest.mark.parametrize("data_set", DATA_SETS)


def splits_of(data_set):
    """TFDS's splits, each with its label for record i."""
    labels = {
        "train": lambda i: i % len(CLASSIFICATIONS.get(data_set, [NO_YES])[-1]),
        "validation": lambda i: 1 - i % 2,
    }
    if data_set.startswith("glue/mnli:"):
        kinds = ("matched", "mismatched")
        labels = {"train": labels["train"]} | {f"validation_{kind}": labels["validation"] for kind in kinds}
        return labels | {f"test_{kind}": lambda i: -1 for kind in kinds}
    if data_set.startswith("glue/mnli_"):
        del labels["train"]
    return labels | {"test": lambda i: -1}


def records(data_set, label):
    """Three records."""
    if data_set in NAMES:
        answers = [["Ann Lee"], ["Ann Lee", "Bob  Ray"], ["Bob Ray"]]
        return [NAMES[data_set] | {"answers": answers[i] if label(i) >= 0 else []} for i in range(3)]
    if data_set in NUMBERS:
        return [{**PAIR, "label": float(label(i)) * 3.75 if label(i) >= 0 else -1.0, "idx": i} for i in range(3)]
    return [{"idx": i, **CLASSIFICATIONS[data_set][0], "label": label(i)} for i in range(3)]


@pytest.fixture(scope="module", autouse=True)
def _prepared(tmp_path_factory):
    """What TFDS would have prepared, written by TFDS itself with its own builders' features."""
    folder = str(tmp_path_factory.mktemp("tensorflow_datasets"))
    for data_set in DATA_SETS:
        info = tfds.builder(data_set, data_dir=folder).info
        os.makedirs(info.data_dir)
        writer = tfds.core.SequentialWriter(info, max_examples_per_shard=2)
        labels = splits_of(data_set)
        writer.initialize_splits(list(labels))
        for split, label in labels.items():
            writer.add_examples({split: records(data_set, label)})
        writer.close_all()
    seqio.set_tfds_data_dir_override(folder)
    with gin.unlock_config():
        gin.bind_parameter("lm_tokenizer.source", tiny_tokenizer.write(tmp_path_factory.mktemp("tokenizer"), words()))
    yield
    seqio.set_tfds_data_dir_override(None)
    gin.clear_config()


def words():
    texts = [inputs for _, inputs, _ in CLASSIFICATIONS.values()]
    texts += [choice for _, _, choices in CLASSIFICATIONS.values() for choice in choices]
    texts += ["How similar are these two sentences, from 0.0 to 5.0? 3.8", "Which name stands for @placeholder? It was"]
    texts += ["@placeholder who sang Text: Ann Lee sang. Bob Ray slept. Ann Lee sang well"]
    return list(dict.fromkeys(["<pad>", "</s>", "<unk>", *" ".join(texts).split()]))


def texts(data_set, split="train"):
    """A task's examples before they become tokens."""
    task = seqio.TaskRegistry.get(TASKS[data_set])
    source = task.source.get_dataset(split, shuffle=False)
    fields = ("inputs", "targets", "choices")
    plain = task.preprocess_precache(source).as_numpy_iterator()
    return [{name: as_text(example[name]) for name in fields if name in example} for example in plain]


def as_text(value):
    return value.decode() if isinstance(value, bytes) else [text.decode() for text in value]


def test_every_config_of_both_suites_is_here():
    suites = [tfds.text.Glue, tfds.text.SuperGlue]
    configs = {f"{suite.name}/{config.name}" for suite in suites for config in suite.BUILDER_CONFIGS}
    without_labels = {"glue/ax", "super_glue/axb", "super_glue/axg"}  # diagnostics: test splits alone
    assert {name.partition(":")[0] for name in TASKS} == configs - without_labels - {"super_glue/wsc"}
    assert set(TASKS) == set(DATA_SETS)


@pytest.mark.parametrize("data_set", CLASSIFICATIONS)
def test_classifications_as_text(data_set):
    _, inputs, choices = CLASSIFICATIONS[data_set]
    task = seqio.TaskRegistry.get(TASKS[data_set])
    for split in task.splits:
        label = splits_of(data_set)[task.source.tfds_dataset._map_split(split)]
        wanted = [{"inputs": inputs, "targets": choices[label(i)], "choices": choices} for i in range(3)]
        assert sorted(texts(data_set, split), key=str) == sorted(wanted, key=str)


def test_similarity_is_rounded_to_a_fifth():
    inputs = "How similar are these two sentences, from 0.0 to 5.0? " + SENTENCES
    assert {e["targets"] for e in texts("glue/stsb:2.0.0")} == {"0.0", "3.8"}
    assert {e["inputs"] for e in texts("glue/stsb:2.0.0")} == {inputs}


def test_a_name_is_chosen_among_those_of_the_passage():
    (first, second, third) = sorted(texts("super_glue/record:1.0.2"), key=str)
    assert first["inputs"] == (
        "Which name stands for @placeholder? It was @placeholder who sang "
        "Text: Ann Lee sang.\nBob  Ray slept. Ann Lee sang well"
    )
    assert [e["targets"] for e in (first, second, third)] == ["Ann Lee", "Ann Lee", "Bob Ray"]
    assert first["choices"] == ["Ann Lee", "Bob Ray"]


@every_data_set
def test_no_split_without_labels(data_set):
    task = seqio.TaskRegistry.get(TASKS[data_set])
    assert "test" not in {split.partition("_")[0] for split in task.splits}
    assert all(task.num_input_examples(split) == 3 for split in task.splits)


def test_an_example_without_a_label_is_no_example():
    with pytest.raises(tf.errors.InvalidArgumentError):
        tfds_super_glue.labelled("", NO_YES)({"label": tf.constant(-1)})


@every_data_set
def test_batches_read_back_as_text(data_set):
    split = "train" if "train" in splits_of(data_set) else "validation"
    batch = train_batches(TASKS[data_set], LENGTHS, 3, split=split).batch(0)
    decode = lm_tokenizer().decode
    found = {(decode(i.tolist()), decode(t.tolist())) for i, t in zip(batch.inputs, batch.targets, strict=True)}
    assert found == {(" ".join(e["inputs"].split()), e["targets"]) for e in texts(data_set, split)}


@every_data_set
def test_metrics_at_both_ends(data_set):
    (task,) = data.eval_tasks(TASKS[data_set], LENGTHS, "validation")
    ends = []
    for said in ([example.targets_text for example in task.examples], [""] * 3):
        ends.append(judge(task, answering.Answers(said, np.zeros(3), [{} for _ in said])).metrics)
    assert ends[0] == pytest.approx(dict.fromkeys(ends[0], 1.0))
    assert ends[1] == dict.fromkeys(ends[0], 0.0)
    assert all((e.targets_text in e.choices) == (data_set not in NUMBERS) for e in task.examples)


def test_what_tfds_does_not_have_is_said_in_one_line(tmp_path, monkeypatch):
    task = seqio.Task("elsewhere", tasks.tfds.Source("no_such/set:1.0.0", str(tmp_path), ["train"]), {}, [])
    monkeypatch.setattr(seqio.utils, "_TFDS_DATA_DIR_OVERRIDE", None)
    with pytest.raises(
        UserError, match=f"no data set no_such/set:1.0.0 in {tmp_path} and cannot make it: Dataset"
    ) as error:
        task.source.get_dataset("train", shuffle=False)
    assert "\n" not in str(error.value)
