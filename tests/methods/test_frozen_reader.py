"""A reader that is shown passages: what is packed for training, evaluation and questions, and what is trained."""

from __future__ import annotations

import pathlib

import gin
import numpy as np
import pytest

from frozen_jax import freezing
from frozen_jax.errors import UserError
from frozen_jax.methods.fine_tuning import FineTuning
from frozen_jax.methods.frozen_reader import FrozenReader
from frozen_jax.methods.fusion_in_decoder import FusionInDecoder
from frozen_jax.retrieval.evidence import Evidence, GoldEvidence
from frozen_jax.runs.task_data import TaskData
from frozen_jax.tokenizer import lm_tokenizer
from tests import tiny
from tests.retrieval.fake_corpus import ListCorpus, NearNumbers, Reversed

EXAMPLES = [{"inputs": f"w{n} w80", "targets": "w1", "gold": [f"p{n}"], "n": n} for n in range(11)]
TEMPLATE = {"template": "{passages} w90 {question}", "passage_template": "{title} {text}", "separator": " "}
INPUTS = np.array([[5, 6, 7, 1], [8, 9, 1, 0]])


@pytest.fixture(autouse=True)
def _tiny_words():
    with gin.unlock_config():
        gin.bind_parameter("lm_tokenizer.source", "tests/end_to_end/tokenizer.json")
    yield
    gin.clear_config()


def reader(folder: pathlib.Path, reader=None, evidence=None, **changes) -> FrozenReader:
    evidence = evidence or Evidence(NearNumbers(), str(folder), Reversed(), hits=4)
    return FrozenReader(reader or tiny.prompt_tuning(), evidence, **{**TEMPLATE, **changes})


def test_best_passages_stand_beside_the_question_and_say_where_they_are_from(tmp_path):
    found = reader(tmp_path).prepare(EXAMPLES[5:6], "test", length=13)
    [example] = found[""]
    # Near w5 are 5, 4, 6, 3; turned round; of four tokens each, two fit beside the question's three and the end.
    assert example["inputs"] == "w3 w49 w50 w51 w6 w58 w59 w60 w90 w5 w80"
    assert example["question"] == "w5 w80"
    assert example["n"] == 5
    assert example["passages"] == [
        {"number": 3, "id": "p3", "title": "w3", "score": 2.0, "ranks": {"retrieved": 4, "reranked": 1}},
        {"number": 6, "id": "p6", "title": "w6", "score": 1.0, "ranks": {"retrieved": 3, "reranked": 2}},
    ]


def test_every_length_is_a_set_of_its_own(tmp_path):
    found = reader(tmp_path, lengths=(9, 16)).prepare(EXAMPLES, "validation", length=16)
    assert list(found) == ["@9", "@16"]
    assert {len(example["passages"]) for example in found["@9"]} == {1}
    assert {len(example["passages"]) for example in found["@16"]} == {3}
    [asked] = reader(tmp_path, lengths=(9, 16)).prepare(EXAMPLES[:1], "infer", length=16)[""]
    assert asked == {**found["@16"][0]}


def test_training_mixes_lengths_in_a_way_that_depends_on_the_question_alone(tmp_path):
    method = reader(tmp_path, lengths=(16,), train_lengths=(9, 16))
    whole = method.prepare(EXAMPLES, "train", length=16)[""]
    assert {len(example["passages"]) for example in whole} == {1, 3}
    part = method.prepare(EXAMPLES[::-2], "train", length=16)[""]
    assert part == whole[::-2]
    other = reader(tmp_path, lengths=(16,), train_lengths=(9, 16), seed=1).prepare(EXAMPLES, "train", length=16)[""]
    assert [len(e["passages"]) for e in other] != [len(e["passages"]) for e in whole]


def test_no_text_has_more_tokens_than_inputs_may_have(tmp_path):
    for length in range(4, 24):
        for example in reader(tmp_path / str(length)).prepare(EXAMPLES, "test", length)[""]:
            tokens = len(lm_tokenizer().encode(example["inputs"])) + 1
            assert length - 4 < tokens <= length or len(example["passages"]) == 4


def test_packed_texts_are_kept_under_what_made_them(tmp_path):
    retriever = NearNumbers()
    evidence = Evidence(retriever, str(tmp_path), hits=4)
    one = reader(tmp_path, evidence=evidence).prepare(EXAMPLES, "test", 13)
    folders = {folder.name for folder in tmp_path.iterdir()}
    assert reader(tmp_path, evidence=evidence).prepare(EXAMPLES, "test", 13) == one
    assert {folder.name for folder in tmp_path.iterdir()} == folders
    other = reader(tmp_path, evidence=evidence, separator=" w70 ").prepare(EXAMPLES, "test", 13)
    assert other != one
    made = {folder.name for folder in tmp_path.iterdir()} - folders
    assert sorted(name.partition("-")[0] for name in made) == ["packed", "recall"]
    assert len(retriever.asked) == len(EXAMPLES)


def test_an_upper_bound_reads_the_gold_passages(tmp_path):
    evidence = GoldEvidence(ListCorpus(), str(tmp_path))
    found = reader(tmp_path, evidence=evidence).prepare(EXAMPLES, "test", 20)[""]
    assert [[passage["id"] for passage in example["passages"]] for example in found] == [e["gold"] for e in EXAMPLES]


