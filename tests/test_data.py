"""From seqio tasks to batches and evaluation examples, on small tasks registered here."""

import functools

import gin
import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf

from frozen_jax import data, token_cache
from frozen_jax.errors import UserError
from frozen_jax.lm.decoding import Greedy
from frozen_jax.lm.generation import Generated, Stop
from frozen_jax.methods.base import Method
from frozen_jax.runs import task_data
from frozen_jax.runs.infer import _Answerer
from frozen_jax.tokenizer import encoder_tokenizer, lm_tokenizer
from tasks.common import OUTPUT_FEATURES, PREPROCESSORS
from tests import tiny, tiny_tokenizer
from tests.task_batches import train_batches
from tests.tiny_tokenizer import NUMBERS

LENGTHS = {"inputs": 6, "targets": 3}
NO_VOCABULARY = seqio.PassThroughVocabulary(15)
FEATURES = {name: seqio.Feature(data.LMVocabulary(), add_eos=True) for name in ("inputs", "targets")}
TOKENIZE = [
    seqio.preprocessors.tokenize,
    seqio.CacheDatasetPlaceholder(),
    seqio.preprocessors.append_eos_after_trim,
]


def examples(count=10, **more):
    """Example i counts from 0 to i and asks for the last word."""
    texts = [" ".join(NUMBERS[: i % 10 + 1]) for i in range(count)]
    return {"inputs": texts, "targets": [text.split()[-1] for text in texts], **more}


def source(columns, splits=("train", "validation")):
    def dataset(split, shuffle_files):
        return tf.data.Dataset.from_tensor_slices(columns)

    return seqio.FunctionDataSource(dataset, splits)


def hits(targets, predictions):
    return {"hits": float(np.mean(np.array(targets) == np.array(predictions)))}


def add(name, columns=None, preprocessors=TOKENIZE, splits=("train", "validation"), features=FEATURES, **more):
    settings = {"preprocessors": preprocessors, "output_features": features, "metric_fns": [hits]} | more
    return seqio.TaskRegistry.add(name, source=source(columns or examples(), splits), **settings)


@pytest.fixture(autouse=True)
def _registries_and_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setattr(seqio.TaskRegistry, "_REGISTRY", {})
    monkeypatch.setattr(seqio.MixtureRegistry, "_REGISTRY", {})
    with gin.unlock_config():
        gin.bind_parameter("lm_tokenizer.source", tiny_tokenizer.write(tmp_path))
    yield
    gin.clear_config()


def decoded(tokens):
    return lm_tokenizer().decode(tokens.tolist())


# The vocabulary.


def test_vocabulary_is_the_bound_tokenizer():
    vocabulary = data.LMVocabulary()
    assert vocabulary.encode("two yes what") == [5, 13, 2]
    assert vocabulary.decode([5, 13, 1, 4]) == "two yes"
    assert (vocabulary.eos_id, vocabulary.pad_id, vocabulary.vocab_size) == (1, 0, 15)
    assert vocabulary.encode_tf(tf.constant("two yes")).numpy().tolist() == [5, 13]
    assert vocabulary.encode_tf(tf.constant(["two", "", "one no"])).to_list() == [[5], [], [4, 14]]
    assert vocabulary.decode_tf(tf.constant([5, 13, 1, 4])).numpy() == b"two yes"


def test_another_tokenizer_is_one_binding(tmp_path):
    task = add("counting")
    (tmp_path / "other").mkdir()
    words = ["<pad>", "</s>", "<unk>", *reversed(tiny_tokenizer.WORDS[3:])]
    with gin.unlock_config():
        gin.bind_parameter("lm_tokenizer.source", tiny_tokenizer.write(tmp_path / "other", words))
    ds = task.get_dataset(sequence_length=LENGTHS, split="train", shuffle=False)
    assert next(ds.as_numpy_iterator())["inputs"].tolist() == [words.index("zero"), 1]


def test_a_scope_of_gin_has_its_own_tokenizer_in_tensorflows_threads_too(tmp_path):
    """A re-ranker that is trained inside a reader's run, for instance."""
    (tmp_path / "other").mkdir()
    path = tiny_tokenizer.write(tmp_path / "other", ["<pad>", "</s>", "<unk>", "one"])
    with gin.unlock_config():
        gin.bind_parameter("other/lm_tokenizer.source", path)

    def tokens():
        texts = tf.data.Dataset.from_tensor_slices(["one"] * 4)
        return texts.map(data.LMVocabulary().encode_tf, num_parallel_calls=4)

    own = list(tokens().as_numpy_iterator())
    with gin.config_scope("other"):
        others = tokens()
    assert {tuple(row) for row in others.as_numpy_iterator()} == {(3,)}  # read outside of the scope, made in it
    assert {tuple(row) for row in own} != {(3,)}


