"""Pairs of question and passage: how they are read, what is said of them, and what that does to hits."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from frozen_jax import checkpoints, freezing
from frozen_jax.errors import UserError
from frozen_jax.lm import base
from frozen_jax.methods.fine_tuning import FineTuning
from frozen_jax.methods.prompt_tuning import PromptTuning
from frozen_jax.retrieval.base import NONE, Hits, Passage
from frozen_jax.retrieval.reranking import Reranker
from frozen_jax.training import TrainState
from tests import tiny, tiny_tokenizer

WORDS = [*tiny_tokenizer.WORDS, "Query:", "Document:", "Relevant:", "true", "false", "of"]
TRUE, FALSE = WORDS.index("true"), WORDS.index("false")
QUESTIONS = ["one", "two three", "four of five six"]
PASSAGES = [
    Passage("a", "seven", "eight nine of zero"),
    Passage("b", "", "one"),
    Passage("c", "two", " ".join(tiny_tokenizer.NUMBERS * 3)),
]
PAIRS = [(question, passage) for question in QUESTIONS for passage in PASSAGES]
LMS = {"t5": tiny.t5, "llama": tiny.llama}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer.write(tmp_path_factory.mktemp("tokenizer"), WORDS)


@pytest.fixture
def make(tokenizer):
    def made(lm=None, **settings):
        return Reranker(lm or tiny.t5(), **{"tokenizer": tokenizer, "max_length": 64, "batch_size": 4, **settings})

    return made


class Corpus(list):
    sha256 = "of a list"


class OfLengths(Reranker):
    """Says how long a passage's text is, and keeps what it was asked."""

    def score(self, questions, passages):
        self.asked = list(zip(questions, passages, strict=True))
        return np.array([len(passage.text) for passage in passages], np.float32)


@pytest.mark.parametrize("name", LMS)
def test_a_score_is_the_log_softmax_over_two_words_behind_the_pair_alone(name, make, tokenizer):
    """Each pair without padding and beside no other, against batches of four, the last of them filled up."""
    lm = LMS[name]()
    found = make(lm).score(*zip(*PAIRS, strict=True))
    words = tokenizers.Tokenizer.from_file(tokenizer)
    for score, (question, passage) in zip(found, PAIRS, strict=True):
        text = f"Query: {question} Document: {passage.title} {passage.text} Relevant:"
        ids = words.encode(text).ids + ([1] if name == "t5" else [])
        logits = lm.logits(np.array([ids], np.int32), np.array([[TRUE]], np.int32))[0, 0]
        np.testing.assert_allclose(score, jax.nn.log_softmax(logits[np.array([TRUE, FALSE])])[0], atol=2e-5)
    assert np.ptp(found) > 0.1, "scores that say nothing would agree too"


def test_hits_are_ordered_by_score_and_equal_ones_stay_in_the_retrievers_order(make):
    reranker = make()
    reranker.__class__ = OfLengths
    corpus = Corpus(Passage(str(n), "", text) for n, text in enumerate(["aa", "bbb", "c", "dd", "eee"]))
    hits = Hits(np.array([[3, 0, 2, 1], [2, 4, NONE, NONE]]), np.zeros((2, 4), np.float32))
    found = reranker.rerank(["x", "y"], hits, corpus)
    assert reranker.asked == [("x", corpus[n]) for n in (3, 0, 2, 1)] + [("y", corpus[n]) for n in (2, 4)]
    np.testing.assert_array_equal(found.passages, [[1, 3, 0, 2], [4, 2, NONE, NONE]])
    np.testing.assert_array_equal(found.scores, [[3, 2, 2, 1], [3, 1, -np.inf, -np.inf]])


def test_questions_without_hits_are_well(make):
    hits = Hits(np.full((1, 3), NONE), np.full((1, 3), -np.inf, np.float32))
    found = make().rerank(["one"], hits, Corpus())
    np.testing.assert_array_equal(found.passages, hits.passages)
    np.testing.assert_array_equal(found.scores, hits.scores)


