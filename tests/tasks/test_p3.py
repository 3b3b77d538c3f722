"""P3's tasks and mixtures, and the templates over the text of the pinned archives."""

import functools
import hashlib
import json
import re
import sys
from pathlib import Path

import gin
import pytest
import seqio

from frozen_jax import data
from frozen_jax.errors import UserError
from frozen_jax.runs.modules import expanded
from frozen_jax.text_metrics import accuracy
from tasks import arrow, hellaswag, imdb, p3, p3_examples, p3_records, p3_templates
from tasks.p3_names import DATA_SETS, plain
from tasks.splits import SPLITS, normalize
from tests.task_batches import train_batches

ROOT = Path(__file__).parents[2]
FIXTURE = ROOT / "tests" / "fixtures" / "p3" / "renderings.json"
LENGTHS = {"inputs": 96, "targets": 32}
every_data_set = pytest.mark.parametrize("name", DATA_SETS)
on_text = pytest.mark.wheels


@functools.cache
def records(name, split):
    source = p3_records.SOURCES[name]
    return [source.fields(record) for record in source.records()[split]]


@pytest.fixture
def most():
    yield functools.partial(gin.bind_parameter, "p3.most_examples")
    gin.clear_config()


@pytest.fixture
def most_evaluated():
    yield functools.partial(gin.bind_parameter, "p3.most_evaluated")
    gin.clear_config()


def table(page, title):
    """The cells of a table of docs/, without its head."""
    lines = (ROOT / "docs" / page).read_text().partition(f"| {title} |")[2].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def bound(file, name):
    gin.add_config_file_search_path(str(FIXTURE.parents[3]))
    gin.parse_config_file(f"gin/experiments/{file}")
    found = gin.query_parameter(name)
    gin.clear_config()
    return found


# Tasks and mixtures.


def test_there_are_data_sets_and_templates_enough():
    assert set(DATA_SETS) == set(p3_records.SOURCES)
    assert (len(DATA_SETS), len(p3.names(DATA_SETS))) == (21, 168)
    assert (len(p3.TRAIN), len(p3.names(p3.TRAIN)), len(p3.names(p3.HELD_OUT))) == (15, 107, 54)
    assert len(set(p3.names(DATA_SETS))) == 168


def test_data_sets_of_mixtures_lie_within_each_other_and_held_out_ones_apart():
    assert (len(p3.FOUR), len(p3.EIGHT)) == (4, 8)
    assert set(p3.FOUR) < set(p3.EIGHT) < set(p3.TRAIN)
    assert set(p3.TRAIN).isdisjoint(p3.HELD_OUT)
    assert {*DATA_SETS} - {*p3.TRAIN, *p3.HELD_OUT} == {"hotpot_qa/distractor"}


def test_the_experiment_draws_the_runs_that_it_compares():
    assert bound("p3.gin", "train.best_metric") is None  # the last states: chosen ones have not seen as much
    runs = bound("p3_curves.gin", "curves.runs")
    assert runs == bound("p3_evaluation.gin", "evaluate_module.modules")
    collapse = bound("p3_curves.gin", "curves.collapse")
    assert {method: paths[0] for method, paths in collapse.items()} == runs
    alone = [f"runs/p3/alone_{plain(name)}" for name in p3.TRAIN if DATA_SETS[name].ranked]
    assert expanded(bound("p3_curves.gin", "curves.alone")) == alone
    assert len(alone) == 11


def test_names_are_those_of_p3():
    assert plain("ai2_arc/ARC-Easy") == "ai2_arc_ARC_Easy"
    assert "p3.glue_sst2.review" in p3.names(["glue/sst2"])
    assert "p3.super_glue_copa._What_could_happen_next_C1_or_C2_" in p3.names(["super_glue/copa"])
    for name in p3.names(DATA_SETS):
        assert re.fullmatch(r"p3\.\w+\.\w+", name)


def test_mixtures_hold_their_templates():
    for name, datasets in {"p3_train": p3.TRAIN, "p3_8": p3.EIGHT, "p3_4": p3.FOUR, "p3_held_out": p3.HELD_OUT}.items():
        assert {task.name for task in data.task_rates(name)} == set(p3.names(datasets)), name
    for dataset in DATA_SETS:
        assert {task.name for task in data.task_rates(f"p3_{plain(dataset)}")} == set(p3.names([dataset]))
    ranked = [name for mixture in ("p3_train_ranked", "p3_held_out_ranked") for name in data.task_rates(mixture)]
    assert len(ranked) == 65 + 46
    assert all(task.metric_fns == [accuracy] for task in ranked)