def test_vocabularies_are_equal_so_that_tasks_can_be_mixed():
    assert data.LMVocabulary() == data.LMVocabulary()
    assert data.LMVocabulary() != seqio.PassThroughVocabulary(15)
    assert len({data.LMVocabulary(), data.LMVocabulary()}) == 1


# Training batches.


def test_a_task_as_seqio_sees_it():
    ds = add("counting", examples(2)).get_dataset(sequence_length=LENGTHS, split="train", shuffle=False)
    seqio.test_utils.assert_dataset(
        ds,
        [
            {"inputs": [3, 1], "targets": [3, 1], "inputs_pretokenized": "zero", "targets_pretokenized": "zero"},
            {"inputs": [3, 4, 1], "targets": [4, 1], "inputs_pretokenized": "zero one", "targets_pretokenized": "one"},
        ],
    )


def test_batches_hold_the_examples_of_an_epoch():
    add("counting")
    batches = train_batches("counting", LENGTHS, 5)
    rows = [batches.batch(number) for number in range(2)]
    texts = sorted(decoded(row) for batch in rows for row in batch.inputs)
    # Cut to 6 tokens: five words and the end of the text.
    assert texts == sorted(" ".join(NUMBERS[: min(i + 1, 5)]) for i in range(10))
    targets = sorted(decoded(row) for batch in rows for row in batch.targets)
    assert targets == sorted(NUMBERS)
    assert {batch.inputs.shape[1] for batch in rows} == {6}


def test_plain_seqio_pipeline_gives_the_same_tokens():
    task = add("counting", examples(40))
    tokens = train_batches("counting", LENGTHS, 4).tasks[0].features
    ds = list(task.get_dataset(sequence_length=LENGTHS, split="train", shuffle=False).as_numpy_iterator())
    for feature in ("inputs", "targets"):
        assert [tokens[feature][i].tolist() for i in range(40)] == [e[feature].tolist() for e in ds]


def test_features_of_a_fixed_length_are_no_special_case():
    def ones(dataset):
        return dataset.map(lambda e: {"inputs": tf.ones([4], tf.int32), "targets": tf.ones([2], tf.int32)})

    add("ones", preprocessors=[ones])
    batch = train_batches("ones", LENGTHS, 2).batch(0)
    assert batch.inputs_mask.sum() == 8
    assert batch.targets_weights.sum() == 4


def test_mixture_draws_at_its_rates():
    add("many", examples(10))
    add("few", examples(3))
    seqio.MixtureRegistry.add("both", [("many", 3.0), ("few", lambda task: 1.0)])
    batches = train_batches("both", LENGTHS, 100)
    tasks = [batches.tasks[task].name for number in range(20) for task, _ in batches.rows(number)]
    assert tasks.count("many") / len(tasks) == pytest.approx(0.75, abs=0.05)


def test_tasks_of_a_mixture_without_the_split_or_never_drawn_are_left_out():
    add("many")
    add("no_validation", splits=("train",))
    add("never", {"inputs": [""], "targets": [""]})
    seqio.MixtureRegistry.add("both", [("many", 1.0), ("no_validation", 1.0), ("never", 0.0)])
    assert [t.name for t in train_batches("both", LENGTHS, 2, split="validation").tasks] == ["many"]


def test_tasks_of_a_mixture_without_any_example_are_left_out_and_named(capsys):
    def none(dataset):
        return dataset.take(0)

    for name, steps in {"many": TOKENIZE, "none": [*TOKENIZE, none], "nothing": [*TOKENIZE, none]}.items():
        add(name, preprocessors=steps)
    seqio.MixtureRegistry.add("all", ["many", "none", "nothing"], default_rate=1.0)
    seqio.MixtureRegistry.add("bare", ["none", "nothing"], default_rate=1.0)
    for pack in (False, True):
        assert [t.name for t in data.train_tokens("all", {"inputs": 12, "targets": 12}, pack=pack)] == ["many"]
        said = "all: left out, as they have no examples in the split 'train': none, nothing\n"
        assert capsys.readouterr().err == said
    for name in ("none", "bare"):
        with pytest.raises(UserError, match=f"^{name} has no examples in its split 'train'$"):
            data.train_tokens(name, LENGTHS)


