"""A selector that is shown candidates: which, in which order, from which p1, and what is trained."""

from __future__ import annotations

import json
import types

import gin
import numpy as np
import pytest

from frozen_jax import freezing
from frozen_jax.candidates.proposing import Proposer, Samples
from frozen_jax.errors import UserError
from frozen_jax.methods.textual_recursion import TextualRecursion
from frozen_jax.ordering import half
from tests import tiny

EXAMPLES = [
    {"inputs": f"w{n} w80", "targets": f"w{n}", "answers": [f"w{n}", "w3"], "task": "quiz", "index": n}
    for n in range(5, 17)
]
TEMPLATE = {"template": "{candidates} w90 {question}", "separator": " w91 "}
INPUTS = np.array([[5, 6, 7, 1], [8, 9, 1, 0]])


class ListProposer(Proposer):
    """Says w70 twice, then w71 and so on, each with the p1's own word: one can see who has sampled what."""

    made = {"of": "a list"}  # noqa: RUF012

    def __init__(self, lm, directory, word="w60", empty=()):
        self.method, self.directory = types.SimpleNamespace(lm=lm, name=lm.name), directory
        self._word, self._empty, self.asked, self.checked = word, empty, [], None

    def check_half(self, trained_on):
        self.checked = trained_on

    def propose(self, questions, n, kept=True):
        del kept
        self.asked += questions
        texts = [
            ["" if q in self._empty else f"w{70 + max(0, i - 1)} {self._word}" for i in range(n)] for q in questions
        ]
        return Samples(texts, np.tile(-np.arange(n, dtype=np.float32), (len(questions), 1)))

    def greedy(self, questions):
        return ["w3" for _ in questions]


@pytest.fixture(autouse=True)
def _tiny_words():
    with gin.unlock_config():
        gin.bind_parameter("lm_tokenizer.source", "tests/end_to_end/tokenizer.json")
    yield
    gin.clear_config()


@pytest.fixture
def make(tmp_path):
    def made(selector=None, empty=(), halves=2, **changes):
        selector = selector or tiny.prompt_tuning()
        p1s = [ListProposer(selector.lm, tmp_path, word, empty) for word in ("w60", "w61", "w62")]
        return TextualRecursion(selector, p1s[0], p1s[1 : halves + 1], **{**TEMPLATE, "n": 4, **changes}), p1s

    return made


def test_candidates_stand_beside_the_question(make, tmp_path, capsys):
    method, _ = make(order="count", candidate_template="{count} {candidate}")
    found = method.prepare(EXAMPLES, "test", 30)
    assert list(found) == ["@4", "@4-scored"]
    first, scored = found["@4"][0], found["@4-scored"][0]
    assert first["inputs"] == "2 w70 w60 w91 1 w71 w60 w91 1 w72 w60 w90 w5 w80"
    assert first["question"] == "w5 w80"
    assert first["answers"] == ["w5", "w3"]
    assert first["candidates"][:2] == [
        {"text": "w70 w60", "count": 2, "log_probability": 0.0},
        {"text": "w71 w60", "count": 1, "log_probability": -2.0},
    ]
    assert scored == {**first, "choose_among": ["w70 w60", "w71 w60", "w72 w60"]}
    assert "greedy: EM 100.0" in capsys.readouterr().out
    line = json.loads((tmp_path / "vote" / "predictions" / "quiz@4-test.jsonl").read_text().splitlines()[0])
    assert line["prediction"] == "w70 w60"


def test_every_n_makes_its_sets_and_users_get_the_most(make):
    method, _ = make(n=(1, 4))
    found = method.prepare(EXAMPLES, "validation", 30)
    assert list(found) == ["@1", "@1-scored", "@4", "@4-scored"]
    assert {len(example["candidates"]) for example in found["@1"]} == {1}
    [asked] = method.prepare([{"inputs": "w5 w80"}], "infer", 30)[""]
    assert asked == {name: found["@4"][0][name] for name in ("inputs", "question", "candidates")}


