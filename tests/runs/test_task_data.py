"""A run's data: settings that contradict each other, or that the LM cannot read."""

import dataclasses
from types import SimpleNamespace
from typing import NamedTuple

import gin
import numpy as np
import pytest

from frozen_jax.batching import Ragged, TaskTokens
from frozen_jax.errors import UserError
from frozen_jax.ordering import half, sample
from frozen_jax.runs.job import Job
from frozen_jax.runs.task_data import TaskData
from tests import tiny
from tests.runs import modules_of_tiny

LENGTHS = {"inputs": 8, "targets": 2}


@pytest.fixture(autouse=True)
def _bound():
    gin.clear_config()
    gin.bind_parameter("encoder_tokenizer.source", "titler-t5-small")
    yield
    gin.clear_config()


def test_a_tokenizer_that_nothing_would_be_tokenized_with():
    message = "encoder_tokenizer.source is 'titler-t5-small', but TASK_FEATURE_LENGTHS gives 'encoder_inputs' no length"
    with pytest.raises(UserError, match=message):
        TaskData("a_task", LENGTHS).check_encoder_tokenizer()


def test_what_an_encoder_reads_has_a_length_or_is_one_text():
    TaskData("a_task", {**LENGTHS, "encoder_inputs": 8}).check_encoder_tokenizer()
    TaskData("a_task", LENGTHS, encoder_text="Always this.").check_encoder_tokenizer()


def test_a_scope_of_gin_may_bind_none():
    """As that of a re-ranker does, which is trained inside a run whose generator has an encoder of its own."""
    gin.bind_parameter("reranker/encoder_tokenizer.source", None)
    with gin.config_scope("reranker"):
        TaskData("a_task", LENGTHS).check_encoder_tokenizer()
    with gin.config_scope("other"), pytest.raises(UserError, match="gives 'encoder_inputs' no length"):
        TaskData("a_task", LENGTHS).check_encoder_tokenizer()


def test_a_run_looks_at_it_before_anything_is_trained(tmp_path):
    with pytest.raises(UserError, match="gives 'encoder_inputs' no length"):
        Job(tiny.prompt_tuning(), TaskData("a_task", LENGTHS), str(tmp_path), tiny.mesh(1, 1))


def test_a_tokenizer_with_more_tokens_than_the_lm_has_embeddings(tmp_path):
    gin.clear_config()
    message = (
        r"titler-t5-small has 32100 tokens, the embedding table of tiny-0 only 96 rows; give the LM's own as TOKENIZER"
    )
    with pytest.raises(UserError, match=message):
        Job(tiny.prompt_tuning(), TaskData("a_task", LENGTHS), str(tmp_path), tiny.mesh(1, 1))
    Job(tiny.prompt_tuning(tiny.t5(vocab_size=32100)), TaskData("a_task", LENGTHS), str(tmp_path), tiny.mesh(1, 1))


def test_the_longest_example_has_to_fit_into_the_context():
    gin.clear_config()
    gin.bind_parameter("lm_tokenizer.template", "{inputs} =")  # one token
    method = tiny.prompt_tuning(tiny.llama(vocab_size=32100, context_length=20), length=5)
    TaskData("a_task", {"inputs": 10, "targets": 4}).check_fits(method)
    message = (
        "allows inputs of 11 and targets of 4; with 1 of the template and a prompt of 5 that is 1 more than the "
        "context of tiny-llama-0, 20"
    )
    with pytest.raises(UserError, match=message):
        TaskData("a_task", {"inputs": 11, "targets": 4}).check_fits(method)


def test_a_text_does_not_begin_twice():
    gin.clear_config()
    gin.bind_parameter("lm_tokenizer.template", "</s>{inputs}")  # a special token, as a begin-of-text token is
    lm = tiny.llama(vocab_size=32100, bos_id=1, bos_first=True)
    with pytest.raises(UserError, match="in front of what it reads, and the template begins"):
        TaskData("a_task", LENGTHS).check_fits(tiny.prompt_tuning(lm))
    TaskData("a_task", LENGTHS).check_fits(tiny.prompt_tuning(tiny.llama(vocab_size=32100, bos_id=1)))


