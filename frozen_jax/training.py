"""Training: the state, the step and the loop. No method needs a fork of any of them.

The step is a pure function of (state, frozen parameters, batch). Only `state.trained` is differentiated and updated;
the frozen parameters are an argument that goes in and never comes out. Batch k is trained on at step k, so the step is
also the data position: one integer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Float, Int, PRNGKeyArray

from frozen_jax import chips, cloud_storage, distributed, freezing, partitioning, preemption
from frozen_jax.checkpoints import Checkpointer
from frozen_jax.errors import UserError
from frozen_jax.metrics import MetricWriter
from frozen_jax.types import Array, Batch

Metrics = dict[str, jax.Array]


class TrainState(NamedTuple):
    """All that training changes.

    Attributes:
        step: steps done, and the index of the next batch.
        trained: path → parameter, float32.
        opt_state: the optimizer's, over `trained` alone.
    """

    step: Int[Array, ""]
    trained: freezing.Parameters
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class Split:
    """A method taken apart and put on a mesh.

    Attributes:
        graphdef: the method's structure.
        frozen: path → parameter that never changes.
        mesh: where everything lives.
    """

    graphdef: Any
    frozen: freezing.Parameters
    mesh: Mesh

    def model(self, trained: freezing.Parameters) -> Any:
        """Puts the method together again."""
        return freezing.merge(self.graphdef, trained, self.frozen)


def start(
    method: Any, optimizer: optax.GradientTransformation, mesh: Mesh, rules: freezing.Rules | None = None
) -> tuple[TrainState, Split]:
    """Splits a method by its freezing rules, puts everything onto the mesh and makes the optimizer's state.

    Args:
        method: a method around a frozen LM.
        optimizer: sees the trained parameters only.
        mesh: axes ('data', 'model').
        rules: instead of the method's own.

    Raises:
        UserError: see `freezing.trainable_mask`.
    """
    mask = freezing.trainable_mask(method, method.rules if rules is None else rules)
    graphdef, trained, frozen = freezing.split(method, mask)
    trained = {path: jnp.array(array, jnp.float32) for path, array in trained.items()}  # a copy: the step donates it
    trained, frozen = partitioning.place(trained, mesh), partitioning.place(frozen, mesh)
    shardings = opt_state_shardings(jax.eval_shape(optimizer.init, trained), trained, mesh)
    opt_state = jax.jit(optimizer.init, out_shardings=shardings)(trained)
    step = jax.device_put(jnp.int32(0), partitioning.replicated(mesh))
    return TrainState(step, trained, opt_state), Split(graphdef, frozen, mesh)


def opt_state_shardings(opt_state: Any, trained: freezing.Parameters, mesh: Mesh) -> Any:
    """Returns where the optimizer's state lives: with the parameter whose path and shape it has, else everywhere."""

    def place(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.sharding.Sharding:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        parameter = trained.get(names[-1]) if names else None
        if parameter is not None and parameter.shape == leaf.shape:
            return parameter.sharding
        return partitioning.replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, opt_state)


def loss_sum(
    trained: freezing.Parameters,
    frozen: freezing.Parameters,
    graphdef: Any,
    batch: Batch,
    key: PRNGKeyArray,
    z_loss: float,
) -> tuple[Float[Array, ""], Metrics]:
    """Returns what the method loses on a batch, see `Method.loss`.

    Args:
        trained: what is differentiated.
        frozen: everything else.
        graphdef: the method's structure.
        batch: see `Method.loss`; so are the others.
        key: see there.
        z_loss: see there.
    """
    return freezing.merge(graphdef, trained, frozen).loss(batch, key, z_loss)


def microbatches(batch: Batch, count: int) -> Batch:
    """Returns the batch with a leading axis of `count` microbatches, each of every count-th row, so of all shards."""
    return jax.tree.map(lambda rows: rows.reshape(-1, count, *rows.shape[1:]).swapaxes(0, 1), batch)


