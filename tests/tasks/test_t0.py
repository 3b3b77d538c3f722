"""T0's mixtures on tiny folders in P3's own format: their members, as text, in batches, from a folder and the hub."""

import itertools
import json
import pathlib
import types

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf

from frozen_jax import answering, data, hub, templates
from frozen_jax.errors import UserError
from frozen_jax.evaluation import judge
from tasks import t0
from tests import tiny_tokenizer

LENGTHS = {"inputs": 8, "targets": 4}
BOOLQ, MRPC, AMAZON = "super_glue_boolq_exam", "glue_mrpc_replace", "amazon_polarity_Is_this_review"
STRING, IDS = {"shape": [], "dtype": "string"}, {"shape": [None], "dtype": "int32"}
FEATURES = {"inputs": IDS, "targets": IDS, "inputs_pretokenized": STRING, "targets_pretokenized": STRING}
CHOICES = {"answer_choices": {"shape": [None], "dtype": "string"}}


def write(folder, task, split, rows, choices=(), features=None, shards=1):
    """A split as seqio_cache_tasks leaves it: token ids of another vocabulary, and the texts they were made of."""
    folder = folder / task
    folder.mkdir(parents=True, exist_ok=True)
    features = features or (FEATURES | (CHOICES if choices else {}))
    info = {"num_shards": shards, "features": features, "seqio_version": "0.0.6"}
    (folder / f"info.{split}.json").write_text(json.dumps(info))
    (folder / f"stats.{split}.json").write_text(json.dumps({"examples": len(rows)}))
    (folder / "COMPLETED").touch()
    for i in range(shards):
        with tf.io.TFRecordWriter(str(folder / f"{split}.tfrecord-{i:05d}-of-{shards:05d}")) as file:
            for inputs, targets in rows[i::shards]:
                file.write(record(inputs, targets, choices))


def record(inputs, targets, choices):
    texts = {"inputs_pretokenized": [inputs], "targets_pretokenized": [targets]}
    texts |= {"answer_choices": choices} if choices else {}
    feature = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode() for text in value]))
        for name, value in texts.items()
    }
    ids = tf.train.Feature(int64_list=tf.train.Int64List(value=[4711, 1]))
    return tf.train.Example(
        features=tf.train.Features(feature={**feature, "inputs": ids, "targets": ids})
    ).SerializeToString()


@pytest.fixture
def p3(tmp_path, monkeypatch):
    """The folder of SEQIO_CACHE_DIRS, empty."""
    with gin.unlock_config():
        gin.bind_parameter("lm_tokenizer.source", tiny_tokenizer.write(tmp_path))
    monkeypatch.setattr(seqio.utils, "_GLOBAL_CACHE_DIRECTORIES", [str(tmp_path / "data")])
    yield tmp_path / "data"
    gin.clear_config()


def texts(task, split="train"):
    found = seqio.TaskRegistry.get(task).source.get_dataset(split, shuffle=False).as_numpy_iterator()
    return [(example["inputs"].decode(), example["targets"].decode()) for example in found]


def test_data_sets_of_each_mixture():
    """T0 has 38 of the 54 rows, T0+ GPT-3's evaluation sets as well, T0++ those of SuperGLUE too (Sanh et al. 2022)."""
    rates = [data.task_rates(mixture) for mixture in t0.MIXTURES]
    names = [{task.name for task in tasks} for tasks in rates]
    rows = [sum(set(row.tasks) <= members for row in t0.DATA_SETS) for members in names]
    assert rows == [38, 48, 54]
    assert [len(members) for members in names] == [313, 392, 464]
    assert names[0] < names[1] < names[2]
    held_out = ("super_glue_rte", "super_glue_cb", "anli", "winogrande", "story_cloze")
    assert not [name for name in names[2] if name.startswith(held_out)]


def test_tasks_have_the_names_of_p3():
    names = {task for row in t0.DATA_SETS for task in row.tasks}
    assert names >= {
        BOOLQ,
        "cos_e_v1.11_rationale",
        "cnn_dailymail_3.0.0_2_or_3_sentences",
        "ai2_arc_ARC_Challenge_heres_a_problem",
        "super_glue_copa__why_C1_or_C2",
        "dbpedia_14_given_a_choice_of_categories_",
    }
    assert all(f"{row.name}_" == task[: len(row.name) + 1] for row in t0.DATA_SETS for task in row.tasks)