def test_an_encoder_has_embeddings_for_its_tokenizer():
    gin.clear_config()
    encoder = tiny.t5(2, vocab_size=50)
    method = tiny.input_dependent_prompt_tuning(tiny.t5(vocab_size=32100), encoder=encoder)
    TaskData("a_task", LENGTHS).check_fits(method)
    with pytest.raises(UserError, match=r"only 50 rows; give the LM's own as encoder_tokenizer\.source"):
        TaskData("a_task", {**LENGTHS, "encoder_inputs": 8}).check_fits(method)


def test_texts_end_for_the_lm_as_for_its_tokenizer():
    gin.clear_config()
    with pytest.raises(UserError, match=r"titler-t5-small ends texts with token 1, tiny-llama-0 with 5; .*eos_id = 1"):
        TaskData("a_task", LENGTHS).check_fits(tiny.prompt_tuning(tiny.llama(vocab_size=32100, eos_id=5)))
    TaskData("a_task", LENGTHS).check_fits(tiny.prompt_tuning(tiny.llama(vocab_size=32100, eos_id=5, stop_ids=(1,))))


class OneTask(TaskData):
    """Forty examples; the names of their tasks come from no registry."""

    def _eval_tasks(self, split, most):
        del split
        return [modules_of_tiny.written(40 if most is None else most)]

    def _data(self):
        return SimpleNamespace(find_tasks=lambda name, split: {Named("written"): 1.0})


class Named(NamedTuple):
    name: str


def test_a_half_of_the_training_examples_is_of_those_whose_text_says_so():
    [task] = [modules_of_tiny.written(40)]
    inputs = {example.inputs.tobytes(): example.inputs_text for example in task.examples}
    seen = []
    for which in (0, 1):
        [tokens] = OneTask("written", LENGTHS, train_half=which)._train_tokens()
        column = tokens.features["inputs"]
        texts = [inputs[np.asarray(column[row]).tobytes()] for row in range(len(tokens))]
        assert {half(text) for text in texts} == {which}
        seen += texts
    assert sorted(seen) == sorted(inputs.values()), "each in one half"
    few = [OneTask("written", LENGTHS, train_half=which, train_examples=10)._train_tokens()[0] for which in (0, 1)]
    assert sum(map(len, few)) == 10


class FromTokens(TaskData):
    """Forty examples as token files would give them, and what was asked for; each is one token, its number."""

    def _data(self):
        tokens = Ragged.from_sequences(np.array([row], np.int32) for row in range(40))
        task = TaskTokens("written", {"inputs": tokens, "targets": tokens})

        def eval_tasks(*_, max_examples, seed, use_cached):
            del use_cached
            whole = modules_of_tiny.written(40)
            chosen = sample(40, max_examples, seed, "written")
            return [dataclasses.replace(whole, examples=[whole.examples[row] for row in chosen])]

        return SimpleNamespace(train_tokens=lambda *_, pack, **how: [task], eval_tasks=eval_tasks)


def test_runs_of_several_seeds_meet_the_same_examples_in_another_order():
    """Of a run whose parameters start from a checkpoint nothing else would depend on its seed."""
    gin.clear_config()
    settings = {
        "task_feature_lengths": LENGTHS,
        "train_examples": 16,
        "eval_examples": 5,
        "batch_size": 4,
        "length_window": 1,
    }
    found = [FromTokens("written", seed=seed, examples_seed=7, **settings) for seed in (0, 1)]
    batches = [data.train_batches() for data in found]
    orders = [[int(token) for k in range(4) for token in batch.batch(k).inputs[:, 0]] for batch in batches]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == sample(40, 16, 7, "written")
    assert [asked(data) for data in found] == [sample(40, 5, 7, "written")] * 2
    others = [asked(FromTokens("written", seed=seed, **settings)) for seed in (0, 1)]
    assert others == [sample(40, 5, seed, "written") for seed in (0, 1)]
    assert others[0] != others[1], "without it, the seed decides both"


def asked(data):
    [task] = data.eval_tasks("test")
    return [example.index for example in task.examples]


def test_a_half_depends_on_the_words_alone():
    questions = [f"Who wrote book {n}?" for n in range(200)]
    assert 70 < sum(map(half, questions)) < 130
    assert [half(f"  {question.upper()}\n") for question in questions] == [half(question) for question in questions]