def test_seed_fixes_preprocessors_that_draw_random_numbers():
    @seqio.map_over_dataset(num_seeds=1)
    def noise(example, seed):
        drawn = tf.random.stateless_uniform([4], seed, 3, 13, tf.int32)
        return {"inputs": drawn, "targets": example["targets"]}

    add("noisy", preprocessors=[noise, *TOKENIZE[:1]], features=FEATURES | {"inputs": seqio.Feature(NO_VOCABULARY)})
    first, again, other = (train_batches("noisy", LENGTHS, 5, seed=seed).batch(0) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.inputs, again.inputs)
    assert not np.array_equal(np.sort(first.inputs, 0), np.sort(other.inputs, 0))


def test_packing_puts_whole_examples_into_rows_and_loses_none():
    def doubled(dataset):  # token 0 is a real token too
        return dataset.map(lambda e: e | {"inputs": tf.concat([e["inputs"], [0]], 0)})

    add("counting", examples(40), preprocessors=[*TOKENIZE, doubled])
    lengths = {"inputs": 24, "targets": 12}
    (plain,) = data.train_tokens("counting", lengths)
    (packed,) = data.train_tokens("counting", lengths, pack=True)
    assert len(packed) < len(plain) == 40

    def found(row):
        parts = []
        for name in ("inputs", "targets"):
            tokens, segments = packed.features[name][row], packed.features[f"{name}_segments"][row]
            assert len(tokens) == len(segments) <= lengths[name]
            parts.append([tokens[segments == number].tolist() for number in range(1, segments.max() + 1)])
        return zip(*parts, strict=True)

    rows = sorted(pair for row in range(len(packed)) for pair in found(row))
    assert rows == sorted(tuple(plain.features[name][i].tolist() for name in ("inputs", "targets")) for i in range(40))


def test_packing_depends_on_the_seed_alone():
    add("counting", examples(40))
    first, again, other = (
        data.train_tokens("counting", {"inputs": 24, "targets": 12}, pack=True, seed=seed)[0].features["inputs"].tokens
        for seed in (0, 0, 1)
    )
    assert first.tolist() == again.tolist() != other.tolist()


def test_packed_tasks_are_mixed_by_their_examples():
    add("short", {"inputs": ["one"] * 60, "targets": ["two"] * 60})
    add("long", {"inputs": ["one two three four five"] * 60, "targets": ["two"] * 60})
    seqio.MixtureRegistry.add("both", ["short", "long"], default_rate=1.0)
    tokens = data.train_tokens("both", {"inputs": 12, "targets": 12}, pack=True)
    drawn = {task.name: task.rate * 60 / len(task) for task in tokens}  # examples a row
    assert drawn == pytest.approx({"short": 1.0, "long": 1.0})


def test_use_cached_reads_the_cache(tmp_path, monkeypatch):
    task = add("cached")
    write_cache(tmp_path / "cached", [([7, 8], [9])])
    monkeypatch.setattr(seqio.utils, "_GLOBAL_CACHE_DIRECTORIES", [str(tmp_path)])
    assert task.cache_dir
    tokens = train_batches("cached", LENGTHS, 1, use_cached=True).tasks[0].features
    assert (len(tokens["inputs"]), tokens["inputs"][0].tolist()) == (1, [7, 8, 1])
    assert len(train_batches("cached", LENGTHS, 1, use_cached=False).tasks[0]) == 10


def test_a_run_finds_caches_in_the_folders_it_is_given(tmp_path, monkeypatch):
    add("cached")
    write_cache(tmp_path / "cached", [([7, 8], [9])])
    monkeypatch.setattr(seqio.utils, "_GLOBAL_CACHE_DIRECTORIES", [])
    monkeypatch.setattr(task_data, "import_data", lambda: data)
    elsewhere, here = str(tmp_path / "elsewhere"), str(tmp_path)
    with pytest.raises(UserError, match=f"cached has no seqio cache in .*{elsewhere}"):
        task_data.TaskData(
            "cached", LENGTHS, 1, module="seqio", use_cached=True, cache_dirs=[elsewhere]
        ).train_batches()
    found = task_data.TaskData("cached", LENGTHS, 1, module="seqio", use_cached=True, cache_dirs=[elsewhere, here])
    assert found.train_batches().tasks[0].features["inputs"][0].tolist() == [7, 8, 1]