def test_results_are_summed_up_by_data_set():
    tasks = [task for row in t0.DATA_SETS for task in row.tasks]
    assert templates.by_data_set(tasks) == {row.name: row.tasks for row in t0.DATA_SETS}


def test_rates_are_examples_and_what_is_large_is_shared_by_its_templates():
    rates = {task.name: rate for task, rate in data.task_rates("t0++_train").items()}
    assert rates[BOOLQ] == 9427
    assert rates["glue_qqp_answer"] == 363_846  # six templates: 2 million examples, and yet T0 does not share them out
    assert rates[AMAZON] == 500_000 // 9
    assert {row.name for row in t0.DATA_SETS if row.rate < row.examples} == {
        "amazon_polarity",
        "yelp_review_full",
        "wiki_bio",
        "gigaword",
        "dbpedia_14",
    }


def test_examples_are_text_in_the_vocabulary_of_the_lm(p3):
    write(
        p3, BOOLQ, "train", [("one two ", "\nyes"), ("three", " no"), ("four five six", "yes")], ["yes", "no"], shards=2
    )
    found = data.train_tokens(BOOLQ, LENGTHS)[0].features
    words = ["<pad>", "</s>", "<unk>", *tiny_tokenizer.NUMBERS, "yes", "no"]
    read = {(" ".join(words[i] for i in x), words[y[0]]) for x, y in zip(*found.values(), strict=True)}
    assert read == {("one two </s>", "yes"), ("three </s>", "no"), ("four five six </s>", "yes")}


def test_answer_choices_are_scored_and_what_has_none_is_written(p3):
    write(p3, BOOLQ, "validation", [("one", "\nyes"), ("two", "\nno")], ["yes", "no"])
    write(p3, MRPC, "validation", [("one", "two"), ("three", "four five")])
    chosen, written = (data.eval_tasks(name, LENGTHS)[0] for name in (BOOLQ, MRPC))
    assert [list(example.choices) for example in chosen.examples] == [["yes", "no"]] * 2
    assert all(example.targets_text in example.choices for example in chosen.examples)
    assert [example.choices for example in written.examples] == [{}, {}]
    for task in (chosen, written):
        for said, accuracy in ([example.targets_text for example in task.examples], 1.0), (["one"] * 2, 0.0):
            assert judge(task, answering.Answers(said, np.zeros(2), [{}, {}])).metrics == {"accuracy": accuracy}


def test_a_mixture_draws_from_the_folders_of_its_tasks(p3):
    for task in (task for row in t0.DATA_SETS for task in row.tasks):
        (p3 / task).mkdir(parents=True)
        (p3 / task / "info.train.json").touch()
    assert {task.name for task in data.find_tasks("t0++_train", "train")} == {path.name for path in p3.iterdir()}
    (p3 / BOOLQ).rename(p3 / "elsewhere")
    t0.files.cache_clear()
    with pytest.raises(UserError, match=f"task {BOOLQ}: no folder"):
        data.find_tasks("t0++_train", "train")


def test_of_a_large_set_each_template_reads_another_part(p3):
    rows = [(f"review {i}", "yes") for i in range(130)]
    one, other = t0.DATA_SETS[[row.name for row in t0.DATA_SETS].index("amazon_polarity")].tasks[:2]
    for task in (one, other):
        write(p3, task, "train", rows)
    write(p3, one, "validation", rows)
    assert [inputs for inputs, _ in texts(one)] == ["review 0", "review 64", "review 128"]
    assert [inputs for inputs, _ in texts(other)] == ["review 1", "review 65", "review 129"]
    assert texts(one, "validation") == rows


def test_a_split_without_labels_is_no_split(p3):
    write(p3, BOOLQ, "train", [("one", "yes")])
    write(p3, BOOLQ, "test", [("one", "no")])
    assert seqio.TaskRegistry.get(BOOLQ).splits == ("train",)


