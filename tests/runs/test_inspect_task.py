"""What inspection prints of small tasks registered here: every part of it, choices of the seed, and what it marks."""

import gin
import pytest
import seqio
import tensorflow as tf

from frozen_jax.data import LMVocabulary
from frozen_jax.errors import UserError
from frozen_jax.runs.inspect_task import inspect_task
from frozen_jax.runs.task_data import TaskData
from tasks.common import OUTPUT_FEATURES, PREPROCESSORS
from tests import fake_model, tiny_tokenizer
from tests.tiny_tokenizer import NUMBERS

FEATURES = {name: seqio.Feature(LMVocabulary(), add_eos=True) for name in ("inputs", "targets")}
TOKENIZE = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim]
SIZES = {"train": 40, "validation": 10}


def add(
    name,
    preprocessors=TOKENIZE,
    metric_fns=(fake_model.accuracy,),
    sizes=SIZES,
    output_features=FEATURES,
    **more,
):
    """Example i counts from 0 to i % 10 and asks for the last word."""

    def dataset(split, shuffle_files):
        texts = [" ".join(NUMBERS[: i % 10 + 1]) for i in range(sizes[split])]
        columns = {"inputs": texts, "targets": [text.split()[-1] for text in texts]}
        return tf.data.Dataset.from_tensor_slices(
            columns | {name: [value] * len(texts) for name, value in more.items()}
        )

    settings = {"preprocessors": preprocessors, "output_features": output_features, "metric_fns": list(metric_fns)}
    return seqio.TaskRegistry.add(name, source=seqio.FunctionDataSource(dataset, list(sizes)), **settings)


@pytest.fixture(autouse=True)
def _registries_and_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setattr(seqio.TaskRegistry, "_REGISTRY", {})
    monkeypatch.setattr(seqio.MixtureRegistry, "_REGISTRY", {})
    with gin.unlock_config():
        gin.bind_parameter("lm_tokenizer.source", tiny_tokenizer.write(tmp_path))
    yield
    gin.clear_config()


@pytest.fixture
def inspected(capsys):
    def run(name, seed=0, lengths=None, **settings):
        lengths = {"inputs": 6, "targets": 3, **(lengths or {})}
        inspect_task(TaskData(name, lengths, seed=seed, module="tests.fake_model"), **settings)
        return capsys.readouterr().out

    return run


