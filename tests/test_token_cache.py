"""Token files give what the task gives, and nothing else: no other settings, no damaged files, no code."""

import dataclasses
import json

import numpy as np
import pytest

from frozen_jax import cloud_storage, templates, text_metrics, token_cache
from frozen_jax.answering import EvalExample, EvalTask, unchanged
from frozen_jax.batching import Ragged, TaskTokens
from frozen_jax.errors import UserError
from frozen_jax.ordering import sample
from frozen_jax.tokenizer import load_tokenizer
from tests import tiny_tokenizer
from tests.emulated_cloud import serving

LENGTHS = {"inputs": 6, "targets": 3}


@pytest.fixture
def made(tmp_path, monkeypatch):
    tokenizer = load_tokenizer(tiny_tokenizer.write(tmp_path))
    monkeypatch.setattr(token_cache, "lm_tokenizer", lambda: tokenizer)
    return token_cache.made_now("mix", LENGTHS, pack=False)


def tokens(name="one", rate=2.0):
    inputs, targets = [[3, 4, 1], [0, 0], []], [[5], [6, 1], [0]]
    return TaskTokens(name, {"inputs": Ragged.from_sequences(map(np.array, inputs)), "targets": ragged(targets)}, rate)


def ragged(rows):
    return Ragged.from_sequences(map(np.array, rows))


def example(index):
    raw = {
        "inputs": np.array([3, index, 1], np.int32),
        "targets": np.array([5, 1], np.int64),
        "inputs_pretokenized": "zero – 漢字 \u2028".encode(),
        "answers": np.array([b"two", b"\xff no text"], object),
        "weight": np.float32(0.1),
        "table": np.arange(6, dtype=np.int16).reshape(2, 3),
        "flag": np.bool_(True),
    }
    choices = {"yes": np.array([13, 1], np.int32), "no": np.array([14, 1], np.int32)}
    return EvalExample(index, raw["inputs"], raw["targets"].astype(np.int32), "zero", "two", choices, raw)


def eval_task(name="one", count=20, **changes):
    settings = {
        "decode": str,
        "postprocess": text_metrics.squad_postprocessor,
        "predict_metrics": [text_metrics.squad, text_metrics.accuracy],
        "score_metrics": [],
    }
    return EvalTask(name, "test", count, [example(i) for i in range(count)], 3, **settings | changes)


def with_encoder(task):
    """The same examples, with what an encoder reads; seqio's own fields hold it too."""
    examples = [
        dataclasses.replace(
            e, encoder_inputs=np.array([9, i, 1], np.int32), raw={**e.raw, "encoder_inputs": np.array([9, i, 1])}
        )
        for i, e in enumerate(task.examples)
    ]
    return dataclasses.replace(task, examples=examples)


def assert_same_field(one, other):
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert (one.dtype, one.shape, one.tolist()) == (other.dtype, other.shape, other.tolist())
    else:
        assert one == other


def test_what_is_read_is_what_was_written(made, tmp_path):
    token_cache.write(tmp_path / "c", made, [tokens("one"), tokens("two", 0.5)], [eval_task()])
    read = token_cache.train_tokens(tmp_path / "c", made)
    assert [(task.name, task.rate, len(task), task.packed) for task in read] == [
        ("one", 2.0, 3, False),
        ("two", 0.5, 3, False),
    ]
    assert [read[0].features["inputs"][i].tolist() for i in range(3)] == [[3, 4, 1], [0, 0], []]
    (task,) = token_cache.eval_tasks(tmp_path / "c", made, "test")
    assert (task.name, task.split, task.split_size, task.targets_length) == ("one", "test", 20, 3)
    assert (task.postprocess, task.unmeasured) == (text_metrics.squad_postprocessor, [])
    assert task.predict_metrics == [text_metrics.squad, text_metrics.accuracy]
    assert task.decode([5, 13, 1]) == "two yes"
    for found, wanted in zip(task.examples, eval_task().examples, strict=True):
        for field in ("index", "inputs", "targets", "inputs_text", "targets_text"):
            assert_same_field(getattr(found, field), getattr(wanted, field))
        assert {text: ids.tolist() for text, ids in found.choices.items()} == {"yes": [13, 1], "no": [14, 1]}
        assert found.raw.keys() == wanted.raw.keys()
        for name in wanted.raw:
            assert_same_field(found.raw[name], wanted.raw[name])


