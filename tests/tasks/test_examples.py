"""The example that each task makes of a record, as its file promises."""

import pytest

from tasks import (
    arc_closed_book,
    cb,
    copa,
    hotpotqa,
    imdb,
    mrpc,
    natural_questions,
    rte,
    sciq,
    sciq_closed_book,
    squad,
    squad_answerable,
    sst2,
    triviaqa,
)
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


def test_squad_answerable():
    record = {"question": " Which river? ", "context": "The Thames.", "is_impossible": True, "answers": []}
    assert squad_answerable.example(record) == {
        "inputs": "Does the passage answer the question, yes or no? Question: Which river? Passage: The Thames.",
        "targets": "no",
        "choices": ["no", "yes"],
    }
    assert squad_answerable.example(record | {"is_impossible": False})["targets"] == "yes"


def test_rte():
    record = {"sentence1": "It took six years. ", "sentence2": "It took long.", "label": 0}
    assert rte.example(record) == {
        "inputs": "Does the text say that the statement is true, yes or no? "
        "Statement: It took long. Text: It took six years.",
        "targets": "yes",
        "choices": ["yes", "no"],
    }
    assert rte.example(record | {"label": 1})["targets"] == "no"
    assert rte.must_not_leak(record) == ["It took six years. ", "It took long."]


def test_cb():
    record = {"premise": "I don't think they sold it.", "hypothesis": "they sold it", "label": 1}
    assert cb.example(record) == {
        "inputs": "Does the text say that the statement is true: yes, no or maybe? "
        "Statement: they sold it Text: I don't think they sold it.",
        "targets": "no",
        "choices": ["yes", "no", "maybe"],
    }
    assert [cb.example(record | {"label": label})["targets"] for label in (0, 2)] == ["yes", "maybe"]
    assert cb.must_not_leak(record) == ["I don't think they sold it.", "they sold it"]


def test_copa():
    record = {"premise": "He let go.", "choice1": "It burst. ", "choice2": "It rose.", "question": "effect", "label": 1}
    assert copa.example(record) == {
        "inputs": "Which is more likely the effect of this event? Event: He let go. "
        "Choice 1: It burst. Choice 2: It rose.",
        "targets": "It rose.",
        "choices": ["It burst.", "It rose."],
    }
    cause = copa.example(record | {"question": "cause", "label": 0})
    assert cause["targets"] == "It burst."
    assert cause["inputs"].startswith("Which is more likely the cause of this event? Event:")
    assert copa.must_not_leak(record) == ["He let go.", "It burst. ", "It rose."]


def test_sciq():
    wrong = {"distractor1": "oxygen ", "distractor2": "Argon", "distractor3": "oxygen"}
    record = {"question": "Which gas?", "correct_answer": "carbon dioxide", "support": " Plants take it.", **wrong}
    assert sciq.example(record) == {
        "inputs": "Choose the answer to the question. Question: Which gas? "
        "Choices: Argon; carbon dioxide; oxygen. Passage: Plants take it.",
        "targets": "carbon dioxide",
        "choices": ["Argon", "carbon dioxide", "oxygen"],
    }
    assert sciq.must_not_leak(record) == ["question: Which gas?", "passage: Plants take it."]
    alone = record | {"support": " "}
    assert sciq.example(alone)["inputs"].endswith("Choices: Argon; carbon dioxide; oxygen.")
    assert sciq.must_not_leak(alone) == ["question: Which gas?"]


def test_sciq_closed_book():
    record = {"question": " Which gas?", "correct_answer": "carbon dioxide ", "support": "Plants take it."}
    assert sciq_closed_book.example(record | {"distractor1": "oxygen"}) == {
        "inputs": "Which gas?",
        "targets": "carbon dioxide",
        "answers": ["carbon dioxide"],
    }


def test_arc_closed_book():
    question = "What does a warm hand do to an ice cube?"
    record = {"query": f"Question: {question}\nAnswer:", "choices": ["It breaks it.", "It melts it."], "gold": 1}
    assert arc_closed_book.example(record) == {
        "inputs": question,
        "targets": "It melts it.",
        "answers": ["It melts it."],
    }


@pytest.mark.parametrize(
    ("question", "alone"),
    [
        ("Which of these melts?", False),
        ("Which of the following melts?", False),
        ("Of the things listed, what melts?", False),
        ("Ice melts. Which statement says why?", False),
        ("Which sentence is true?", False),
        ("Which best explains why ice melts?", False),
        ("Which metal melts at room temperature?", True),
        ("What makes these things melt?", True),
    ],
)
def test_questions_of_arc_that_speak_of_their_choices(question, alone):
    assert arc_closed_book.stands_alone({"query": f"Question: {question}\nAnswer:"}) is alone


def test_triviaqa():
    spellings = {"aliases": ["Aln", "River Aln"], "normalized_aliases": ["river aln", "aln"]}
    record = {"question": "Which river was spanned by Lantern Bridge? ", "answer": {"value": "River Aln", **spellings}}
    assert triviaqa.example(record) == {
        "inputs": "Which river was spanned by Lantern Bridge?",
        "targets": "River Aln",
        "answers": ["River Aln", "Aln", "river aln", "aln"],
    }


def test_natural_questions():
    record = {"question": "who built the lantern bridge", "answer": ["John Smith", "Smith", "John Smith"]}
    assert natural_questions.example(record) == {
        "inputs": "who built the lantern bridge",
        "targets": "John Smith",
        "answers": ["John Smith", "Smith"],
    }


def test_lists_of_any_length_become_a_dataset():
    examples = [
        {"inputs": "a", "answers": ["b"]},
        {"inputs": "c", "answers": ["d", "e"]},
        {"inputs": "f", "answers": []},
    ]
    found = [(e["inputs"], e["answers"].tolist()) for e in to_dataset(examples).as_numpy_iterator()]
    assert found == [(b"a", [b"b"]), (b"c", [b"d", b"e"]), (b"f", [])]