def test_use_cached_tasks_changes_nothing(p3):
    write(p3, MRPC, "train", [("one", "two")])
    (plain, cached) = (data.train_tokens(MRPC, LENGTHS, use_cached=use)[0].features for use in (False, True))
    assert plain["inputs"][0].tolist() == cached["inputs"][0].tolist() == [4, 1]


def test_mistakes_are_said_in_one_line(p3):
    def refused(match):
        with pytest.raises(UserError, match=match) as error:
            data.train_tokens(BOOLQ, LENGTHS)
        assert "\n" not in str(error.value)

    refused(f"task {BOOLQ}: no folder {BOOLQ} in .*{p3}.*SEQIO_CACHE_DIRS has to name the folder data of a copy")
    t0.files.cache_clear()
    write(p3, BOOLQ, "train", [("one", "yes")], features={name: FEATURES[name] for name in ("inputs", "targets")})
    refused(f"{BOOLQ}: the records of train have no inputs_pretokenized, targets_pretokenized")
    info = p3 / BOOLQ / "info.train.json"
    for damaged in ('{"num_sh', "[]", "{}", '{"features": {}}', '{"features": 1, "num_shards": 1}', "\x00"):
        info.write_text(damaged)
        refused(rf"{BOOLQ}: {info} is damaged \(\w+: .*\); copy it again$")
    write(p3, BOOLQ, "train", [("one", "yes"), ("two", "no")], shards=2)
    t0.files.cache_clear()
    shard = p3 / BOOLQ / "train.tfrecord-00001-of-00002"
    shard.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4711\n")
    refused(f"{shard} is only a pointer to the real file; run `git lfs pull`")
    shard.unlink()
    t0.files.cache_clear()
    refused(f"{BOOLQ}: {shard.name} is missing beside {shard.parent}")


@pytest.fixture
def the_hub(p3, monkeypatch):
    """A hub that holds the folder data, and what was downloaded from it; no SEQIO_CACHE_DIRS.

    Its main branch moves on whenever it is asked about, so that only the first commit may be read.
    """
    downloaded, asked = [], itertools.count()

    def info(hub_id):
        assert hub_id == "bigscience/P3"
        return types.SimpleNamespace(sha=f"commit {next(asked)}")

    def download(hub_id, file, *, repo_type, revision):
        assert (hub_id, repo_type, revision) == ("bigscience/P3", "dataset", "commit 0")
        downloaded.append(file)
        return str(p3.parent / file)

    def listing(hub_id, *, repo_type, revision):
        assert (hub_id, repo_type, revision) == ("bigscience/P3", "dataset", "commit 0")
        return ["README.md", "P3.py", *(str(path.relative_to(p3.parent)) for path in p3.glob("*/*"))]

    monkeypatch.setattr(seqio.utils, "_GLOBAL_CACHE_DIRECTORIES", [])
    monkeypatch.setattr(
        "huggingface_hub.HfApi", lambda: types.SimpleNamespace(list_repo_files=listing, dataset_info=info)
    )
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    yield downloaded
    for cached in (t0.files, hub.data_files, hub.data_commit):
        cached.cache_clear()


def test_from_the_hub_only_what_is_read_is_fetched(p3, the_hub):
    for task in (BOOLQ, MRPC):
        for split in ("train", "validation"):
            write(p3, task, split, [("one", "yes")])
    assert len(data.train_tokens(BOOLQ, LENGTHS)[0]) == 1
    assert [pathlib.Path(file).name for file in the_hub] == ["info.train.json", "train.tfrecord-00000-of-00001"]
    with pytest.raises(UserError, match=f"{AMAZON}: bigscience/P3 on the hub has no folder data/{AMAZON}"):
        data.train_tokens(AMAZON, LENGTHS)


def test_a_hub_that_does_not_answer_is_said_in_one_line(p3, the_hub, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network\nat all")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    write(p3, MRPC, "train", [("one", "two")])
    with pytest.raises(UserError, match=r"info.train.json of .* could not be fetched .* no network at all$"):
        data.train_tokens(MRPC, LENGTHS)
    monkeypatch.setattr("huggingface_hub.HfApi", refuse)
    hub.data_files.cache_clear()
    with pytest.raises(UserError, match=r"not be asked for the files of 'bigscience/P3': no network at all$"):
        data.train_tokens(BOOLQ, LENGTHS)
