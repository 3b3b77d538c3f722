"""Meshes of eight CPU devices give what one device gives."""

import jax
import numpy as np
import optax
import pytest

from frozen_jax import partitioning, training
from frozen_jax.errors import UserError
from tests import tiny


def _losses(name, mesh, steps=20):
    method = tiny.method(name)
    optimizer = tiny.OPTIMIZERS[name]()
    state, split = training.start(method, optimizer, mesh)
    step = training.make_train_step(split, state, optimizer)
    losses = []
    for index in range(steps):
        state, metrics = step(state, split.frozen, partitioning.put_batch(tiny.batch(seed=index), mesh))
        losses.append(float(metrics["loss"]))
    return np.array(losses)


@pytest.fixture(scope="module")
def single():
    return {name: _losses(name, tiny.mesh(1, 1)) for name in tiny.METHODS}


@pytest.mark.parametrize(
    ("name", "shape"),
    [*((name, (4, 2)) for name in tiny.METHODS), ("prompt_tuning", (8, 1)), ("fine_tuning", (1, 8))],
)
def test_every_mesh_gives_the_losses_of_one_device(single, name, shape):
    losses = _losses(name, tiny.mesh(*shape))
    np.testing.assert_allclose(losses[0], single[name][0], rtol=1e-5)
    np.testing.assert_allclose(losses, single[name], rtol=1e-3)
    assert losses[-1] != losses[0]


def test_parameters_are_really_split():
    mesh = tiny.mesh(4, 2)
    state, _ = training.start(tiny.method("fine_tuning"), optax.adamw(1e-3), mesh)
    kernel = state.trained["lm/encoder/layers/mlp/wi_0/kernel"]
    assert kernel.sharding.spec == jax.sharding.PartitionSpec(None, None, "model")
    assert kernel.addressable_shards[0].data.size == kernel.size // 2
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == kernel.shape]
    assert moments
    assert all(leaf.sharding == kernel.sharding for leaf in moments if leaf.shape == kernel.shape)


def test_scores_and_answers_are_spread_over_the_mesh():
    method, batch = tiny.method("prompt_tuning"), tiny.batch(rows=8)
    state, split = training.start(method, optax.sgd(0.1), tiny.mesh(4, 2))
    spread = split.model(state.trained)
    score = spread.score(batch.inputs, batch.targets)
    assert score.sharding.spec == jax.sharding.PartitionSpec("data")
    np.testing.assert_allclose(score, method.score(batch.inputs, batch.targets), rtol=1e-5)
    np.testing.assert_array_equal(
        spread.generate(batch.inputs, max_length=4).tokens, method.generate(batch.inputs, max_length=4).tokens
    )
    np.testing.assert_allclose(spread.score(batch.inputs[:3], batch.targets[:3]), score[:3], rtol=1e-5)


def test_two_dimensional_rules_split_the_width_too():
    sharding = partitioning.sharding_for("lm/encoder/layers/mlp/wo/kernel", (2, 32, 16), tiny.mesh(4, 2), rules="2d")
    assert sharding.spec == jax.sharding.PartitionSpec(None, "model", "data")


def test_split_further_no_two_devices_have_the_same_part():
    mesh, spec = tiny.mesh(4, 2), jax.sharding.PartitionSpec
    living = jax.sharding.NamedSharding(mesh, spec(None, "model"))
    wanted = {(8, 32, 16): spec("data", "model", None), (6, 32, 16): spec(None, ("model", "data"), None)}
    for shape, split in wanted.items():
        assert partitioning.split_further(shape, living).spec == split
    assert partitioning.split_further((6,), partitioning.replicated(mesh)).spec == spec("model")


def test_biases_are_split_as_the_columns_they_are_added_to():
    sharding = partitioning.sharding_for("decoder/layers/self_attention/query/bias", (2, 32), tiny.mesh(4, 2))
    assert sharding.spec == jax.sharding.PartitionSpec(None, "model")


def test_an_axis_that_does_not_divide_stays_whole():
    spec = partitioning.sharding_for("encoder/relpos_bias/rel_embedding", (6, 32), tiny.mesh(2, 4)).spec
    assert spec == jax.sharding.PartitionSpec(None, None)


def test_every_parameter_of_every_method_and_lm_has_logical_axes():
    from flax import nnx

    models = [tiny.method(name) for name in tiny.METHODS]
    for model in [*models, tiny.llama(qkv_bias=True)]:
        for path, leaf in nnx.to_flat_state(nnx.state(model)):
            assert len(partitioning.logical_axes("/".join(map(str, path)), leaf.ndim)) == leaf.ndim


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: partitioning.logical_axes("lm/new/thing", 2), "no entry in LOGICAL_AXES"),
        (lambda: partitioning.logical_axes("prompt", 3), "has 3 axes"),
        (lambda: partitioning.make_mesh(data=3, model=2), "mesh 3x2 .* needs 6 devices; there are 8"),
        (
            lambda: partitioning.check_batch_size(12, tiny.mesh(8, 1)),
            "batch size 12 is not divisible by 8.*use 8 or 16",
        ),
        (lambda: partitioning.check_batch_size(8, tiny.mesh(8, 1), 2), "not divisible by 16"),
        (lambda: partitioning.sharding_for("prompt", (5, 16), tiny.mesh(1, 1), rules="3d"), "'3d' are not known"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.parametrize(
    ("processes", "shares"),
    [
        ([[0], [0], [1], [1]], [(0, 2), (1, 2)]),
        ([[0, 0], [1, 1]], [(0, 2), (1, 2)]),
        ([[1, 1], [0, 0]], [(1, 2), (0, 2)]),
        ([[0, 0, 1, 1], [2, 2, 3, 3]], [(0, 2), (0, 2), (1, 2), (1, 2)]),
        ([[0, 1]], [(0, 1), (0, 1)]),
    ],
)
def test_processes_that_the_model_axis_joins_make_the_same_rows(processes, shares):
    assert [partitioning._share(processes, own) for own in range(len(shares))] == shares


def test_a_model_axis_that_joins_half_a_host_is_refused():
    with pytest.raises(UserError, match="model = 3 splits a host's devices unevenly; let it divide their number"):
        partitioning._share([[0, 0, 1], [1, 2, 2]], 0)