def test_templates_that_write_have_no_metric():
    assert seqio.TaskRegistry.get("p3.glue_mrpc.generate_paraphrase").metric_fns == []
    assert seqio.TaskRegistry.get("p3.piqa.Does_this_solution_make_sense_sol1").metric_fns == [accuracy]


def test_rates_are_t0s():
    rates = {task.name: rate for task, rate in data.task_rates("p3_train").items()}
    assert rates["p3.imdb.Reviewer_Enjoyment"] == 40000
    assert rates["p3.glue_sst2.said"] == 436


def test_rates_follow_the_knob_when_they_are_asked_for(most):
    most(11000)
    rates = {task.name: rate for task, rate in data.task_rates("p3_train").items()}
    assert rates["p3.imdb.Reviewer_Enjoyment"] == 11000 // 11
    assert rates["p3.glue_sst2.said"] == 436
    most(3)
    assert set(data.task_rates("p3_train").values()) == {1}


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "many"])
def test_a_knob_that_is_no_number_is_refused(most, wrong):
    most(wrong)
    with pytest.raises(UserError, match=f"p3.most_examples is {wrong!r}; give a whole number of examples, at least 1"):
        data.task_rates("p3_train")


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "many"])
def test_nor_one_of_evaluation(most_evaluated, wrong):
    most_evaluated(wrong)
    with pytest.raises(UserError, match=f"p3.most_evaluated is {wrong!r}; give a whole number of examples, at least 1"):
        data.task_rates("p3_train")


def test_docs_say_where_the_training_split_of_each_data_set_is_from():
    found = {row[0]: row[1:] for row in table("tasks.md", "data set")}
    assert list(found) == [f"p3.{plain(name)}" for name in DATA_SETS]
    mixtures = {"p3_4": p3.FOUR, "p3_8": p3.EIGHT, "p3_train": p3.TRAIN, "p3_held_out": p3.HELD_OUT}
    for name, listed in DATA_SETS.items():
        templates, ranked, train, records, where = found[f"p3.{plain(name)}"]
        assert (int(templates), int(ranked)) == (len(listed.templates), len(listed.ranked)), name
        assert records == " / ".join(f"{size:,}" for size in listed.sizes.values()), name
        assert where == ", ".join(f"`{mixture}`" for mixture, members in mixtures.items() if name in members), name
        assert (train == "carved out of the validation set") == is_carved(name), name


def is_carved(name):
    """What the task file says that the records come from."""
    reader = p3_records.SOURCES[name].records
    module = sys.modules[getattr(reader, "func", reader).__module__]
    if module is p3_records:  # it reads these itself, the open ones out of validation sets
        return not name.startswith("ai2_arc")
    return "CARVED OUT OF THAT" in module.__doc__


# The archives.


@on_text
@every_data_set
def test_the_table_is_that_of_the_archive(name):
    found, listed = p3_templates.read(name), DATA_SETS[name]
    assert sorted(found) == sorted(listed.templates)
    for template in found.values():
        choosing = template.answer_choices is not None and "Accuracy" in template.metadata.metrics
        ranked = choosing and template.metadata.original_task
        if template.name == "Negation template for positive and negative":
            choosing = ranked = False  # its targets are none of its choices
        assert (template.name in listed.writing) == (not choosing), template.name
        assert (template.name in listed.ranked) == ranked, template.name


@on_text
@pytest.mark.slow
@every_data_set
def test_sizes_are_as_written_down_and_records_have_what_templates_ask_for(name):
    assert {split: len(records(name, split)) for split in SPLITS} == DATA_SETS[name].sizes
    for template in p3_templates.read(name).values():
        for split in SPLITS:
            assert template.fields <= records(name, split)[0].keys(), template.name


@on_text
@pytest.mark.slow
@every_data_set
def test_promptsource_itself_renders_the_same(name):
    golden = json.loads(FIXTURE.read_text())
    for template in p3_templates.read(name).values():
        found = []
        for record in records(name, "test")[:5]:
            key = template.key(record)
            found.append([template.render(record, key), template.choices(record, key)])
        digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]
        assert digest == golden[f"p3.{plain(name)}.{plain(template.name)}"], template.name


@on_text
@pytest.mark.slow
@every_data_set
def test_every_template_has_examples_that_fit(name):
    for template in p3_templates.read(name).values():
        maker = p3_examples.Maker(template, template.name not in DATA_SETS[name].writing, LENGTHS)
        found = [example for record in records(name, "test")[:12] for example in maker.examples(record)]
        assert len(found) >= 3, template.name
        for example in found:
            fits = len(p3_examples.lm_tokenizer().encode(example["inputs"])) < LENGTHS["inputs"]
            assert fits or name == "hotpot_qa/distractor"
            assert not re.search(r"\{\{|\}\}|\{%|\|\|\|", example["inputs"] + example["targets"])


