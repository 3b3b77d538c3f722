"""A training of a tiny prompt on made-up batches: by which metric a state is kept, and of which nothing is known."""

import contextlib
import dataclasses
import itertools

import numpy as np
import optax
import pytest

from frozen_jax import checkpoints
from frozen_jax.errors import UserError
from frozen_jax.runs import report
from frozen_jax.runs.train import train
from tests import tiny
from tests.runs import modules_of_tiny

pytestmark = pytest.mark.loose_promotion


class MadeUpBatches:
    @contextlib.contextmanager
    def iterate(self, first):
        yield itertools.repeat(tiny.batch())


@dataclasses.dataclass(frozen=True)
class TrainData(modules_of_tiny.MadeUpData):
    def train_batches(self):
        return MadeUpBatches()


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Trains three steps whose `mean` falls from one to the next while another metric rises."""
    scores = iter([{"mean": 0.9, "chosen/accuracy": 0.1}, {"mean": 0.5, "chosen/accuracy": 0.2}, {"mean": 0.1}])
    monkeypatch.setattr(report, "flat", lambda results: next(scores))
    job = modules_of_tiny.job(tmp_path, data=TrainData("chosen", modules_of_tiny.LENGTHS, eval_examples=2))

    def call(steps=2, **settings):
        train(job, optax.sgd(0.1), steps, eval_period=1, report_split=None, **settings)
        return checkpoints.find(tmp_path).relative_to(tmp_path).parts

    return call


def test_the_best_state_is_kept_by_the_mean_unless_another_metric_is_named(trained):
    assert trained() == ("best", "1")


def test_another_metric_may_choose(trained):
    assert trained(best_metric="chosen/accuracy") == ("best", "2")


def test_without_a_metric_the_last_state_is_used(trained):
    assert trained(best_metric=None) == ("checkpoints", "2")


@pytest.mark.parametrize("name", ["maen", "mean_nats_per_token", "chosn/accuracy"])
def test_a_metric_that_validation_cannot_give_ends_a_run_before_training(trained, tmp_path, name):
    with pytest.raises(UserError, match=f"train.best_metric: validation gives no '{name}'; take mean or NAME/"):
        trained(best_metric=name)
    assert not (tmp_path / "checkpoints").exists()


def test_a_metric_that_the_task_does_not_have_ends_it_at_the_first_evaluation(trained, tmp_path):
    with pytest.raises(UserError, match=r"best metric 'chosen/acuracy' is not among those measured: \['chosen/acc"):
        trained(best_metric="chosen/acuracy")
    assert len(list((tmp_path / "checkpoints").glob("*"))) <= 1


def test_where_the_metric_to_choose_by_failed_the_run_goes_on(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "failures", lambda *columns: ["metric accuracy of task chosen failed"])
    with pytest.raises(UserError, match="without that there was no validation chosen/accuracy to choose by"):
        trained(3, best_metric="chosen/accuracy")
    assert (tmp_path / "checkpoints" / "3").exists()


def test_a_checkpoint_says_what_text_the_encoder_read(tmp_path):
    data = TrainData("chosen", modules_of_tiny.LENGTHS, eval_examples=2, encoder_text="a text")
    train(modules_of_tiny.job(tmp_path, data=data), optax.sgd(0.1), 1, report_split=None)
    assert checkpoints.read_description(checkpoints.find(tmp_path))["encoder_text"] == "a text"


def test_a_run_may_start_from_what_another_has_trained(tmp_path):
    def job(name):
        return modules_of_tiny.job(tmp_path / name, data=TrainData("chosen", modules_of_tiny.LENGTHS, eval_examples=2))

    def trained_of(name, steps, **settings):
        train(job(name), optax.sgd(0.1), steps, report_split=None, **settings)
        return checkpoints.load_trained(tmp_path / name, job(name).method)

    first = trained_of("first", 2)
    still = trained_of("second", 1, start_from=str(tmp_path / "first"), save_period=1)
    third = trained_of("third", 1, start_from=lambda: train(job("first"), optax.sgd(0.1), 2, report_split=None))
    fresh = trained_of("fresh", 3)
    for name, array in still.items():
        np.testing.assert_array_equal(array, third[name])
        np.testing.assert_allclose(array, fresh[name], atol=1e-6)  # two steps, then one: as three
        assert abs(array - first[name]).max() > 1e-6
    assert still.keys() == trained_of("second", 2, start_from="a folder that is no longer wanted").keys()