def make_train_step(
    split: Split,
    state: TrainState,
    optimizer: optax.GradientTransformation,
    *,
    z_loss: float = 0.0,
    accumulation_steps: int = 1,
    seed: int = 0,
) -> Callable[[TrainState, freezing.Parameters, Batch], tuple[TrainState, Metrics]]:
    """Compiles `(state, frozen, batch) -> (state, metrics)`; the old state's buffers are donated.

    Args:
        split: the method, taken apart.
        state: says where the new state lives.
        optimizer: as in `start`.
        z_loss: see `Method.loss`.
        accumulation_steps: microbatches a step; gradients are summed over them before one update.
        seed: of dropout.
    """
    gradient = jax.value_and_grad(loss_sum, has_aux=True)

    def add(sums: Any, keyed: tuple[Batch, PRNGKeyArray], trained: Any, frozen: Any) -> tuple[Any, None]:
        (_, metrics), gradients = gradient(trained, frozen, split.graphdef, *keyed, z_loss)
        return jax.tree.map(jnp.add, sums, (gradients, metrics)), None

    def train_step(state: TrainState, frozen: Any, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        if accumulation_steps == 1:
            (_, metrics), gradients = gradient(state.trained, frozen, split.graphdef, batch, key, z_loss)
        else:
            zeros = {name: jnp.float32(0) for name in ("loss", "accuracy", "weight", "real_tokens")}
            start = (jax.tree.map(jnp.zeros_like, state.trained), zeros)
            xs = (microbatches(batch, accumulation_steps), jax.random.split(key, accumulation_steps))
            (gradients, metrics), _ = jax.lax.scan(lambda s, x: add(s, x, state.trained, frozen), start, xs)
        gradients = jax.tree.map(lambda g: g / metrics["weight"], gradients)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax relies on both
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.trained)
            trained = optax.apply_updates(state.trained, updates)
        metrics = {**metrics, "gradient_norm": optax.tree.norm(gradients)}
        return TrainState(state.step + 1, trained, opt_state), metrics

    shardings = jax.tree.map(lambda array: array.sharding, state)
    everywhere = partitioning.replicated(split.mesh)
    options = chips.compiler_options(split.mesh.devices.flat[0].device_kind)
    return jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, everywhere), compiler_options=options)


def fit(
    state: TrainState,
    split: Split,
    step: Callable[[TrainState, freezing.Parameters, Batch], tuple[TrainState, Metrics]],
    batches: Iterator[Batch],
    *,
    train_steps: int,
    writer: MetricWriter,
    checkpointer: Checkpointer,
    save_period: int,
    evaluate: Callable[[Any], dict[str, float]] | None = None,
    eval_period: int = 0,
    profile_steps: int = 0,
) -> TrainState:
    """Trains until `train_steps` steps have been done in all, and returns the last state.

    Args:
        state: where to start; its step is the index of the first batch.
        split: the method, taken apart.
        step: made by `make_train_step`.
        batches: from batch `state.step` on; this process's rows.
        train_steps: where to stop.
        writer: gets every step's metrics.
        checkpointer: saves every `save_period` steps and at the end.
        save_period: in steps.
        evaluate: model → metrics on the validation split.
        eval_period: in steps; 0 never evaluates.
        profile_steps: how many steps to trace, from the third of this run on; 0 none.

    Raises:
        UserError: if the loss or a gradient is not finite: names the step and its batch, and saves nothing of it.
        Preempted: after SIGTERM to any process, when all have done and saved one step; at once in a process that
            evaluates, behind the last save.
    """
    first = int(state.step)
    profiler = contextlib.ExitStack()
    with preemption.put_off() as told, writer.progress(first, train_steps), profiler:
        for index in range(first, train_steps):
            if profile_steps and index == first + 2:
                folder = profiler.enter_context(cloud_storage.written_locally(writer.directory / "profile"))
                profiler.enter_context(jax.profiler.trace(folder))
            batch = partitioning.put_batch(next(batches), split.mesh)
            state, metrics = step(state, split.frozen, batch)
            rows, width = batch.inputs.shape[0], batch.inputs.shape[1] + batch.targets.shape[1]
            writer.step(index, check_finite(index, metrics), examples=rows, tokens=rows * width)
            if profile_steps and index == first + 1 + profile_steps:
                profiler.close()
            done = index + 1
            if evaluate and eval_period and (done % eval_period == 0 or done == train_steps):
                with preemption.at_once():
                    scores = evaluate(split.model(state.trained))
                writer.evaluation(done, scores)
                checkpointer.save_best(done, state, scores)
            stop = distributed.all_stop(told(), done)
            if done % save_period == 0 or done == train_steps or stop:
                writer.flush()
                checkpointer.save(done, state)
            if stop:
                checkpointer.wait()
                raise preemption.Preempted(f": step {done} is saved")
        checkpointer.wait()
    return state


def check_finite(index: int, metrics: Metrics) -> dict[str, float]:
    """Returns the step's metrics as numbers: means over real target tokens.

    Raises:
        UserError: if the loss or the gradient's norm is not finite.
    """
    values = {name: float(value) for name, value in metrics.items()}
    if not (math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"])):
        raise UserError(
            f"step {index} (batch {index}): loss {values['loss']}, gradient norm {values['gradient_norm']}; "
            "the last checkpoint is from before it. Lower the learning rate or clip gradients"
        )
    values["loss"] /= values["weight"]
    values["accuracy"] /= values["weight"]
    return values