def write_cache(folder, rows):
    """A cache as seqio's offline tool lays it out."""
    folder.mkdir()
    feature = '{"shape": [null], "dtype": "int32"}'
    info = f'{{"num_shards": 1, "features": {{"inputs": {feature}, "targets": {feature}}}}}'
    (folder / "info.train.json").write_text(info)
    (folder / "stats.train.json").write_text(f'{{"examples": {len(rows)}}}')
    (folder / "COMPLETED").touch()
    with tf.io.TFRecordWriter(str(folder / "train.tfrecord-00000-of-00001")) as writer:
        for inputs, targets in rows:
            lists = {"inputs": inputs, "targets": targets}
            encoded = {k: tf.train.Feature(int64_list=tf.train.Int64List(value=v)) for k, v in lists.items()}
            writer.write(tf.train.Example(features=tf.train.Features(feature=encoded)).SerializeToString())


# Evaluation examples.


def test_evaluation_examples_keep_text_and_raw_fields():
    add(
        "counting", examples(4, choices=[["yes", "no"]] * 4), postprocess_fn=lambda text, example, is_target: text + "!"
    )
    (task,) = data.eval_tasks("counting", LENGTHS)
    assert (task.name, task.split, task.split_size, task.targets_length) == ("counting", "validation", 4, 3)
    last = task.examples[3]
    assert (last.index, last.inputs_text, last.targets_text) == (3, "zero one two three", "three")
    assert last.inputs.tolist() == [3, 4, 5, 6, 1]
    assert {text: tokens.tolist() for text, tokens in last.choices.items()} == {"yes": [13, 1], "no": [14, 1]}
    assert last.raw["inputs_pretokenized"] == b"zero one two three"
    assert task.postprocess("a", example=last.raw, is_target=True) == "a!"
    assert task.decode(np.array([5, 13, 1, 4])) == "two yes"
    assert task.predict_metrics == [hits]


def test_examples_without_text_are_decoded():
    add("quiet", preprocessors=[functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False)])
    assert data.eval_tasks("quiet", LENGTHS)[0].examples[2].inputs_text == "zero one two"


def test_max_examples_takes_a_sample_that_depends_on_the_seed_alone():
    add("counting", examples(100))

    def sample(**settings):
        (task,) = data.eval_tasks("counting", LENGTHS, **settings)
        assert task.split_size == 100
        return [example.index for example in task.examples]

    first = sample(max_examples=10)
    assert first == sorted(set(first))
    assert len(first) == 10
    assert first == sample(max_examples=10)
    assert set(first) < set(sample(max_examples=20))
    assert first != sample(max_examples=10, seed=1)
    assert sample(max_examples=1000) == sample() == list(range(100))


def test_a_mixture_is_evaluated_task_by_task():
    add("one")
    add("two")
    seqio.MixtureRegistry.add("both", ["two", "one"], default_rate=1.0)
    assert [task.name for task in data.eval_tasks("both", LENGTHS)] == ["one", "two"]


def test_choices_that_become_the_same_when_cut_are_a_mistake():
    add("counting", examples(2, choices=[["one two three", "one two four"]] * 2))
    with pytest.raises(UserError, match=r"task counting: the answer choices \['one two three', .*when cut at 3 tokens"):
        data.eval_tasks("counting", LENGTHS)
    assert data.eval_tasks("counting", {"inputs": 6, "targets": 4})


def test_a_choice_that_is_there_twice_is_one_choice():
    add("counting", examples(2, choices=[["one", "one"]] * 2))
    assert list(data.eval_tasks("counting", LENGTHS)[0].examples[0].choices) == ["one"]


# Mistakes.


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("countin", {}, "no task or mixture is called 'countin'; registered and close: counting"),
        ("xyzzy", {}, "no task or mixture is called 'xyzzy'; registered and close: counting, void"),
        ("counting", {"split": "test"}, "counting has no split 'test'; it has: train, validation"),
        ("void", {"split": "train"}, "void has no examples in.* split"),
        ("counting", {"task_feature_lengths": {"inputs": 6}}, "TASK_FEATURE_LENGTHS is .'inputs': 6.; give a positive"),
        ("counting", {"task_feature_lengths": {"inputs": 6, "targets": 0}}, "TASK_FEATURE_LENGTHS is"),
        ("counting", {"use_cached": True}, "task counting has no seqio cache in .*USE_CACHED_TASKS = False"),
    ],
)
@pytest.mark.parametrize("ask", [lambda **s: train_batches(batch_size=2, **s), data.eval_tasks])
def test_mistakes_are_named(ask, name, settings, message):
    add("counting")
    add("void", preprocessors=[lambda dataset: dataset.take(0), *TOKENIZE])
    with pytest.raises(UserError, match=message):
        ask(**{"mixture_or_task_name": name, "task_feature_lengths": LENGTHS} | settings)


def test_no_tasks_at_all_points_at_the_module():
    with pytest.raises(UserError, match="MIXTURE_OR_TASK_MODULE"):
        data.find_tasks("anything", "train")


