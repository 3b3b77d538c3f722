"""Files that gin describes are tasks: batches, metrics, splits, and names that are taken."""

import gin
import numpy as np
import pytest
import seqio

from frozen_jax import answering, data, text_files
from frozen_jax.errors import UserError
from frozen_jax.evaluation import judge
from frozen_jax.tokenizer import lm_tokenizer
from tasks import files
from tasks.splits import SPLITS
from tests import tiny_tokenizer
from tests.task_batches import train_batches
from tests.tiny_tokenizer import NUMBERS

LENGTHS = {"inputs": 8, "targets": 3}


@pytest.fixture(autouse=True)
def _registries_and_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setattr(seqio.TaskRegistry, "_REGISTRY", {})
    monkeypatch.setattr(seqio.MixtureRegistry, "_REGISTRY", {})
    with gin.unlock_config():
        gin.bind_parameter("lm_tokenizer.source", tiny_tokenizer.write(tmp_path))
    yield
    gin.clear_config()


@pytest.fixture
def table(tmp_path):
    """Writes a CSV file of numbers, each even or not, and returns its path."""

    def written(name, numbers):
        lines = [f"{NUMBERS[n]},{'no' if n % 2 else 'yes'}" for n in numbers]
        (tmp_path / name).write_text("\n".join(["word,even", *lines, ""]))
        return str(tmp_path / name)

    return written


def describe(**settings):
    described = {"name": "evenness", "inputs": "yes {word}", "targets": "even", "choices": ["yes", "no"]} | settings
    with gin.unlock_config():
        gin.parse_config(
            ["text_files.tasks = [@TextFiles()]", *(f"TextFiles.{k} = {v!r}" for k, v in described.items())]
        )
    files.register_from_gin()


def decoded(tokens):
    return lm_tokenizer().decode(tokens.tolist())


def test_a_file_becomes_batches_and_figures(table):
    describe(files={"train": table("a.csv", range(8)), "validation": table("b.csv", [8, 9])})
    batch = train_batches("evenness", LENGTHS, 8).batch(0)
    found = {decoded(row): decoded(answer) for row, answer in zip(batch.inputs, batch.targets, strict=True)}
    assert found == {f"yes {NUMBERS[n]}": "no" if n % 2 else "yes" for n in range(8)}
    (task,) = data.eval_tasks("evenness", LENGTHS, "validation")
    assert [list(example.choices) for example in task.examples] == [["yes", "no"]] * 2
    assert judge(task, answering.Answers(["yes", "yes"], np.zeros(2), [{}, {}])).metrics == {"accuracy": 0.5}


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    describe(files={"train": str(tmp_path / "absent.csv")})
    with pytest.raises(UserError, match=r"there is no file .*absent.csv"):
        train_batches("evenness", LENGTHS, 2)


def test_one_file_is_divided_and_no_input_stands_on_two_sides(table):
    describe(files=table("a.csv", [*range(10), *range(10)]))
    found = {}
    for split in SPLITS:
        (task,) = data.eval_tasks("evenness", LENGTHS, split)
        found[split] = [example.inputs_text for example in task.examples]
    assert [len(found[split]) for split in SPLITS] == [10, 4, 6]
    assert len(set.union(*map(set, found.values()))) == sum(len(set(texts)) for texts in found.values()) == 10


def test_a_file_too_small_to_be_divided(table):
    describe(files=table("a.csv", [1, 2]))
    with pytest.raises(UserError, match=r"a.csv is too small to be divided, nothing is left for validation"):
        data.eval_tasks("evenness", LENGTHS, "validation")


def test_answers_in_lists_of_any_length(tmp_path):
    lines = '{"inputs": "one", "targets": "two", "all": ["two", "four"]}\n{"inputs": "a", "targets": "b", "all": ["b"]}'
    (tmp_path / "a.jsonl").write_text(lines)
    path = str(tmp_path / "a.jsonl")
    describe(
        files={"validation": path}, inputs="inputs", targets="targets", choices=None, answers="all", metrics=["squad"]
    )
    (task,) = data.eval_tasks("evenness", LENGTHS, "validation")
    assert judge(task, answering.Answers(["four", "a"], np.zeros(2), [{}, {}])).metrics["exact_match"] == 0.5


def test_a_name_that_is_taken(table):
    describe(files=table("a.csv", [1]))
    files.register_from_gin()  # the same again is no mistake: every part of a run asks for it
    with pytest.raises(UserError, match="a task named 'evenness' is registered already; give this one another name"):
        describe(files=table("b.csv", [1]))


def test_a_wrong_description_keeps_its_own_words():
    with gin.unlock_config():
        gin.parse_config("text_files.tasks = [@TextFiles()]\nTextFiles.name = 'a'\nTextFiles.files = 'a.doc'")
    with pytest.raises(UserError, match=r"^task a: a.doc is of an unknown kind"):
        data.load_task_module("tasks")


def test_a_task_module_that_registers_a_name_twice(tmp_path, monkeypatch, table):
    describe(files=table("a.csv", [1]))
    module = (
        "import seqio\nfrom tasks.files import add\nfrom tasks import common\n\nseqio.TaskRegistry.add('evenness',\n"
    )
    module += "    source=common.source(dict, {}), preprocessors=[], output_features={})\n"
    (tmp_path / "twice_named.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    message = r"'twice_named' does not import: .* 'evenness', which is there already; .*\(twice_named, line 5\)"
    with pytest.raises(UserError, match=message):
        data.load_task_module("twice_named")


def test_without_gin_there_are_none():
    files.register_from_gin()
    assert list(seqio.TaskRegistry.names()) == list(text_files.text_files()) == []