def test_a_sample_is_that_of_the_task_itself(made, tmp_path):
    token_cache.write(tmp_path, made, [], [eval_task()])
    (task,) = token_cache.eval_tasks(tmp_path, made, "test", max_examples=5, seed=3)
    assert task.split_size == 20
    assert [e.index for e in task.examples] == sample(20, 5, 3, "one")


def test_metrics_without_a_name_stay_behind_and_are_named(made, tmp_path):
    def of_my_own(targets, predictions):
        return {}

    token_cache.write(tmp_path, made, [], [eval_task(predict_metrics=[text_metrics.accuracy, of_my_own])])
    (task,) = token_cache.eval_tasks(tmp_path, made, "test")
    assert (task.predict_metrics, task.unmeasured) == ([text_metrics.accuracy], ["of_my_own"])


def test_a_postprocessor_without_a_name_leaves_its_metrics_behind(made, tmp_path):
    token_cache.write(tmp_path, made, [], [eval_task(postprocess=lambda text, **_: text)])
    (task,) = token_cache.eval_tasks(tmp_path, made, "test")
    assert (task.predict_metrics, task.unmeasured) == ([], ["squad", "accuracy"])
    token_cache.write(tmp_path, made, [], [eval_task(postprocess=unchanged)])
    assert token_cache.eval_tasks(tmp_path, made, "test")[0].unmeasured == []


def test_other_settings_are_refused(made, tmp_path, monkeypatch):
    folder = tmp_path / "c"
    token_cache.write(folder, made, [tokens()], [])
    others = {
        "mixture_or_task_name 'mix', and 'other' is wanted": ("other", LENGTHS, False),
        r"task_feature_lengths .*6.*, and .*7.* is wanted": ("mix", {"inputs": 7, "targets": 3}, False),
        "pack False, and True is wanted; name another TOKEN_CACHE_DIR": ("mix", LENGTHS, True),
    }
    for message, settings in others.items():
        with pytest.raises(UserError, match=message):
            token_cache.train_tokens(folder, token_cache.made_now(*settings))
    (tmp_path / "other").mkdir()
    words = ["<pad>", "</s>", "<unk>", *reversed(tiny_tokenizer.WORDS[3:])]
    other = load_tokenizer(tiny_tokenizer.write(tmp_path / "other", words))
    monkeypatch.setattr(token_cache, "lm_tokenizer", lambda: other)
    with pytest.raises(UserError, match=r"the vocabulary .* \(sha256 \w{12}\), and .*other.* is wanted"):
        token_cache.train_tokens(folder, token_cache.made_now("mix", LENGTHS, pack=False))


def test_another_size_of_p3_is_refused_where_there_is_p3(made, tmp_path):
    token_cache.write(tmp_path / "p3", made, [tokens(), tokens("p3.a.b")], [])
    token_cache.write(tmp_path / "evaluated", made, [tokens()], [eval_task("p3.a.b")])
    token_cache.write(tmp_path / "none", made, [tokens(), tokens("p3")], [eval_task()])
    for name, was in {"most_examples": 500_000, "most_evaluated": 100}.items():
        other = dataclasses.replace(made, **{f"p3_{name}": 10})
        for folder in ("p3", "evaluated"):
            with pytest.raises(UserError, match=rf"was made with p3.{name} {was}, and 10 is wanted"):
                token_cache.train_tokens(tmp_path / folder, other)
        assert len(token_cache.train_tokens(tmp_path / "none", other)) == 2


def test_the_data_set_of_a_task_is_known_where_no_module_says_it(made, tmp_path, monkeypatch):
    monkeypatch.setattr(templates, "_REGISTERED", {"sst2_v1.1_said": "sst2_v1.1"})
    token_cache.write(tmp_path, made, [], [eval_task("sst2_v1.1_said"), eval_task("p3.a.b"), eval_task("plain")])
    monkeypatch.setattr(templates, "_REGISTERED", {})
    names = [task.name for task in token_cache.eval_tasks(tmp_path, made, "test")]
    assert [templates.data_set_of(name) for name in names] == ["sst2_v1.1", "p3.a", "plain"]


