"""One LM for all methods of a run."""

import gc
import weakref

import gin
import pytest

from frozen_jax.runs import job

LM = "tests/fixtures/t5x/t5_1_1_tiny_legacy/checkpoint_7"


@pytest.fixture(autouse=True)
def _bound():
    gin.clear_config()
    gin.bind_parameter("load_lm.source", LM)
    gin.bind_parameter("load_lm.mlp_activations", ("gelu", "linear"))
    yield
    gin.clear_config()


def loaded():
    return gin.get_configurable("load_lm")()


def test_asked_for_the_same_there_is_one_lm_in_every_scope_while_it_is_held():
    one = loaded()
    with gin.config_scope("p1"):
        assert loaded() is one
        gin.bind_parameter("p1/load_lm.dtype", "bfloat16")
        assert loaded() is not one
    held = weakref.ref(one)
    del one
    gc.collect()
    assert held() is None
    assert not job._held