def test_other_features_are_refused():
    add("speech", features={"targets": FEATURES["targets"]})
    with pytest.raises(
        UserError, match=r"task speech has the features \['targets'\]; \('inputs', 'targets'\) are needed"
    ):
        train_batches("speech", LENGTHS, 2)


def test_short_bucket_is_refused():
    add("counting")
    with pytest.raises(UserError, match="inputs of task counting have up to 6 tokens"):
        train_batches("counting", LENGTHS, 2, buckets={"inputs": (4,)})


def test_metrics_with_aux_values_are_refused():
    def metric(targets, predictions, aux_values):
        return {}

    add("counting", metric_fns=[metric])
    with pytest.raises(UserError, match=r"task counting has a metric of \(targets, predictions, aux_values\)"):
        data.eval_tasks("counting", LENGTHS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "mixture nothing is empty: the mixing rates of few, many are all 0; give one of them more"),
        ("hollow", "mixture hollow holds an empty mixture: one whose mixing rates are all 0"),
        ("few", "few is the name of a task and of a mixture; rename one of them"),
        ("doubled", "mixture doubled lists many twice, and seqio drops one rate; list it once"),
    ],
)
@pytest.mark.parametrize("ask", [lambda name: train_batches(name, LENGTHS, 2), data.task_rates])
def test_mixtures_that_cannot_be_meant(ask, name, message):
    add("many")
    add("few")
    seqio.MixtureRegistry.add("nothing", ["many", "few"], default_rate=0.0)
    seqio.MixtureRegistry.add("hollow", [("nothing", 1.0), ("many", 1.0)])
    seqio.MixtureRegistry.add("few", ["many"], default_rate=1.0)
    seqio.MixtureRegistry.add("doubled", [("many", 1.0), ("many", 3.0)])
    with pytest.raises(UserError, match=message):
        ask(name)


def test_a_mixture_that_has_rates_in_other_splits_only_is_empty():
    add("many", splits=("train",))
    add("never")
    seqio.MixtureRegistry.add("both", [("many", 1.0), ("never", 0.0)])
    with pytest.raises(UserError, match="mixture both is empty in its split 'validation': all mixing rates"):
        train_batches("both", LENGTHS, 2, split="validation")


def test_rates_are_those_of_all_tasks_whatever_their_splits():
    add("many", splits=("train",))
    add("few", splits=("test",))
    seqio.MixtureRegistry.add("both", [("many", 3.0), ("few", lambda task: 1.0)])
    assert {task.name: rate for task, rate in data.task_rates("both").items()} == {"many": 3.0, "few": 1.0}


# Samples of whole examples.


def test_a_sample_is_every_so_many_th_example_cut_or_whole():
    task = add("counting", examples(10))
    whole = data.sampled(task, None, "train", every=3)
    assert [len(row["inputs"]) for row in whole] == [2, 5, 8, 11]
    assert [len(row["inputs"]) for row in data.sampled(task, LENGTHS, "train", every=3)] == [2, 5, 6, 6]
    assert len(data.sampled(task, None, "train")) == 10


# The inputs again, in an encoder's vocabulary.

AGAIN = LENGTHS | {"encoder_inputs": 4}


@pytest.fixture
def _encoder(tmp_path):
    """A tokenizer with the same words in another order: the LM would read its tokens as other numbers."""
    (tmp_path / "encoder").mkdir()
    words = ["<pad>", "</s>", *reversed(tiny_tokenizer.WORDS[2:])]
    with gin.unlock_config():
        gin.bind_parameter("encoder_tokenizer.source", tiny_tokenizer.write(tmp_path / "encoder", words))


def add_both(name="counting", columns=None, **more):
    return add(name, columns, PREPROCESSORS, features=OUTPUT_FEATURES, **more)


def decoded_by_encoder(tokens):
    return encoder_tokenizer().decode(tokens.tolist())


@pytest.mark.usefixtures("_encoder")
def test_a_batch_holds_the_same_texts_in_two_vocabularies():
    add_both()
    batch = train_batches("counting", AGAIN, 10).batch(0)
    texts = [decoded(row) for row in batch.inputs]
    # Each cut at its own length: five words and the end, three words and the end.
    assert sorted(texts) == sorted(" ".join(NUMBERS[: min(i + 1, 5)]) for i in range(10))
    assert [decoded_by_encoder(row) for row in batch.encoder_inputs.tokens] == [
        " ".join(text.split()[:3]) for text in texts
    ]
    assert batch.encoder_inputs.tokens.shape == (10, 4)
    assert [decoded(row) for row in batch.encoder_inputs.tokens] != texts
    (task,) = data.eval_tasks("counting", AGAIN)
    assert [decoded_by_encoder(e.encoder_inputs) for e in task.examples[:5]] == [
        " ".join(NUMBERS[: min(i + 1, 3)]) for i in range(5)
    ]
    assert [e.encoder_inputs[-1] for e in task.examples] == [encoder_tokenizer().eos_id] * 10