def test_what_an_encoder_reads_is_read_again(made, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    words = ["<pad>", "</s>", "<unk>", *reversed(tiny_tokenizer.WORDS[3:])]
    encoder = load_tokenizer(tiny_tokenizer.write(tmp_path / "other", words))
    monkeypatch.setattr(token_cache, "encoder_tokenizer", lambda: encoder)
    mine = token_cache.made_now("mix", LENGTHS | {"encoder_inputs": 4}, pack=False)
    assert (mine.encoder_tokenizer_sha256, made.encoder_tokenizer_sha256) == (encoder.sha256, "")
    rows = [[9, 9], [], [8]]
    train = dataclasses.replace(tokens(), features={**tokens().features, "encoder_inputs": ragged(rows)})
    token_cache.write(tmp_path / "c", mine, [train], [with_encoder(eval_task())])
    (found,) = token_cache.train_tokens(tmp_path / "c", mine)
    assert [found.features["encoder_inputs"][i].tolist() for i in range(3)] == rows
    (task,) = token_cache.eval_tasks(tmp_path / "c", mine, "test")
    assert [e.encoder_inputs.tolist() for e in task.examples] == [[9, i, 1] for i in range(20)]
    with pytest.raises(UserError, match="made with task_feature_lengths"):
        token_cache.train_tokens(tmp_path / "c", made)
    monkeypatch.setattr(token_cache, "encoder_tokenizer", token_cache.lm_tokenizer)
    other = token_cache.made_now("mix", LENGTHS | {"encoder_inputs": 4}, pack=False)
    with pytest.raises(UserError, match=r"the encoder's vocabulary .*other.* \(sha256 \w{12}\), and .* is wanted"):
        token_cache.train_tokens(tmp_path / "c", other)


def test_files_from_before_encoders_had_inputs_are_still_read(made, tmp_path):
    token_cache.write(tmp_path, made, [tokens()], [eval_task()])

    def older(manifest):
        for name in ("encoder_tokenizer", "encoder_tokenizer_sha256"):
            del manifest["made"][name]

    changed(older)(tmp_path)
    assert token_cache.train_tokens(tmp_path, made)[0].features.keys() == {"inputs", "targets"}
    assert token_cache.eval_tasks(tmp_path, made, "test")[0].examples[0].encoder_inputs is None


def test_files_from_before_templates_are_of_none(made, tmp_path):
    token_cache.write(tmp_path, made, [tokens()], [])
    changed(lambda manifest: manifest["made"].pop("template"))(tmp_path)
    assert token_cache.train_tokens(tmp_path, made)
    with pytest.raises(
        UserError, match=r"made with lm_tokenizer.template '', and '\{inputs\}:' is wanted; name another"
    ):
        token_cache.train_tokens(tmp_path, dataclasses.replace(made, template="{inputs}:"))


def test_the_same_tokenizer_under_another_path_will_do(made, tmp_path):
    token_cache.write(tmp_path, made, [tokens()], [])
    moved = dataclasses.replace(made, tokenizer="/somewhere/else")
    assert token_cache.train_tokens(tmp_path, moved)


def test_without_its_manifest_a_cache_counts_as_absent(made, tmp_path):
    assert not token_cache.is_complete(tmp_path, made)
    token_cache.write(tmp_path, made, [tokens()], [])
    assert token_cache.is_complete(tmp_path, made)
    (tmp_path / "manifest.json").unlink()
    assert not token_cache.is_complete(tmp_path, made)
    with pytest.raises(UserError, match="holds no token cache, or one that was not finished; make it with"):
        token_cache.train_tokens(tmp_path, made)


def test_the_training_split_is_there_as_text_where_that_was_wanted(made, tmp_path):
    train = [dataclasses.replace(eval_task(name), split="train") for name in ("one", "untrained")]
    token_cache.write(tmp_path, made, [tokens(rate=0.5)], [*train, eval_task()])
    [(task, rate)] = token_cache.train_texts(tmp_path, made, max_examples=4, seed=3)
    assert (task.name, task.split, rate) == ("one", "train", 0.5)
    assert [e.index for e in task.examples] == sample(20, 4, 3, "one")
    assert task.examples[0].inputs_text == "zero"
    assert token_cache.is_complete(tmp_path, made, train_texts=True)


def test_texts_of_the_training_split_that_are_not_there_are_asked_for(made, tmp_path):
    token_cache.write(tmp_path, made, [tokens()], [eval_task()])
    assert token_cache.is_complete(tmp_path, made)
    for ask in (token_cache.train_texts, lambda *what: token_cache.is_complete(*what, train_texts=True)):
        with pytest.raises(UserError, match=r"as tokens alone; .* cache into it with --gin.cache.train_texts=True"):
            ask(tmp_path, made)


def test_a_split_that_is_not_there_is_named(made, tmp_path):
    token_cache.write(tmp_path, made, [], [eval_task()])
    with pytest.raises(UserError, match="holds no split 'validation' to evaluate on; it holds: test"):
        token_cache.eval_tasks(tmp_path, made, "validation")
    with pytest.raises(UserError, match="holds no split 'train'"):
        token_cache.train_tokens(tmp_path, made)


def cut(folder):
    file = folder / "one" / "train.inputs.tokens"
    file.write_bytes(file.read_bytes()[:-4])


def flipped(folder):
    file = folder / "one" / "train.targets.tokens"
    file.write_bytes(bytes(255 - byte for byte in file.read_bytes()))


def gone(folder):
    (folder / "one" / "train.inputs.offsets").unlink()


def changed(change):
    def damage(folder):
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return damage


def no_json(folder):
    (folder / "manifest.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "train.inputs.tokens has 16 bytes, not 20"),
        (flipped, "train.targets.tokens has another sha256"),
        (gone, "FileNotFoundError"),
        (no_json, "JSONDecodeError"),
        (changed(lambda m: m["train"][0].update(task="../one")), "'../one' cannot be the name of a file"),
        (changed(lambda m: m["train"][0].pop("rate")), "KeyError: 'rate'"),
        (changed(lambda m: m.update(format=2)), "format 2; this version reads 1"),
    ],
)
def test_damage_gets_one_line(made, tmp_path, damage, message):
    token_cache.write(tmp_path, made, [tokens()], [])
    damage(tmp_path)
    with pytest.raises(UserError, match=rf"this token cache is damaged \(.*{message}.*; delete it and cache anew"):
        token_cache.train_tokens(tmp_path, made)