def test_longer_texts_than_inputs_may_be_are_refused(tmp_path):
    with pytest.raises(UserError, match="packs inputs of 32 tokens, and TASK_FEATURE_LENGTHS cuts them at 16"):
        reader(tmp_path, lengths=(8, 32)).prepare(EXAMPLES, "test", 16)


def test_a_template_is_looked_at_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match=r"\{question\} is missing"):
        reader(tmp_path, template="{passages}")


@pytest.mark.parametrize(
    "make", [tiny.prompt_tuning, tiny.input_dependent_prompt_tuning, lambda: FineTuning(tiny.t5())]
)
def test_on_the_device_it_is_the_method_inside(tmp_path, make):
    inside = make()
    method = reader(tmp_path, reader=inside)
    np.testing.assert_array_equal(method.logits(INPUTS, INPUTS), inside.logits(INPUTS, INPUTS))
    np.testing.assert_array_equal(
        method.generate(INPUTS, max_length=4).tokens, inside.generate(INPUTS, max_length=4).tokens
    )
    assert method.prompt_length == inside.prompt_length

    def trained(of):
        return {
            path.removeprefix("reader/")
            for path, is_trained in freezing.trainable_mask(of, of.rules).items()
            if is_trained
        }

    assert trained(method) == trained(inside)
    assert method.lm is inside.lm


def test_fusion_in_decoder_reads_each_passage_in_a_text_of_its_own(tmp_path):
    evidence = Evidence(NearNumbers(), str(tmp_path), Reversed(), hits=4)
    how = {"evidence": evidence, "passages": 3, "passage_length": 6, "template": "{question} {title} {text}"}
    method = FusionInDecoder(tiny.t5(), **how)
    [first, *_] = method.prepare(EXAMPLES[9:], "test", 18)[""]
    assert first["inputs"] == ["w9 w80 w7 w61 w62 w63", "w9 w80 w10 w70 w71 w72", "w9 w80 w8 w64 w65 w66"]
    assert [passage["id"] for passage in first["passages"]] == ["p7", "p10", "p8"]
    assert first["question"] == "w9 w80"
    tokens = TaskData("t", {"inputs": 18, "targets": 2}).prepared_tokens(first)
    words = [lm_tokenizer().decode(part) for part in tokens.reshape(3, 6).tolist()]
    assert words == ["w9 w80 w7 w61 w62", "w9 w80 w10 w70 w71", "w9 w80 w8 w64 w65"]  # each cut before its own end
    assert (tokens.reshape(3, 6)[:, -1] == lm_tokenizer().eos_id).all()
    with pytest.raises(UserError, match="reads 3 passages of 6 tokens, 18, and TASK_FEATURE_LENGTHS cuts inputs at 17"):
        method.prepare(EXAMPLES, "test", 17)
    assert not FusionInDecoder(tiny.t5()).prepares


def test_another_choice_of_gold_passages_is_packed_anew(tmp_path):
    method = reader(tmp_path, evidence=GoldEvidence(ListCorpus(), str(tmp_path)))
    for gold in (["p7"], ["p8"], ["p8", "p9"]):
        [example] = method.prepare([{"inputs": "w9 w80", "gold": gold}], "test", 20)[""]
        assert [passage["id"] for passage in example["passages"]] == gold
        assert all(f"w{name[1:]}" in example["inputs"] for name in gold)


@pytest.mark.parametrize("lengths", [0, (16, "32"), (-1,)])
def test_lengths_are_numbers_of_tokens(tmp_path, lengths):
    with pytest.raises(UserError, match=r"FrozenReader\.lengths is .*; give numbers of tokens"):
        reader(tmp_path, lengths=lengths)
    assert list(reader(tmp_path, lengths=16).prepare(EXAMPLES, "test", 16)) == ["@16"]


def test_an_lm_alone_is_no_reader(tmp_path):
    with pytest.raises(UserError, match=r"FrozenReader\.reader is T5; give it a method, such as @PromptTuning"):
        reader(tmp_path, reader=tiny.t5())


def test_a_passage_cannot_end_a_text():
    tokens = TaskData("t", {"inputs": 18, "targets": 2}).prepared_tokens({"inputs": ["w9 </s> w10", "w11"]})
    assert lm_tokenizer().spelt(tokens.tolist()) == "w9 w10 </s> w11 </s>"


def test_fusion_in_decoder_says_which_question_leaves_no_room_for_a_passage(tmp_path):
    evidence = Evidence(NearNumbers(), str(tmp_path), hits=4)
    how = {"evidence": evidence, "passages": 3, "passage_length": 6}
    with pytest.raises(UserError, match=r"the question 'w9 w80 w81 w82 w83' has 6 tokens without a passage"):
        FusionInDecoder(tiny.t5(), **how, template="{question} {text}").prepare(
            [{"inputs": "w9 w80 w81 w82 w83"}], "test", 18
        )
    with pytest.raises(UserError, match=r"FusionInDecoder\.template, '{quest} {text}': {quest} is unknown"):
        FusionInDecoder(tiny.t5(), **how, template="{quest} {text}")
