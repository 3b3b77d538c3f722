"""The example that each task makes of a record, as its file promises."""

from tasks import hotpotqa, imdb, mrpc, squad, sst2
from tasks.common import to_dataset


def test_imdb():
    assert imdb.example("Go and see it.", "positive") == {
        "inputs": "Is the sentiment of this movie review positive or negative? Go and see it.",
        "targets": "positive",
        "choices": ["negative", "positive"],
    }


def test_hotpotqa():
    record = {"question": "Were A and B born in one country?", "type": "comparison", "context": [["A", ["A was"]]]}
    assert hotpotqa.example(record) == {
        "inputs": "Is the type of this question comparison or bridge? Were A and B born in one country?",
        "targets": "comparison",
        "choices": ["bridge", "comparison"],
    }
    assert hotpotqa.must_not_leak(record) == ["question: Were A and B born in one country?", "article: A"]


def test_sst2():
    assert sst2.example({"sentence": "a warm little film . ", "label": 1}) == {
        "inputs": "Is the sentiment of this movie review sentence positive or negative? a warm little film .",
        "targets": "positive",
        "choices": ["negative", "positive"],
    }


def test_mrpc():
    assert mrpc.example({"sentence1": "Shares fell .", "sentence2": "Shares rose .", "label": 0}) == {
        "inputs": "Do these two sentences mean the same thing, yes or no? "
        "Sentence 1: Shares fell . Sentence 2: Shares rose .",
        "targets": "no",
        "choices": ["no", "yes"],
    }


def test_squad():
    answers = [{"text": text} for text in ("Thames", "the Thames", "Thames")]
    record = {"title": "Oxford", "question": " Which river? ", "context": "The Thames.", "answers": answers}
    assert squad.example(record) == {
        "inputs": "Answer the question from the passage. Question: Which river? Passage: The Thames.",
        "targets": "Thames",
        "answers": ["Thames", "the Thames"],
    }
    assert squad.must_not_leak(record) == ["article: Oxford", "paragraph: The Thames.", "question:  Which river? "]


def test_lists_of_any_length_become_a_dataset():
    examples = [
        {"inputs": "a", "answers": ["b"]},
        {"inputs": "c", "answers": ["d", "e"]},
        {"inputs": "f", "answers": []},
    ]
    found = [(e["inputs"], e["answers"].tolist()) for e in to_dataset(examples).as_numpy_iterator()]
    assert found == [(b"a", [b"b"]), (b"c", [b"d", b"e"]), (b"f", [])]