def test_metrics_in_a_manifest_are_names_in_a_table_and_nothing_else(made, tmp_path):
    token_cache.write(tmp_path, made, [], [eval_task()])
    changed(lambda m: m["evaluation"][0].update(predict_metrics=["os.system"]))(tmp_path)
    with pytest.raises(UserError, match=r"damaged \(KeyError: 'os.system'"):
        token_cache.eval_tasks(tmp_path, made, "test")


def test_a_field_that_is_neither_text_nor_numbers_is_named(made, tmp_path):
    task = eval_task()
    task.examples[0].raw["odd"] = object()
    with pytest.raises(UserError, match="field 'odd' of the examples is neither text nor numbers"):
        token_cache.write(tmp_path, made, [], [task])
    assert not token_cache.is_complete(tmp_path, made)


def test_a_cache_may_be_in_a_bucket(made, monkeypatch):
    with serving() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        cloud_storage._ask.cache_clear()
        cloud_storage._client.cache_clear()
        assert not token_cache.is_complete("gs://bucket/tokens", made)
        token_cache.write("gs://bucket/tokens", made, [tokens()], [eval_task()])
        assert token_cache.is_complete("gs://bucket/tokens", made)
        assert token_cache.train_tokens("gs://bucket/tokens", made)[0].features["inputs"][0].tolist() == [3, 4, 1]
        assert len(token_cache.eval_tasks("gs://bucket/tokens", made, "test")[0].examples) == 20
        with pytest.raises(UserError, match="there is no bucket 'absent'; make it, or mend its name"):
            token_cache.train_tokens("gs://absent/tokens", made)
    cloud_storage._ask.cache_clear()
    cloud_storage._client.cache_clear()