def rows(printed):
    """The cells of all tables, by their first two."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    return {tuple(line[:2]): line[2:] for line in lines}


def test_everything_about_a_task(inspected):
    add("counting", choices=NUMBERS)
    printed = inspected("counting")
    assert "counting: a task. Cut: inputs at 6, targets at 3 tokens" in printed
    assert 'train: 40 examples, chosen among "zero", "one", ' in printed
    assert 'most frequent: "zero", 0.100' in printed.replace("\n  ", " ")
    table = rows(printed)
    assert table["validation", "inputs"] == ["6", "10", "11", "11", "11", "6", "50%"]
    assert table["train", "targets"] == ["2"] * 5 + ["3", "none"]
    assert table["train", "accuracy"] == ["1.000", "0.000", "40", ""]
    assert "      7 -    11  50.0%" in printed
    assert "Example 1 of train" in printed
    assert "Example 1 of validation" in printed
    assert "!" not in printed


def test_an_example_before_and_after_cutting(inspected):
    add("counting", sizes={"train": 8})
    printed = inspected("counting", examples=8)
    shown = printed.split("number 7:")[1].split("Example")[0]
    assert [" ".join(line.split()) for line in shown.splitlines() if line] == [
        'inputs: "zero one two three four five six seven"',
        "9 tokens before cutting",
        "zero one two three four five six seven </s>",
        "3 4 5 6 7 8 9 10 1",
        '6 tokens after cutting: "zero one two three four"',
        "zero one two three four </s>",
        "3 4 5 6 7 1",
        'targets: "seven"',
        "2 tokens, nothing is cut",
        "seven </s>",
        "10 1",
    ]


def test_an_example_in_its_template(inspected):
    with gin.unlock_config():
        gin.bind_parameter("lm_tokenizer.template", "</s> yes {inputs} no")
    add("counting", sizes={"train": 8})
    printed = inspected("counting", examples=8)
    assert 'Template: "</s> yes {inputs} no", up to 3 tokens more than inputs have below' in printed
    shown = printed.split("number 7:")[1].split("Example")[0]
    assert [" ".join(line.split()) for line in shown.splitlines() if line][4:] == [
        '6 tokens after cutting: "zero one two three four"',
        "zero one two three four </s>",
        "3 4 5 6 7 1",
        '8 tokens in the template: "</s> yes zero one two three four no"',
        "</s> yes zero one two three four no",
        "1 13 3 4 5 6 7 14",
        'targets: "seven"',
        "2 tokens, nothing is cut",
        "seven </s>",
        "10 1",
    ]


def test_examples_are_chosen_by_the_seed(inspected):
    add("counting")

    def chosen(**settings):
        printed = inspected("counting", **settings)
        return [line for line in printed.splitlines() if line.startswith("Example")]

    first = chosen(examples=3)
    assert [line.split(",")[0] for line in first] == [f"Example {i} of {split}" for split in SIZES for i in (1, 2, 3)]
    assert chosen(examples=3, split="train") == first[:3]
    assert chosen(examples=3, split="train", seed=1) != first[:3]


def test_a_large_split_is_sampled_and_says_so(inspected):
    add("counting")
    printed = inspected("counting", most=10)
    assert "(not of all examples: 10 of train)" in printed
    assert "train: 40 examples" in printed
    assert rows(printed)["train", "accuracy"][2] == "10"


def test_a_mixture_is_inspected_task_by_task_and_goes_on_after_a_mistake(inspected, capsys):
    def broken(targets, predictions):
        raise ValueError("never")

    add("alike", choices=["one two three", "one two four"])
    add("broken", metric_fns=[broken])
    add("counting", sizes={"train": 3})
    seqio.MixtureRegistry.add("all", [("alike", 1.0), ("broken", 2.0), ("counting", 5.0)])
    with pytest.raises(UserError) as caught:
        inspected("all")
    printed = capsys.readouterr().out
    assert "counting, 62.5% of what is drawn\n====" in printed
    assert "! task alike: the answer choices" in printed
    assert rows(printed)["train", "broken"] == [
        "nan",
        "nan",
        "40",
        "! fails on perfect predictions; fails on empty predictions",
    ]
    assert "task alike: the answer choices ['one two three', 'one two four'] cannot be told apart" in str(caught.value)
    assert "; metric broken of task broken failed on train: ValueError: never" in str(caught.value)


def test_a_task_whose_steps_want_lengths_says_so(inspected):
    def first_words(dataset, sequence_length):
        return dataset.map(lambda e: e | {"inputs": tf.strings.substr(e["inputs"], 0, 3 * sequence_length["inputs"])})

    def divide(dataset, sequence_length):
        pieces = 1 if sequence_length is None else 2
        return dataset.flat_map(lambda e: tf.data.Dataset.from_tensors(e).repeat(pieces))

    add("cutting", preprocessors=[first_words, *TOKENIZE])
    add("dividing", preprocessors=[divide, *TOKENIZE])
    want = "! train: these are lengths after cutting, since its preprocessors want lengths (TypeError)"
    assert want in inspected("cutting")
    divided = "! train: these are lengths after cutting, since the lengths say how its texts are divided into examples"
    assert divided in inspected("dividing")


def test_a_task_without_metrics_of_predictions(inspected):
    add("scored", metric_fns=[fake_model.mean_score])
    printed = inspected("scored")
    assert "! there are no metrics of predictions" in printed
    assert "Not tried, since they judge an LM's log-likelihoods: mean_score" in printed


def test_unknown_names(inspected):
    add("counting")
    with pytest.raises(UserError, match="registered and close: counting"):
        inspected("countin")
    with pytest.raises(UserError, match="counting has no split 'test'; it has: train, validation"):
        inspected("counting", split="test")


def test_what_an_encoder_reads_is_shown_in_its_vocabulary(inspected, tmp_path):
    (tmp_path / "encoder").mkdir()
    words = ["<pad>", "</s>", "<unk>", *reversed(tiny_tokenizer.WORDS[3:])]
    with gin.unlock_config():
        gin.bind_parameter("encoder_tokenizer.source", tiny_tokenizer.write(tmp_path / "encoder", words))
    add("counting", PREPROCESSORS, sizes={"train": 8}, output_features=OUTPUT_FEATURES)
    printed = inspected("counting", examples=8, lengths={"encoder_inputs": 4})
    assert "Cut: inputs at 6, targets at 3, encoder_inputs at 4 tokens" in printed
    assert "tokenizer.json, 15 pieces; " in printed
    assert rows(printed)["train", "encoder_inputs"][-2:] == ["4", "62%"]
    shown = printed.split("number 7:")[1].split("Example")[0].split("encoder_inputs: ")[1]
    assert [" ".join(line.split()) for line in shown.splitlines() if line] == [
        '"zero one two three four five six seven"',
        "9 tokens before cutting",
        "zero one two three four five six seven </s>",
        "14 13 12 11 10 9 8 7 1",
        '4 tokens after cutting: "zero one two"',
        "zero one two </s>",
        "14 13 12 1",
    ]