def test_no_training_examples_candidates_come_from_a_p1_that_was_trained_on_it(make):
    method, (p1, first, second) = make()
    found = method.prepare(EXAMPLES, "train", 30)[""]
    assert (first.checked, second.checked) == (0, 1)
    assert p1.asked == []
    assert {half(question) for question in first.asked} == {1}
    assert {half(question) for question in second.asked} == {0}
    for example, given in zip(found, EXAMPLES, strict=True):
        word = "w61" if half(given["inputs"]) == 1 else "w62"
        assert all(one["text"].endswith(word) for one in example["candidates"])
        assert example["question"] == given["inputs"]


def test_the_order_and_the_n_of_training_depend_on_seed_and_question_alone(make):
    how = {"n": 6, "train_n": (3, 6)}
    whole = make(**how)[0].prepare(EXAMPLES, "train", 40)[""]
    assert {len(example["candidates"]) for example in whole} == {2, 5}
    assert make(**how)[0].prepare(EXAMPLES[::-2], "train", 40)[""] == whole[::-2]
    assert make(**how, seed=1)[0].prepare(EXAMPLES, "train", 40)[""] != whole
    places = {example["inputs"].split().index("w70") for example in whole}
    assert len(places) > 2, "shuffled"


def test_what_has_no_room_and_what_says_nothing(make, capsys):
    method, _ = make(order="count", empty=["w5 w80"])
    found = method.prepare(EXAMPLES, "test", 9)
    assert found["@4"][0]["inputs"] == "w90 w5 w80"
    assert found["@4-scored"][0]["choose_among"] == [""]
    assert found["@4"][1]["inputs"] == "w70 w60 w91 w71 w60 w90 w6 w80"
    told = capsys.readouterr().err
    assert "no sample says anything for the question 'w5 w80'\n" in told
    assert "11 of 33 candidates had no room and are not shown" in told
    with pytest.raises(UserError, match=r"the candidate 'w70 w60' of the question 'w6 w80' has no room"):
        method.prepare(EXAMPLES, "test", 5)


def test_all_samples_empty(make):
    method, _ = make(empty=[example["inputs"] for example in EXAMPLES])
    with pytest.raises(UserError, match=r"every sample is empty, for all of 12 questions, 'w5 w80' among them"):
        method.prepare(EXAMPLES, "test", 30)
    assert method.prepare(EXAMPLES[:1], "infer", 30)[""][0]["candidates"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 0}, r"TextualRecursion\.n is 0; sample at least once"),
        ({"n": ()}, r"TextualRecursion\.n is \(\)"),
        ({"train_n": (4, -1)}, r"TextualRecursion\.train_n is \(4, -1\)"),
        ({"order": "best"}, "order is 'best'; choose from shuffled, count"),
        ({"halves": 1}, "p1_halves has 1 members; give two"),
        ({"template": "{question}"}, r"\{candidates\} is missing"),
    ],
)
def test_settings_are_looked_at_before_anything_runs(make, changes, message):
    with pytest.raises(UserError, match=message):
        make(**changes)


def test_there_is_one_lm(make, tmp_path):
    method, p1s = make()
    with pytest.raises(UserError, match="the LM of a proposer, tiny-0, is another one in memory than the selector's"):
        TextualRecursion(tiny.prompt_tuning(), *p1s[:1], p1s[1:])
    with pytest.raises(UserError, match=r"TextualRecursion\.selector is T5; give it a method"):
        TextualRecursion(tiny.t5(), *p1s[:1], p1s[1:])
    assert method.lm is method.selector.lm


def test_on_the_device_it_is_the_selector(make):
    inside = tiny.prompt_tuning()
    method, _ = make(inside)
    np.testing.assert_array_equal(method.logits(INPUTS, INPUTS), inside.logits(INPUTS, INPUTS))
    found, wanted = (model.generate(INPUTS, max_length=4).tokens for model in (method, inside))
    np.testing.assert_array_equal(found, wanted)
    masks = [freezing.trainable_mask(model, model.rules) for model in (method, inside)]
    of_both = [{path.removeprefix("selector/") for path, trained in mask.items() if trained} for mask in masks]
    assert of_both[0] == of_both[1]
    assert method.prompt_length == inside.prompt_length