def test_negatives_are_read_where_they_have_a_length(tmp_path):
    add_both(columns=examples(negatives=[f"no {word} no no" for word in NUMBERS]))
    made = data.train_tokens("counting", LENGTHS | {"negatives": 4})
    rows = [decoded(made[0].features["negatives"][row]) for row in range(10)]
    assert rows == [f"no {word} no" for word in NUMBERS]  # cut at three words and the end
    assert list(data.train_tokens("counting", LENGTHS)[0].features) == ["inputs", "targets"]
    how = token_cache.made_now("counting", LENGTHS | {"negatives": 4}, pack=False)
    token_cache.write(tmp_path / "files", how, made, [])
    (read,) = token_cache.train_tokens(tmp_path / "files", how)
    np.testing.assert_array_equal(read.features["negatives"].tokens, made[0].features["negatives"].tokens)


@pytest.mark.usefixtures("_encoder")
def test_nothing_is_tokenized_for_an_encoder_that_nobody_asked_for(monkeypatch):
    monkeypatch.setattr(data.EncoderVocabulary, "_encode_tf", lambda *_: pytest.fail("tokenized"))
    task = add_both()
    assert train_batches("counting", LENGTHS, 5).batch(0).encoder_inputs is None
    (found,) = data.eval_tasks("counting", LENGTHS)
    assert [e.encoder_inputs for e in found.examples] == [None] * 10
    assert found.examples[0].raw.keys() == {"inputs", "targets", "inputs_pretokenized", "targets_pretokenized"}
    assert list(data.cacheable("counting", LENGTHS))
    assert "encoder_inputs" not in data.sampled(task, None, "train")[0]


@pytest.mark.usefixtures("_encoder")
def test_without_a_length_nothing_is_cut():
    whole = data.sampled(add_both(), {"encoder_inputs": None}, "train")[9]
    assert decoded_by_encoder(whole["encoder_inputs"]) == " ".join(NUMBERS) == decoded(whole["inputs"])


def test_an_encoder_has_the_lms_vocabulary_unless_another_is_bound():
    add_both()
    batch = train_batches("counting", LENGTHS | {"encoder_inputs": 6}, 10).batch(0)
    np.testing.assert_array_equal(batch.encoder_inputs.tokens, batch.inputs)
    np.testing.assert_array_equal(batch.encoder_inputs.mask, batch.inputs_mask)


@pytest.mark.usefixtures("_encoder")
def test_the_two_vocabularies_are_two():
    vocabulary = data.EncoderVocabulary()
    assert vocabulary == data.EncoderVocabulary() != data.LMVocabulary() != vocabulary
    assert len({vocabulary, data.EncoderVocabulary(), data.LMVocabulary()}) == 2
    assert vocabulary.encode("zero no") == [13, 2]
    assert vocabulary.encode_tf(tf.constant(["zero", "", "no no"])).to_list() == [[13], [], [2, 2]]
    assert vocabulary.decode([13, 2, 1, 4]) == "zero no"


@pytest.mark.usefixtures("_encoder")
@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda: data.train_tokens("counting", AGAIN, pack=True),
            r"an encoder reads whole examples, not packed rows; set TaskData.pack = False",
        ),
        (
            lambda: train_batches("own", AGAIN, 2),
            r"task own makes no encoder_inputs, which TASK_FEATURE_LENGTHS asks for; register it with OUTPUT_FEATURES",
        ),
        (lambda: data.eval_tasks("half", AGAIN), "task half makes no encoder_inputs"),
        (
            lambda: data.eval_tasks("counting", LENGTHS | {"negatives": 4}),
            r"task counting makes no negatives, .* which do of the examples' text of that name",
        ),
        (lambda: data.eval_tasks("counting", LENGTHS | {"encoder_inputs": 0}), "'encoder_inputs' where an encoder has"),
        (
            lambda: data.eval_tasks("counting", LENGTHS | {"encoder_input": 4}),
            "TASK_FEATURE_LENGTHS is .*encoder_input",
        ),
        (
            lambda: data.cacheable("foreign", AGAIN),
            r"encoder_inputs of task foreign .* not in the encoder's vocabulary .*frozen_jax.data.EncoderVocabulary",
        ),
    ],
)
def test_mistakes_about_an_encoder_are_named(ask, message):
    add_both()
    add("own")
    add("half", features=OUTPUT_FEATURES)
    lms = seqio.Feature(data.LMVocabulary(), add_eos=True, required=False)
    add("foreign", preprocessors=PREPROCESSORS, features=OUTPUT_FEATURES | {"encoder_inputs": lms})
    with pytest.raises(UserError, match=message):
        ask()


