"""Candidates that a tiny LM samples under trained prompts: nested, resumed, and from the right checkpoint."""

from __future__ import annotations

import gin
import numpy as np
import pytest

from frozen_jax.candidates.proposing import Proposer
from frozen_jax.errors import UserError
from frozen_jax.tokenizer import lm_tokenizer
from tests import tiny
from tests.runs import modules_of_tiny

QUESTIONS = [f"w{5 + n} w{7 + 3 * n} w6" for n in range(7)]


@pytest.fixture(autouse=True)
def _tiny_words():
    with gin.unlock_config():
        gin.bind_parameter("lm_tokenizer.source", "tests/end_to_end/tokenizer.json")
    yield
    gin.clear_config()


@pytest.fixture(scope="module")
def method():
    return tiny.prompt_tuning()


@pytest.fixture(scope="module")
def checkpoint(method, tmp_path_factory):
    return modules_of_tiny.save(tmp_path_factory.mktemp("p1"), method, seed=1)


@pytest.fixture
def proposer(method, checkpoint, tmp_path):
    def made(checkpoint=checkpoint, **settings):
        how = {"temperature": 1.5, "max_length": 3, "rows": 16, **settings}
        return Proposer(method, str(checkpoint) if not callable(checkpoint) else checkpoint, tmp_path, **how)

    return made


def folders(tmp_path):
    return {folder.name: max(file.stat().st_mtime_ns for file in folder.iterdir()) for folder in tmp_path.iterdir()}


def test_few_samples_are_the_first_of_many_and_more_are_only_added(proposer, tmp_path):
    few = proposer().propose(QUESTIONS, 4)
    made = folders(tmp_path)
    assert len(made) == 1
    many = proposer().propose(QUESTIONS, 16)
    assert [texts[:4] for texts in many.texts] == few.texts
    np.testing.assert_array_equal(many.log_probs[:, :4], few.log_probs)
    assert made.items() < folders(tmp_path).items()
    assert proposer().propose(QUESTIONS, 6).texts == [texts[:6] for texts in many.texts]
    assert len(folders(tmp_path)) == 2
    assert len({text for texts in many.texts for text in texts}) > 30, "samples differ"
    assert not all(texts[4:8] == texts[:4] for texts in many.texts), "the second block is not the first again"


def test_samples_are_what_the_lm_draws_under_p1_and_cost_what_it_says(proposer, method, checkpoint):
    found = proposer().propose(QUESTIONS[:2], 4)
    trained = modules_of_tiny.Job(
        method, modules_of_tiny.MadeUpData("chosen", modules_of_tiny.LENGTHS), str(checkpoint), tiny.mesh(1, 1)
    ).trained_method()
    for question, texts, log_probs in zip(QUESTIONS, found.texts, found.log_probs, strict=False):
        inputs = np.array([[*lm_tokenizer().encode(question), lm_tokenizer().eos_id]])
        for text, log_prob in zip(texts, log_probs, strict=True):
            tokens = lm_tokenizer().encode(text)
            if len(tokens) == 3:  # cut at the most tokens, so that it is the same tokens again
                np.testing.assert_allclose(trained.score(inputs, np.array([tokens]))[0], log_prob, rtol=1e-4)
    assert sum(len(text.split()) == 3 for texts in found.texts for text in texts) > 3


def test_a_questions_samples_depend_on_nothing_beside_it(proposer):
    whole = proposer().propose(QUESTIONS, 4)
    part = proposer().propose(QUESTIONS[5:1:-1], 4)
    assert part.texts == whole.texts[5:1:-1]
    assert proposer().propose(QUESTIONS[:1], 4, kept=False).texts == whole.texts[:1]
    assert proposer(seed=1).propose(QUESTIONS, 4).texts != whole.texts


def test_killed_in_between_it_goes_on_with_the_same(proposer, tmp_path, monkeypatch):
    monkeypatch.setattr("frozen_jax.candidates.proposing._QUESTIONS", 2)
    whole = proposer().propose(QUESTIONS, 4)
    [folder] = tmp_path.iterdir()
    for file in sorted(folder.glob("*.npz"))[1:]:
        file.unlink()
    first = folder / "00000000.npz"
    written = first.stat().st_mtime_ns
    again = proposer().propose(QUESTIONS, 4)
    assert again.texts == whole.texts
    np.testing.assert_array_equal(again.log_probs, whole.log_probs)
    assert first.stat().st_mtime_ns == written


def test_p1_is_trained_when_it_is_first_wanted_and_once(proposer, checkpoint):
    trained = []
    lazy = proposer(lambda: trained.append("now") or checkpoint)
    assert trained == []
    lazy.propose(QUESTIONS, 4)
    lazy.greedy(QUESTIONS)
    assert trained == ["now"]


@pytest.mark.parametrize("changes", [{"temperature": 0.5}, {"seed": 3}, {"max_length": 2}, {"top_p": 0.5}])
def test_other_settings_make_other_samples(proposer, tmp_path, changes):
    proposer().propose(QUESTIONS[:1], 1)
    proposer(**changes).propose(QUESTIONS[:1], 1)
    assert len(folders(tmp_path)) == 2


def test_another_p1_makes_other_samples(proposer, method, tmp_path, tmp_path_factory):
    one = proposer().propose(QUESTIONS, 4)
    other = modules_of_tiny.save(tmp_path_factory.mktemp("other"), method, seed=2)
    assert proposer(other).propose(QUESTIONS, 4).texts != one.texts
    assert len(folders(tmp_path)) == 2


def test_a_p1_of_another_lm_or_shape_is_refused(proposer, tmp_path_factory):
    folder = modules_of_tiny.save(tmp_path_factory.mktemp("p1"), tiny.prompt_tuning(tiny.t5(1)))
    with pytest.raises(UserError, match=r"p1, Proposer\.checkpoint: .* beside the LM 'tiny-1' .* not beside 'tiny-0'"):
        proposer(folder)
    folder = modules_of_tiny.save(tmp_path_factory.mktemp("p1"), tiny.prompt_tuning(length=4))
    with pytest.raises(
        UserError, match=r"p1, .* holds {'prompt': \(4, 16\)}; PromptTuning trains {'prompt': \(5, 16\)}"
    ):
        proposer(folder)
    with pytest.raises(UserError, match=r"p1, Proposer\.checkpoint: .*no module checkpoint there"):
        proposer(tmp_path_factory.mktemp("empty"))


def test_numbers_out_of_range_are_told_of_at_once(proposer):
    with pytest.raises(UserError, match="temperature is 0"):
        proposer(temperature=0.0)
