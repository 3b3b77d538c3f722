"""The tasks of a re-ranker and a dual encoder over HotpotQA, with a retriever that counts words in common."""

import gin
import numpy as np
import pytest
import seqio

from frozen_jax import answering, data
from frozen_jax.evaluation import judge
from frozen_jax.retrieval.base import Passage
from frozen_jax.retrieval.recall import Question
from frozen_jax.retrieval.training_pairs import TrainingPairs
from tasks import hotpotqa_open, hotpotqa_reranking
from tests import tiny_tokenizer
from tests.retrieval.fake_retriever import FakeCorpus, FakeRetriever
from tests.task_batches import train_batches

CORPUS = FakeCorpus(
    [*(Passage(f"p{i}", f"town {i}", f"bridge {i}") for i in range(8)), Passage("gold", "Lantern", "Smith")]
)
QUESTIONS = {
    "train": [Question(f"which bridge {i}", ["Smith"], ["gold", f"p{i}"]) for i in range(3)],
    "validation": [Question("which bridge 4", ["Smith"], ["gold", "p4"])],
    "test": [Question(f"which bridge {i}", ["Smith"], ["gold", f"p{i}"]) for i in (5, 6)],
}
RERANKING, DUAL_ENCODER = hotpotqa_reranking.RERANKING.name, hotpotqa_reranking.DUAL_ENCODER.name
WORDS = "<pad> </s> <unk> true false Query: Document: Relevant: which bridge town Lantern Smith 0 1 2 3 4 5 6 7"


@pytest.fixture
def retriever(tmp_path, monkeypatch):
    found = FakeRetriever(CORPUS)
    monkeypatch.setattr(hotpotqa_open, "questions", QUESTIONS.__getitem__)
    monkeypatch.setattr(hotpotqa_reranking, "bm25", lambda: found)
    monkeypatch.setenv("FROZEN_JAX_CACHE", str(tmp_path))
    with gin.unlock_config():
        gin.bind_parameter("lm_tokenizer.source", tiny_tokenizer.write(tmp_path, WORDS.split()))
        gin.bind_parameter("TrainingPairs.negatives", 3)
    yield found
    gin.clear_config()


def test_the_reranker_learns_true_and_false_of_its_split_alone(retriever):
    (task,) = data.eval_tasks(RERANKING, {"inputs": 32, "targets": 4}, "test")
    assert retriever.asked == [[question.text for question in QUESTIONS["test"]]]
    assert [example.targets_text for example in task.examples] == (["true"] * 2 + ["false"] * 3) * 2
    assert task.examples[0].inputs_text == "Query: which bridge 5 Document: Lantern Smith Relevant:"
    assert task.examples[1].inputs_text == "Query: which bridge 5 Document: town 5 bridge 5 Relevant:"
    assert all([*example.choices] == ["false", "true"] for example in task.examples)
    assert len({example.inputs_text for example in task.examples}) == 10


def test_accuracy_of_the_reranker(retriever):
    (task,) = data.eval_tasks(RERANKING, {"inputs": 32, "targets": 4}, "test")
    always_no = judge(task, answering.Answers(["false"] * 10, np.zeros(10), [{} for _ in range(10)]))
    assert always_no.metrics == {"accuracy": 0.6, "mean_class_recall": 0.5}
    assert always_no.majority_rate == 0.6


def test_batches_of_the_reranker(retriever):
    batches = train_batches(RERANKING, {"inputs": 32, "targets": 4}, 15)
    assert sorted(batches.batch(0).targets[:, 0].tolist()) == [3] * 6 + [4] * 9
    train_batches(RERANKING, {"inputs": 32, "targets": 4}, 15)
    assert len(retriever.asked) == 1  # the hits were kept


def test_gin_names_another_retriever(retriever, tmp_path):
    other = FakeRetriever(CORPUS)
    TrainingPairs(other, directory=tmp_path).reranking(QUESTIONS["train"], hotpotqa_reranking.bm25)
    assert (len(other.asked), retriever.asked) == (1, [])


def test_the_dual_encoder_has_a_negative_beside_each_positive(retriever):
    task = seqio.TaskRegistry.get(DUAL_ENCODER)
    lengths = {"inputs": 8, "targets": 8, "negatives": 8}
    found = list(task.get_dataset(lengths, "train", shuffle=False).as_numpy_iterator())
    vocabulary = task.output_features["negatives"].vocabulary
    assert len(found) == 6
    for row, example in enumerate(found):
        question = QUESTIONS["train"][row // 2]
        assert example["inputs_pretokenized"].decode() == question.text
        good, bad = (example[f"{name}_pretokenized"].decode() for name in ("targets", "negatives"))
        assert good == ("Lantern Smith", CORPUS[row // 2].whole)[row % 2]
        assert bad.startswith("town")
        assert bad != CORPUS[row // 2].whole
        assert vocabulary.decode(example["negatives"].tolist()) == bad
        assert example["negatives"][-1] == vocabulary.eos_id