# What a run makes of it: token files, an encoder that always reads one text, and inference.


@pytest.fixture
def run_data(monkeypatch):
    monkeypatch.setattr(task_data, "import_data", lambda: data)
    return lambda **settings: task_data.TaskData("counting", batch_size=5, module="seqio", **settings)


@pytest.mark.usefixtures("_encoder")
@pytest.mark.parametrize("lengths", [LENGTHS, AGAIN])
@pytest.mark.parametrize("text", [None, "yes no yes"])
def test_token_files_give_the_encoder_what_the_task_gives(run_data, lengths, text, tmp_path):
    add_both()
    run_data(task_feature_lengths=lengths).write_token_cache(tmp_path / "files")
    found, wanted = (
        run_data(task_feature_lengths=lengths, encoder_text=text, token_cache=place)
        for place in (str(tmp_path / "files"), None)
    )
    for number in (0, 3):
        one, other = found.train_batches().batch(number), wanted.train_batches().batch(number)
        assert jax.tree.structure(one) == jax.tree.structure(other)
        jax.tree.map(np.testing.assert_array_equal, one, other)
    tasks = [it.eval_tasks("validation")[0].examples for it in (found, wanted)]
    read = [[None if e.encoder_inputs is None else e.encoder_inputs.tolist() for e in examples] for examples in tasks]
    assert read[0] == read[1]
    assert (read[0][0] is None) == (lengths is LENGTHS and text is None)


@pytest.mark.usefixtures("_encoder")
@pytest.mark.parametrize("lengths", [LENGTHS, AGAIN])
def test_an_encoder_may_always_read_one_text(run_data, lengths):
    add_both()
    found, plain = (run_data(task_feature_lengths=lengths, encoder_text=text) for text in ("yes no yes", None))
    batch = found.train_batches().batch(0)
    assert [decoded_by_encoder(row) for row in batch.encoder_inputs.tokens] == ["yes no yes"] * 5
    np.testing.assert_array_equal(batch.inputs, plain.train_batches().batch(0).inputs)
    (task,) = found.eval_tasks("validation")
    assert {decoded_by_encoder(e.encoder_inputs) for e in task.examples} == {"yes no yes"}
    assert {e.inputs_text for e in task.examples} == set(examples()["inputs"])


@pytest.mark.usefixtures("_encoder")
def test_inference_gives_an_encoder_what_the_task_gives(run_data):
    given = []

    class Echo(Method):
        def generate_many(self, inputs, *, encoder_inputs, **settings):
            given.append(encoder_inputs)
            for number, tokens in enumerate(inputs):
                yield number, Generated(tokens[None], np.array([len(tokens)]), np.zeros((1, len(tokens))))

    add_both()
    model, texts = Echo(tiny.t5()), examples()["inputs"][:3]
    for lengths, text, wanted in [
        (LENGTHS, None, None),
        (AGAIN, None, texts),
        (LENGTHS, "yes no", ["yes no"] * 3),
    ]:
        run = run_data(task_feature_lengths=lengths, encoder_text=text)
        assert [one.text for one in _Answerer(run, 4, Greedy(), Stop())(model, texts, slots=2)] == texts
        read = given.pop()
        assert (read and [decoded_by_encoder(row) for row in read]) == wanted
    (task,) = run_data(task_feature_lengths=AGAIN).eval_tasks("validation")
    assert [run_data(task_feature_lengths=AGAIN).encoder_tokens(e.inputs_text).tolist() for e in task.examples] == [
        e.encoder_inputs.tolist() for e in task.examples
    ]


# A frame around the inputs.


def framed_run(**settings):
    return task_data.TaskData("counting", task_feature_lengths=LENGTHS, batch_size=5, module="seqio", **settings)


@pytest.fixture
def _frame(monkeypatch):
    monkeypatch.setattr(task_data, "import_data", lambda: data)
    with gin.unlock_config():
        gin.bind_parameter("lm_tokenizer.template", "yes {inputs} no no")


def real_inputs(batch):
    return [row[mask].tolist() for row, mask in zip(batch.inputs, batch.inputs_mask, strict=True)]


