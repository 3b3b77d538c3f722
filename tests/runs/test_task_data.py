"""A run's data: settings that contradict each other."""

import gin
import pytest

from frozen_jax.errors import UserError
from frozen_jax.runs.job import Job
from frozen_jax.runs.task_data import TaskData
from tests import tiny

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


def test_a_run_looks_at_it_before_anything_is_trained(tmp_path):
    with pytest.raises(UserError, match="gives 'encoder_inputs' no length"):
        Job(tiny.prompt_tuning(), TaskData("a_task", LENGTHS), str(tmp_path), tiny.mesh(1, 1))