@on_text
@pytest.mark.parametrize("folder", ["nq_open", "trivia_qa/unfiltered"])
def test_no_open_question_stands_in_two_splits(folder):
    found = [{normalize(record["question"]) for record in records(folder, split)} for split in SPLITS]
    assert len(set.union(*found)) == sum(map(len, found))


@on_text
def test_splits_are_those_of_the_plain_tasks():
    plain_task = {split: {example["inputs"] for example in members} for split, members in imdb.examples().items()}
    for split in SPLITS:
        ends = {text[text.index("?") + 2 :] for text in plain_task[split]}
        assert {record["text"] for record in records("imdb", split)} == ends


@on_text
@pytest.mark.slow
def test_hellaswag_is_parted_as_it_was():
    def tidy(text):  # what our source has done to it
        text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
        return text.replace("  ", " ").replace(".. ", ". ").strip()

    assert len(hellaswag.records()["test"]) == len(records("hellaswag", "test"))
    differ = 0
    for found, wanted in zip(records("hellaswag", "test"), arrow.read("hellaswag/none/validation"), strict=True):
        assert (found["label"], found["activity_label"]) == (wanted["label"], wanted["activity_label"])
        differ += any(found[name].strip() != tidy(wanted[name]) for name in ("ctx", "ctx_a", "ctx_b"))
    assert differ <= 10, differ


@on_text
def test_seqio_gives_the_examples_with_their_choices():
    (task,) = data.eval_tasks("p3.glue_sst2.said", LENGTHS, "test")
    assert (task.split_size, task.predict_metrics) == (100, [accuracy])
    for example in task.examples:
        assert example.inputs_text.startswith('Someone just said to me "')
        assert example.inputs_text.endswith("Do you think they are sad or happy?")
        assert example.inputs[-1] == 1
        assert len(example.inputs) <= LENGTHS["inputs"]
        assert list(example.choices) == ["sad", "happy"]
        assert example.targets_text in example.choices


@on_text
def test_a_template_trains_on_a_fixed_sample_of_its_own(most):
    most(50)
    found = {name: data.train_tokens(f"p3.glue_sst2.{name}", LENGTHS)[0] for name in ("said", "review")}
    assert [len(tokens) for tokens in found.values()] == [10, 10]
    sources = [seqio.TaskRegistry.get(f"p3.glue_sst2.{name}").source for name in found]
    said, review = ({row["record"] for row in s.get_dataset("train").as_numpy_iterator()} for s in sources)
    assert said != review
    again = data.train_tokens("p3.glue_sst2.said", LENGTHS)[0]
    assert again.features["inputs"].tokens.tolist() == found["said"].features["inputs"].tokens.tolist()
    most(100)
    more = data.train_tokens("p3.glue_sst2.said", LENGTHS)[0].features["inputs"]
    rows = {tuple(more[row]) for row in range(len(more))}
    assert len(more) == 20
    assert {tuple(found["said"].features["inputs"][row]) for row in range(10)} < rows, "a larger one holds the smaller"


@on_text
def test_equal_numbers_of_examples_of_two_templates_are_the_same_record():
    wanted = [record["sentence"].strip() for record in records("glue/sst2", "test")]
    shown = {}
    for name in ("said", "review"):
        (task,) = data.eval_tasks(f"p3.glue_sst2.{name}", LENGTHS, "test", max_examples=80)
        shown[name] = {example.index for example in task.examples}
        assert len(shown[name]) == 80
        for example in task.examples:
            assert wanted[example.index] in example.inputs_text
    assert shown["said"] != shown["review"]
    assert shown["said"] & shown["review"]


@on_text
def test_as_much_is_evaluated_as_is_asked_for(most_evaluated):
    def size():
        return data.eval_tasks("p3.glue_sst2.said", LENGTHS, "test")[0].split_size

    most_evaluated(7)
    assert size() == 7
    most_evaluated(None)
    assert size() == DATA_SETS["glue/sst2"].sizes["test"] == 262


@on_text
def test_a_template_without_examples_in_a_sample_is_left_out_of_the_mixture(most, capsys):
    most(1)  # a record a template; the one drawn for this template is no paraphrase, which it would write
    batches = train_batches("p3_glue_mrpc", LENGTHS, 4)
    empty = "p3.glue_mrpc.generate_sentence"
    assert sorted([*(task.name for task in batches.tasks), empty]) == sorted(p3.names(["glue/mrpc"]))
    assert f"left out, as they have no examples in the split 'train': {empty}\n" in capsys.readouterr().err
    assert batches.batch(0).inputs.shape[0] == 4
