"""The step and the loop: they learn, they are deterministic, and they stop when figures stop being numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from frozen_jax import freezing, partitioning, training
from frozen_jax.errors import UserError
from frozen_jax.methods.fine_tuning import FineTuning
from tests import tiny

MESH = (1, 1)


def _started(method, optimizer, **options):
    mesh = tiny.mesh(*MESH)
    state, split = training.start(method, optimizer, mesh)
    return state, split, training.make_train_step(split, state, optimizer, **options)


def _run(method, optimizer, batches, **options):
    state, split, step = _started(method, optimizer, **options)
    metrics = []
    for batch in batches:
        state, values = step(state, split.frozen, partitioning.put_batch(batch, split.mesh))
        metrics.append({name: float(value) for name, value in values.items()})
    return state, metrics


@pytest.mark.parametrize(
    ("name", "optimizer", "steps", "share"),
    [
        ("prompt_tuning", optax.adafactor(1.0, multiply_by_parameter_scale=False), 80, 0.75),
        ("input_dependent_prompt_tuning", optax.adamw(3e-2), 80, 0.75),
        ("fine_tuning", optax.adamw(1e-2), 30, 0.02),
    ],
)
def test_each_method_overfits_a_batch(name, optimizer, steps, share):
    _, metrics = _run(tiny.method(name), optimizer, [tiny.batch(rows=8)] * steps)
    assert metrics[-1]["loss"] < share * metrics[0]["loss"]


def test_accumulated_microbatches_are_one_batch():
    batch = tiny.batch()
    whole, [of_whole] = _run(tiny.method("fine_tuning"), optax.sgd(0.1), [batch])
    parts, [of_parts] = _run(tiny.method("fine_tuning"), optax.sgd(0.1), [batch], accumulation_steps=4)
    for name in of_whole:
        np.testing.assert_allclose(of_whole[name], of_parts[name], rtol=1e-4)
    for path, array in whole.trained.items():
        np.testing.assert_allclose(array, parts.trained[path], rtol=1e-4, atol=1e-6)


def test_the_step_is_compiled_with_the_options_of_its_chip(monkeypatch):
    monkeypatch.setattr("frozen_jax.chips.compiler_options", lambda kind: {f"xla_no_flag_of_{kind}": "1"})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_flag_of_cpu"):
        _run(tiny.method("prompt_tuning"), optax.sgd(0.1), [tiny.batch()])


def test_same_seed_same_numbers():
    batches = [tiny.batch(seed=i) for i in range(4)]
    runs = [_run(FineTuning(tiny.t5(), dropout_rate=0.1), optax.adamw(1e-3), batches, seed=s)[1] for s in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2], "another seed drops other activations"


def test_tokens_without_weight_count_nowhere():
    batch = tiny.batch()
    noise = batch._replace(targets=np.where(batch.targets_weights > 0, batch.targets, 7).astype(np.int32))
    _, [first] = _run(tiny.method("prompt_tuning"), optax.sgd(0.1), [batch])
    _, [second] = _run(tiny.method("prompt_tuning"), optax.sgd(0.1), [noise])
    assert first == second
    assert first["weight"] == batch.targets_weights.sum()
    assert first["real_tokens"] == batch.inputs_mask.sum() + batch.targets_weights.sum()


def test_rows_that_fill_up_a_batch_count_nowhere():
    batch = tiny.batch(rows=8)
    empty = jax.tree.map(np.zeros_like, tiny.batch(rows=8))
    filled = jax.tree.map(lambda *rows: np.concatenate(rows), batch, empty)
    _, [small] = _run(tiny.method("prompt_tuning"), optax.sgd(0.1), [batch])
    _, [large] = _run(tiny.method("prompt_tuning"), optax.sgd(0.1), [filled])
    for name in small:
        np.testing.assert_allclose(small[name], large[name], rtol=1e-5)


def test_trained_parameters_are_float32_and_frozen_ones_keep_their_dtype():
    lm = jax.tree.map(lambda x: x, tiny.t5(dtype="bfloat16"))
    method = tiny.prompt_tuning(lm)
    graphdef, trained, frozen = freezing.split(method, freezing.trainable_mask(method, method.rules))
    half = {path: array.astype(jnp.bfloat16) for path, array in frozen.items()}
    method = freezing.merge(graphdef, trained, half)
    state, split, step = _started(method, optax.adafactor(0.1))
    assert {array.dtype for array in split.frozen.values()} == {jnp.dtype("bfloat16")}
    state, metrics = step(state, split.frozen, partitioning.put_batch(tiny.batch(), split.mesh))
    assert state.trained["prompt"].dtype == jnp.float32
    assert metrics["loss"].dtype == jnp.float32
    assert np.isfinite(metrics["loss"])


def test_z_loss_adds_the_squared_partition_function():
    batch = tiny.batch()
    method = tiny.method("prompt_tuning")
    graphdef, trained, frozen = freezing.split(method, freezing.trainable_mask(method, method.rules))
    arguments = (trained, frozen, graphdef, jax.tree.map(jnp.asarray, batch), jax.random.key(0))
    plain, with_z = (float(training.loss_sum(*arguments, weight)[0]) for weight in (0.0, 0.1))
    logits = method.logits(batch.inputs, batch.targets, inputs_lengths=batch.inputs_mask.sum(1))
    log_z = jax.nn.logsumexp(logits, axis=-1)
    np.testing.assert_allclose(with_z - plain, 0.1 * np.sum(batch.targets_weights * log_z**2), rtol=1e-3)


def test_figures_that_are_no_numbers_stop_the_run_and_name_the_step():
    good = {
        "loss": jnp.float32(6.0),
        "accuracy": jnp.float32(1.0),
        "weight": jnp.float32(3.0),
        "gradient_norm": jnp.float32(1),
    }
    assert training.check_finite(0, good)["loss"] == 2.0
    for name in ("loss", "gradient_norm"):
        with pytest.raises(UserError, match=r"step 7 \(batch 7\)"):
            training.check_finite(7, {**good, name: jnp.float32(np.nan)})


def test_rules_that_train_nothing_are_refused():
    with pytest.raises(UserError, match="train nothing"):
        training.start(tiny.method("prompt_tuning"), optax.sgd(0.1), tiny.mesh(1, 1), ((".*", "freeze"),))
