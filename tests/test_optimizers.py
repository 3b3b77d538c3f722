"""Optimizers of their own for parameters of different kinds."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from frozen_jax.errors import UserError
from frozen_jax.optimizers import by_path

PARAMETERS = {
    "prompt": jnp.ones((2, 3)),
    "encoder_prompt": jnp.ones((3,)),
    "generator/projection/kernel": jnp.ones((3,)),
}


@pytest.mark.loose_promotion
def test_each_path_has_the_first_optimizer_that_matches_it():
    optimizer = by_path(
        [("(encoder_)?prompt", optax.sgd(0.5)), (".*", optax.sgd(0.25)), ("generator/.*", optax.sgd(9))]
    )
    updates, _ = optimizer.update(PARAMETERS, optimizer.init(PARAMETERS), PARAMETERS)
    assert {path: float(np.unique(array)[0]) for path, array in updates.items()} == {
        "prompt": -0.5,
        "encoder_prompt": -0.5,
        "generator/projection/kernel": -0.25,
    }


def test_a_parameter_that_nothing_matches():
    optimizer = by_path([("prompt", optax.sgd(0.5))])
    with pytest.raises(UserError, match=r"no pattern of \['prompt'\] matches the trained parameter 'encoder_prompt'"):
        optimizer.init(PARAMETERS)


def test_what_is_no_pair_is_named():
    with pytest.raises(UserError, match=r"is no pair like \('\.\*', @optax\.adamw\(\)\), brackets included"):
        by_path([("prompt", optax.sgd)])
