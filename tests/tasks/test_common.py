"""Tokenizing only what is needed gives what tokenizing everything gives."""

import gin
import pytest
import seqio
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tasks.common import OUTPUT_FEATURES, PREPROCESSORS, first_words, tokenize
from tests import tiny_tokenizer

LENGTHS = {"inputs": 4, "targets": 2}
TEXTS = [
    "",
    "one",
    "one two three",
    " one  two three four five",
    "one two three four",
    "what one what two three",
    "no " * 500,
]


@pytest.fixture
def _tokenizer(tmp_path):
    with gin.unlock_config():
        gin.bind_parameter("lm_tokenizer.source", tiny_tokenizer.write(tmp_path))
    yield
    gin.clear_config()


@given(st.text(alphabet="ab \nč", max_size=60), st.integers(1, 8))
def test_first_words(text, count):
    (found,) = (kept.decode() for kept in first_words(tf.constant([text]), count).numpy())
    assert text.startswith(found)
    words, kept = text.split(" "), found.split(" ")
    assert [w for w in kept if w] == [w for w in words if w][:count]


def test_first_words_of_one_endless_word():
    assert first_words(tf.constant(["x" * 100_000]), 500).numpy() == [b"x" * 100_000]


@pytest.mark.usefixtures("_tokenizer")
@pytest.mark.parametrize("lengths", [LENGTHS, {"inputs": 1, "targets": 1}, None, LENGTHS | {"encoder_inputs": 3}])
def test_tokens_and_texts_are_those_of_plain_seqio(lengths):
    def tokens(tokenizer, **more):
        dataset = tf.data.Dataset.from_tensor_slices({"inputs": TEXTS, "targets": TEXTS[::-1], **more})
        task = seqio.Task(
            "plain",
            source=seqio.FunctionDataSource(lambda split, shuffle_files: dataset, ["train"]),
            output_features=OUTPUT_FEATURES,
            preprocessors=[tokenizer, *PREPROCESSORS[2:]],
        )
        return task.get_dataset(lengths, "train", shuffle=False)

    again = {"encoder_inputs": TEXTS} if lengths and "encoder_inputs" in lengths else {}
    wanted = tokens(seqio.preprocessors.tokenize, **again).map(
        lambda e: {k: v for k, v in e.items() if k != "encoder_inputs_pretokenized"}
    )
    seqio.test_utils.assert_datasets_eq(tokens(tokenize), wanted)