IN_FRAME = [[13, *range(3, 3 + min(count, 5)), 14, 14] for count in range(1, 11)]  # cut at 6 with an end of text


@pytest.mark.usefixtures("_frame")
@pytest.mark.parametrize("buckets", [None, {"inputs": (2, 6)}])
def test_training_reads_inputs_in_a_frame_that_is_never_cut(buckets):
    add("counting")
    batches = framed_run(buckets=buckets, length_window=1).train_batches()
    found = [row for number in range(2) for row in real_inputs(batches.batch(number))]
    assert sorted(found) == sorted(IN_FRAME)
    assert {batches.batch(number).inputs.shape[1] for number in range(20)} <= ({9} if buckets is None else {5, 9})
    assert decoded(batches.batch(0).targets[0]) in NUMBERS


@pytest.mark.usefixtures("_frame")
def test_inputs_without_an_end_are_framed_whole():
    features = {**FEATURES, "inputs": seqio.Feature(data.LMVocabulary(), add_eos=False)}
    add("counting", examples(6), features=features)
    (task,) = data.train_tokens("counting", LENGTHS)
    assert [task.features["inputs"][row].tolist() for row in range(6)] == [
        [13, *range(3, 4 + row), 14, 14] for row in range(6)
    ]
    assert len(framed_run().train_batches().batch(0).inputs[0]) == 9


@pytest.mark.usefixtures("_frame")
def test_packed_examples_have_a_frame_each():
    add("counting", examples(10))
    (task,) = data.train_tokens("counting", {"inputs": 12, "targets": 8}, pack=True)
    found = []
    for row in range(len(task)):
        tokens, segments = (task.features[name][row] for name in ("inputs", "inputs_segments"))
        assert len(tokens) <= 12 + 3
        found += [tokens[segments == segment].tolist() for segment in np.unique(segments)]
    assert sorted(found) == sorted([13, *range(3, 3 + count), 14, 14] for count in range(1, 11))
    assert any(task.features["inputs_segments"][row].max() > 1 for row in range(len(task)))


@pytest.mark.usefixtures("_frame")
def test_evaluation_and_inference_read_what_training_reads():
    add("counting")
    (task,) = framed_run().eval_tasks("validation")
    assert [example.inputs.tolist() for example in task.examples] == IN_FRAME
    assert [example.inputs_text for example in task.examples] == examples()["inputs"]
    assert task.examples[1].raw["inputs"].tolist() == [3, 4, 1]
    assert [framed_run().input_tokens(text).tolist() for text in examples()["inputs"]] == IN_FRAME
    given = []

    class Echo(Method):
        def generate_many(self, inputs, **settings):
            given.extend(row.tolist() for row in inputs)
            return iter(())

    assert not list(_Answerer(framed_run(), 4, Greedy(), Stop())(Echo(tiny.t5()), examples()["inputs"], slots=10))
    assert given == IN_FRAME


@pytest.mark.usefixtures("_frame", "_encoder")
def test_what_an_encoder_reads_has_no_frame():
    add_both()
    settings = {"batch_size": 10, "module": "seqio", "length_window": 1}
    run = task_data.TaskData("counting", task_feature_lengths=AGAIN, **settings)
    read = run.train_batches().batch(0).encoder_inputs
    texts = [" ".join(text.split()[:3]) for text in examples()["inputs"]]
    assert {decoded_by_encoder(row) for row in read.tokens} == set(texts)
    (task,) = run.eval_tasks("validation")
    assert [decoded_by_encoder(example.encoder_inputs) for example in task.examples] == texts
    assert task.examples[0].inputs.tolist() == IN_FRAME[0]


@pytest.mark.usefixtures("_frame")
def test_token_files_are_those_of_one_template(tmp_path):
    add("counting")
    framed_run().write_token_cache(tmp_path / "files")
    read = framed_run(token_cache=str(tmp_path / "files"))
    jax.tree.map(np.testing.assert_array_equal, read.train_batches().batch(1), framed_run().train_batches().batch(1))
    (task,) = read.eval_tasks("validation")
    assert [example.inputs.tolist() for example in task.examples] == IN_FRAME
    for template, wanted in ((None, "''"), ("{inputs} no", "'{inputs} no'")):
        with gin.unlock_config():
            gin.bind_parameter("lm_tokenizer.template", template)
        message = rf"made with lm_tokenizer.template 'yes \{{inputs\}} no no', and {wanted} is wanted; name"
        for ask in (read.train_batches, lambda: read.eval_tasks("validation")):
            with pytest.raises(UserError, match=message):
                ask()