def test_a_long_passage_loses_its_last_words_and_nothing_else_is_cut(make):
    """Query: one Document: two three Relevant: </s> are 7 tokens, so of 9 the passage gets 4."""
    whole, cut = make(), make(max_length=9)
    text = "two three four five six seven"
    found = cut.score(["one"], [Passage("long", "", text)])
    np.testing.assert_allclose(found, whole.score(["one"], [Passage("", "", "two three four five")]), rtol=1e-5)
    assert abs(found - whole.score(["one"], [Passage("", "", text)]))[0] > 1e-4


def test_of_a_script_without_spaces_a_passage_is_cut_as_well(make, monkeypatch):
    reranker = make(max_length=80)
    monkeypatch.setattr(reranker._tokenizer, "encode", lambda text: [5] * len(text))
    assert 40 < len(reranker._tokens("一", Passage("", "", "二" * 1000))) <= 80


def test_pairs_of_many_lengths_share_few_programs(make):
    reranker = make(tiny.t5(emb_dim=24), max_length=80)
    before = base.run_compiled._cache_size()
    passages = [Passage("", "", "one " * count) for count in range(1, 91)]
    reranker.score(["two"] * 90, passages)
    assert base.run_compiled._cache_size() - before == 3  # of 32, 64 and 80 tokens


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "{question} Relevant:"}, "it needs {question} and {passage}, once each"),
        ({"template": "{question} {passage} {title}"}, "once each"),
        ({"template": "{question} {passage"}, "once each"),
        ({"words": ("true", "one two")}, "Reranker.words: 'one two' is 2 tokens"),
        ({"lm": tiny.t5(vocab_size=12)}, "is not the tokenizer of tiny-0; give that one"),
        ({"lm": tiny.t5(eos_id=2)}, "is not the tokenizer of tiny-0; give that one"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message, make):
    with pytest.raises(UserError, match=message):
        make(**settings)


def test_a_question_that_fills_all_is_refused(make):
    reranker = make(max_length=8)
    with pytest.raises(UserError, match=r"the question 'one two.*' has 9 tokens.*Reranker.max_length is 8"):
        reranker.score(["one", "one two three four five"], PASSAGES[:2])


def test_weights_that_are_not_numbers_are_found(make):
    lm = tiny.t5()
    lm.decoder.decoder_norm.scale[...] = jnp.full(16, jnp.nan)
    with pytest.raises(UserError, match="are the weights whole"):
        make(lm).score(["one"], PASSAGES[:1])


def saved(method, folder):
    _, trained, _ = freezing.split(method, freezing.trainable_mask(method, method.rules))
    with checkpoints.Checkpointer(folder, checkpoints.describe(method, trained, seed=0)) as checkpointer:
        checkpointer.save(1, TrainState(jnp.int32(1), trained, ()))
    return str(folder)


def test_a_checkpoint_of_fine_tuning_takes_the_lms_place(make, tmp_path):
    trained = tiny.t5()
    for norm in (trained.encoder.encoder_norm, trained.decoder.decoder_norm):
        norm.scale[...] = 1.5 * norm.scale[...]
    path = saved(FineTuning(trained), tmp_path)
    found, alone = make(checkpoint=path), make()
    pairs = list(zip(*PAIRS, strict=True))
    np.testing.assert_allclose(found.score(*pairs), make(trained).score(*pairs), rtol=1e-6)
    assert not np.allclose(found.score(*pairs), alone.score(*pairs), atol=1e-2)
    assert found.made != alone.made
    assert found.made == make(checkpoint=path).made
    with pytest.raises(UserError, match="trained beside the LM 'tiny-0'"):
        make(tiny.t5(seed=1), checkpoint=path)


def test_a_checkpoint_of_something_else_is_refused(make, tmp_path):
    lm = tiny.t5()
    path = saved(PromptTuning(lm, length=2, initializer=lambda lm, length, key: jnp.zeros((length, 16))), tmp_path)
    with pytest.raises(UserError, match=r"prompt is \(2, 16\) in the checkpoint and absent in tiny-0.*FineTuning"):
        make(lm, checkpoint=path)


@pytest.mark.parametrize(
    "other",
    [{"lm": tiny.t5(seed=1)}, {"words": ("yes", "no")}, {"max_length": 32}, {"template": "{question} {passage}"}],
)
def test_what_decides_scores_is_written_down(other, make):
    assert json.dumps(make().made) != json.dumps(make(**other).made)
    assert make().made == make(batch_size=2).made
