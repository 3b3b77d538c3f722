"""What templates make of records: which are left out, and that a cut takes no instruction away."""

import json
from types import SimpleNamespace

import pytest
import tensorflow as tf

from tasks import p3_examples
from tasks.p3_examples import Maker, shortened
from tasks.p3_templates import Metadata, Template

LIKED = ("{{text}} Did the writer like it? ||| {{ answer_choices[label] }}", "no ||| yes")
LONG = {"text": " ".join(f"w{number}" for number in range(300)), "label": 1}


@pytest.fixture(autouse=True)
def _words_are_tokens(monkeypatch):
    monkeypatch.setattr(p3_examples, "lm_tokenizer", lambda: SimpleNamespace(encode=str.split))


def made(jinja, answer_choices, record, **lengths):
    template = Template("id", "name", jinja, answer_choices, Metadata(None, None))
    return list(Maker(template, answer_choices is not None, lengths).examples(record))


def test_an_example():
    assert made(*LIKED, {"text": "We laughed.", "label": 1}) == [
        {"inputs": "We laughed. Did the writer like it?", "targets": "yes", "choices": ["no", "yes"]}
    ]
    assert made("{{text}} ||| {{text}}", None, {"text": "Up."}) == [{"inputs": "Up.", "targets": "Up."}]


@pytest.mark.parametrize("jinja", ["{% if no %}{{text}} ||| x{% endif %}", "{{text}} |||", " ||| x", "a ||| b ||| c"])
def test_what_a_template_says_nothing_about_is_left_out(jinja):
    assert made(jinja, None, {"text": "Up.", "no": False}) == []


def test_targets_are_one_of_the_choices():
    assert made("{{text}} ||| {{ answer_choices[label] }} review", "no ||| yes", {"text": "Up.", "label": 1}) == []


def test_a_choice_that_is_there_twice_counts_once():
    (example,) = made("{{a}}? ||| {{ answer_choices[0] }}", "{{a}} ||| {{b}} ||| {{a}}", {"a": "x", "b": "y"})
    assert example["choices"] == ["x", "y"]


def test_choices_that_a_cut_makes_the_same_are_left_out():
    record, template = {"a": "x y z", "b": "x y v"}, ("{{a}}? ||| {{ answer_choices[0] }}", "{{a}} ||| {{b}}")
    assert len(made(*template, record, targets=4)) == len(made(*template, record, targets=None)) == 1
    assert made(*template, record, targets=3) == []  # two words and the end-of-sequence token


def test_a_cut_takes_from_the_text_and_keeps_the_instruction():
    for length in (16, 33, 64, 200):
        (example,) = made(*LIKED, LONG, inputs=length)
        assert example["inputs"].endswith("Did the writer like it?"), length
        words = len(example["inputs"].split())
        assert words == length - 1, "here an estimate is exact, since words are tokens"
        assert LONG["text"].startswith(example["inputs"].removesuffix(" Did the writer like it?"))
    assert made(*LIKED, LONG, inputs=None)[0]["inputs"].startswith(LONG["text"])
    assert made(*LIKED, LONG)[0]["inputs"] == made(*LIKED, LONG, inputs=400)[0]["inputs"]


def test_words_of_several_tokens_fit_too(monkeypatch):
    monkeypatch.setattr(p3_examples, "lm_tokenizer", lambda: SimpleNamespace(encode=list))  # characters
    record = {"text": "a bb " + "unbelievable " * 40 + "c " * 200, "label": 0}
    for length in (40, 100, 300):
        (example,) = made(*LIKED, record, inputs=length)
        assert length / 2 < len(example["inputs"]) < length
        assert example["inputs"].endswith("Did the writer like it?")


def test_only_the_longest_texts_are_cut_and_answers_alike():
    record = {"goal": "Keep apples", "one": "a " * 30 + "first", "two": "b " * 40 + "second", "label": 1}
    jinja = "{{goal}}: {{ answer_choices | join(' or ') }}? ||| {{ answer_choices[label] }}"
    (example,) = made(jinja, "{{one}} ||| {{two}}", record, inputs=26)
    goal, _, answers = example["inputs"].partition(": ")
    one, two = answers.removesuffix("?").split(" or ")
    assert (goal, set(one.split()), set(two.split())) == ("Keep apples", {"a"}, {"b"})
    assert len(one.split()) == len(two.split()) == 11
    assert example["targets"] == record["two"]
    assert example["choices"] == [record["one"], record["two"]]


def test_a_choice_stays_the_same_when_the_record_is_cut():
    jinja = "{% set n = [0, 1, 2, 3, 4, 5, 6, 7] | choice %}{{n}} {{text}} ||| {{n}}"
    for number in range(20):
        (example,) = made(jinja, None, {**LONG, "label": number}, inputs=20)
        assert example["inputs"][0] == example["targets"]


def test_inputs_that_cannot_fit_are_left_to_be_trimmed():
    (example,) = made(*LIKED, LONG, inputs=4)
    assert example["inputs"] == "w0 Did the writer like it?"


def test_a_shortened_record_keeps_what_is_no_text():
    record = {"a": "one  two\nthree", "n": 3, "some": {"texts": ["x y z", ""], "number": [1]}}
    assert shortened(record, 2) == {"a": "one  two", "n": 3, "some": {"texts": ["x y", ""], "number": [1]}}


def through_seqio(monkeypatch, records, lengths=None):
    template = Template("id", "name", "{{text}}? ||| {{ answer_choices[0] }}", "{{ all | join('|||') }}", None)
    monkeypatch.setattr(p3_examples, "read", lambda folder: {"name": template} if folder == "a/b" else {})
    columns = {"record": [json.dumps(record) for record in records], "record_number": [7, 8, 30][: len(records)]}
    dataset = tf.data.Dataset.from_tensor_slices(columns)
    return p3_examples.render(dataset, lengths, folder="a/b", name="name", choosing=True)


def test_seqio_gets_any_number_of_choices(monkeypatch):
    records = [{"text": "Up é", "all": ["x", "y"]}, {"text": " ", "all": [""]}, {"text": "w " * 9, "all": [*"abc"]}]
    found = list(through_seqio(monkeypatch, records, {"inputs": 5}).as_numpy_iterator())
    assert [(row["inputs"].decode(), row["targets"], row["choices"].tolist()) for row in found] == [
        ("Up é?", b"x", [b"x", b"y"]),
        ("w w w?", b"a", [b"a", b"b", b"c"]),
    ]
    assert [row["record_number"] for row in found] == [7, 30]


def test_seqio_gets_no_examples_where_all_are_left_out(monkeypatch):
    dataset = through_seqio(monkeypatch, [{"text": "Up", "all": [""]}])
    assert list(dataset) == []
    assert {name: (spec.dtype, spec.shape.rank) for name, spec in dataset.element_spec.items()} == {
        "inputs": (tf.string, 0),
        "targets": (tf.string, 0),
        "record_number": (tf.int32, 0),
        "choices": (tf.string, 1),
    }
