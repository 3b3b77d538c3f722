"""What a re-ranker and a dual encoder learn from: good passages, and bad ones out of the retriever's own hits."""

import functools

import gin
import pytest

from frozen_jax.errors import UserError
from frozen_jax.retrieval.base import Passage
from frozen_jax.retrieval.recall import Question
from frozen_jax.retrieval.training_pairs import (
    TrainingPairs,
    draw,
    dual_encoder_examples,
    judge,
    kept_hits,
    reranking_examples,
)
from tests.retrieval.fake_retriever import FakeCorpus, FakeRetriever

CORPUS = FakeCorpus(
    [
        *(Passage(f"town{i}", f"town {i}", f"a bridge in town {i} over the Aln") for i in range(6)),
        Passage("gold", "Lantern", "it was built by John Smith"),
        Passage("far", "Elsewhere", "nothing"),
    ]
)
QUESTION = Question("a bridge in which town", ["John Smith"], ["gold", "town2"])
BY_ANSWER = Question("a bridge in town 3", ["the aln"])


@pytest.fixture
def retriever():
    return FakeRetriever(CORPUS)


def judged(retriever, *questions, count=8):
    return judge(questions, retriever.search([question.text for question in questions], count), CORPUS)


def test_gold_passages_are_positive_wherever_they_stand(retriever):
    (found,) = judged(retriever, QUESTION)
    assert found.positives == [6, 2]  # the first of them is none of the hits
    assert found.negatives == [0, 1, 3, 4, 5]  # best first, without the gold one and what was not hit


def test_without_gold_the_best_hit_with_an_answer_is_positive(retriever):
    (found,) = judged(retriever, BY_ANSWER)
    assert (found.positives, found.negatives) == ([3], [])  # the others have the answer too: neither good nor bad
    (found,) = judged(retriever, BY_ANSWER._replace(answers=["in town 1", "in town 2"]))
    assert (found.positives, found.negatives) == ([1], [3, 0, 4, 5])


def test_examples_of_a_reranker(retriever):
    found = list(reranking_examples(judged(retriever, QUESTION), CORPUS, negatives=3, seed=0))
    assert [example["targets"] for example in found] == ["true"] * 2 + ["false"] * 3
    assert {tuple(example["choices"]) for example in found} == {("false", "true")}
    assert found[0]["inputs"] == (
        "Query: a bridge in which town Document: Lantern it was built by John Smith Relevant:"
    )
    assert len({example["inputs"] for example in found}) == 5
    assert all("Document: town" in example["inputs"] for example in found[1:])


def test_examples_of_a_dual_encoder(retriever):
    found = list(dual_encoder_examples(judged(retriever, QUESTION), CORPUS, seed=0))
    assert [example["targets"] for example in found] == [CORPUS[6].whole, CORPUS[2].whole]
    assert {example["inputs"] for example in found} == {QUESTION.text}
    negatives = {example["negatives"] for example in found}
    assert len(negatives) == 2
    assert negatives <= {CORPUS[i].whole for i in (0, 1, 3, 4, 5)}


def test_a_question_without_positives_gives_nothing(retriever):
    found = judged(retriever, BY_ANSWER._replace(answers=["Loch Ness"]))
    assert found[0].positives == []
    assert list(reranking_examples(found, CORPUS, negatives=2, seed=0)) == []
    assert list(dual_encoder_examples(found, CORPUS, seed=0)) == []


def test_draws_depend_on_the_seed_and_the_question_alone(retriever):
    drawn = functools.partial(draw, range(100), 5)
    assert drawn(0, QUESTION) == drawn(0, QUESTION._replace(gold=[])) != drawn(1, QUESTION)
    assert drawn(0, QUESTION) != drawn(0, BY_ANSWER)
    assert draw(range(100), 3, 0, QUESTION) == drawn(0, QUESTION)[:3]
    assert sorted(draw(range(4), 9, 0, QUESTION)) == [0, 1, 2, 3]
    alone = list(reranking_examples(judged(retriever, QUESTION), CORPUS, negatives=2, seed=0))
    beside = list(reranking_examples(judged(retriever, BY_ANSWER, QUESTION), CORPUS, negatives=2, seed=0))
    assert beside[-4:] == alone


def test_hits_are_retrieved_once(tmp_path, retriever):
    pairs = TrainingPairs(directory=tmp_path, negatives=2, hits=7)
    first = pairs.reranking([QUESTION], lambda: retriever)
    again = pairs.dual_encoder([QUESTION], lambda: FakeRetriever(CORPUS))
    assert retriever.asked == [[QUESTION.text]]
    assert (len(first), len(again)) == (4, 2)
    other = FakeRetriever(CORPUS)
    TrainingPairs(other, directory=tmp_path, hits=5).reranking([QUESTION], lambda: retriever)
    TrainingPairs(other, directory=tmp_path, hits=7).reranking([QUESTION, BY_ANSWER], lambda: retriever)
    assert (len(retriever.asked), len(other.asked)) == (1, 2)
    kept = kept_hits(retriever, [QUESTION.text], 7, tmp_path)
    assert kept.passages.tolist() == FakeRetriever(CORPUS).search([QUESTION.text], 7).passages.tolist()
    assert len(retriever.asked) == 1


def test_what_a_reranker_learns_from_is_not_reranked_by_it(tmp_path, retriever):
    """A run binds `Evidence.reranker` to what trains it: asked for here, it would ask for these hits, without end."""
    gin.bind_parameter("Evidence.reranker", NeverAsked())
    gin.bind_parameter("Evidence.hits", 2)
    try:
        assert kept_hits(retriever, [QUESTION.text], 7, tmp_path).passages.shape == (1, 7)
    finally:
        gin.clear_config()


class NeverAsked:
    @property
    def made(self):
        raise AssertionError("the re-ranker is asked")

    rerank = made


def test_a_gold_passage_of_another_corpus_is_refused(retriever):
    with pytest.raises(UserError, match="the corpus has no passage 'lost', gold for 'a bridge in which"):
        judged(retriever, QUESTION._replace(gold=["gold", "lost"]))


def test_a_question_that_says_nothing_of_what_is_right_is_refused(retriever):
    with pytest.raises(UserError, match="question 1, 'a bridge in town 3', has neither answers nor gold"):
        judged(retriever, QUESTION, BY_ANSWER._replace(answers=[]))


@pytest.mark.parametrize("name", ["hits", "negatives"])
def test_a_number_that_is_none_is_refused(name):
    with pytest.raises(UserError, match=f"TrainingPairs.{name} is 0; give a number of passages, at least 1"):
        TrainingPairs(**{name: 0})
