"""Planning: compiles a run's own steps for TPUs that are not here, from shapes alone, and reads what they would cost.

    gin ──▶ method, optimizer as shapes ──▶ train, score, start and go on ──▶ compiler ──▶ HBM, cycles, collectives

Nothing of the model is ever allocated. Seconds are estimates: the compiler's cycles at the chip's clock, and, since the
compiler says nothing of collectives, what the chips send each other at the speed of the links of one axis, as if
nothing else went on meanwhile. They leave out `plans.OMITTED`.
"""

from __future__ import annotations

import math
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from frozen_jax import flops, freezing, hlo, model_flops, partitioning, program_costs, training
from frozen_jax.chips import Generation
from frozen_jax.lm import base, generation
from frozen_jax.lm.decoding import Greedy, Limits
from frozen_jax.plans import Plan, Shapes, Step
from frozen_jax.silence import without_stderr
from frozen_jax.types import Batch, EncoderInputs, Negatives, Segments

Options = dict[str, Any]  # of the compiler
Make = Callable[[Options], jax.stages.Compiled]


class Abstract(NamedTuple):
    """A method and its training state as shapes that know where they would live.

    Attributes:
        state: see `training.TrainState`.
        split: see `training.Split`.
        optimizer: which it was made for.
    """

    state: training.TrainState
    split: training.Split
    optimizer: optax.GradientTransformation


def abstract(
    method: Any, optimizer: optax.GradientTransformation, mesh: Mesh, rules: freezing.Rules | None = None
) -> Abstract:
    """Does what `training.start` does, with shapes.

    Args:
        method: made within `nnx.eval_shape`.
        optimizer: sees the trained parameters only.
        mesh: axes ('data', 'model').
        rules: instead of the method's own.

    Raises:
        UserError: see `freezing.trainable_mask` and `partitioning.check_heads`.
    """
    config = getattr(method.lm, "config", None)
    if config is not None:
        partitioning.check_heads(config.num_heads, mesh, method.lm.name)
    mask = freezing.trainable_mask(method, method.rules if rules is None else rules)
    graphdef, trained, frozen = freezing.split(method, mask)
    trained, frozen = (
        {
            path: jax.ShapeDtypeStruct(
                leaf.shape, dtype or leaf.dtype, sharding=partitioning.sharding_for(path, leaf.shape, mesh)
            )
            for path, leaf in tree.items()
        }
        for tree, dtype in ((trained, jnp.float32), (frozen, None))
    )
    opt_state = jax.eval_shape(optimizer.init, trained)
    opt_state = _placed(opt_state, training.opt_state_shardings(opt_state, trained, mesh))
    step: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=partitioning.replicated(mesh))
    state = training.TrainState(step, trained, opt_state)
    return Abstract(state, training.Split(graphdef, frozen, mesh), optimizer)


def plan(
    topology: str,
    chip: Generation,
    found: Abstract,
    shapes: Shapes,
    *,
    z_loss: float = 0.0,
    accumulation_steps: int = 1,
    decodes: bool = True,
) -> Plan:
    """Compiles everything for the mesh of a topology and reads what it costs.

    Args:
        topology: its name.
        chip: its generation.
        found: the method, on the topology's mesh.
        shapes: of the batches.
        z_loss: see `Method.loss`.
        accumulation_steps: microbatches a step.
        decodes: whether texts are written, and not only scored.

    Raises:
        UserError: if the mesh does not divide the batch.
    """
    mesh = found.split.mesh
    partitioning.check_batch_size(shapes.rows, mesh, accumulation_steps)
    batch, reading = train_batch(shapes, mesh), _Reading(found, shapes)
    makers: dict[str, Make] = {
        "train": lambda options: _train_step(found, batch, z_loss, accumulation_steps).compile(options),
        "score": reading.score,
    }
    if decodes:
        makers |= {"read": reading.start, "write": reading.go_on}
    frozen, trained, optimizer = map(bytes_on_a_chip, (found.split.frozen, found.state.trained, found.state.opt_state))
    return Plan(
        topology=topology,
        chips=mesh.size,
        mesh=dict(mesh.shape),
        hbm_bytes=chip.hbm_bytes,
        frozen_bytes=frozen,
        trained_bytes=trained,
        optimizer_bytes=optimizer,
        trained=sum(math.prod(leaf.shape) for leaf in found.state.trained.values()),
        model_flops=_model_flops(found, batch),
        peak_flops=chip.peak_flops * mesh.size,
        steps=_measured(makers, chip, frozen + trained + optimizer),
        shapes=shapes,
    )


def _measured(makers: Mapping[str, Make], chip: Generation, held: int) -> dict[str, Step]:
    """Up to the first step that does not fit; nothing is compiled where what is held for good does not."""
    steps: dict[str, Step] = {}
    for name, make in makers.items():
        steps[name] = measure(make, chip) if held < chip.hbm_bytes else Step(peak_bytes=held, fits=False)
        if not steps[name].fits:
            break
    return steps


def train_batch(shapes: Shapes, mesh: Mesh) -> Batch:
    """Returns the largest training batch, as shapes."""

    def rows(length: int, dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((shapes.rows, length), dtype, sharding=partitioning.batch_sharding(mesh))

    inputs, targets = (rows(shapes.lengths[name], jnp.int32) for name in ("inputs", "targets"))
    others: dict[str, Any] = {
        name: kind(rows(shapes.lengths[name], jnp.int32), rows(shapes.lengths[name], bool))
        for name, kind in (("encoder_inputs", EncoderInputs), ("negatives", Negatives))
        if name in shapes.lengths
    }
    masks = rows(shapes.lengths["inputs"], bool), rows(shapes.lengths["targets"], jnp.float32)
    return Batch(inputs, masks[0], targets, masks[1], Segments(inputs, targets) if shapes.pack else None, **others)


def bytes_on_a_chip(tree: Any) -> int:
    """Returns the bytes that one chip holds of arrays, or of shapes that know where they would live."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def measure(make: Make, chip: Generation) -> Step:
    """Compiles and reads what came out; where it does not fit, what the compiler says it would have needed.

    Args:
        make: compiles, with the options that it gets.
        chip: for which.
    """
    began = time.perf_counter()
    try:
        with without_stderr(), tempfile.TemporaryDirectory() as folder:
            compiled = make({"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
            program = hlo.read(_dumped(folder) or compiled.as_text() or "")
    except jax.errors.JaxRuntimeError as error:
        if (needed := _needed(str(error))) is None:
            raise
        return Step(peak_bytes=needed, fits=False, compile_seconds=time.perf_counter() - began)
    seconds = time.perf_counter() - began
    cycles, unknown = program_costs.cycles(program)
    sent = program_costs.collectives(program)
    memory = compiled.memory_analysis()
    assert memory is not None, "a compiler for TPUs tells what memory it uses"
    return Step(
        memory.temp_size_in_bytes,
        _peak(memory),
        True,
        flops.program_flops(program),
        cycles / chip.clock,
        sum(one.bytes_sent for one in sent.values()) / chip.ring_bytes,
        sent,
        unknown,
        seconds,
    )


def _dumped(folder: str) -> str:
    """The program as the compiler wrote it: what jaxlib reads back it refuses where libtpu is newer than it is."""
    files = [file for file in pathlib.Path(folder).iterdir() if file.name.endswith("after_codegen.txt")]
    return max((file.read_text() for file in files), key=len, default="")


def _peak(memory: Any) -> int:
    sizes = (memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes)
    return sum(sizes) - memory.alias_size_in_bytes + memory.generated_code_size_in_bytes


def _needed(message: str) -> int | None:
    """Of the message of a compiler that ran out of HBM."""
    found = re.search(r"(?:Used |HLO temporaries \()([\d.]+)([KMGT])", message)
    return int(float(found[1]) * 2 ** (10 * " KMGT".index(found[2]))) if found else None


def _placed(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), tree, shardings)


def _train_step(found: Abstract, batch: Batch, z_loss: float, accumulation_steps: int) -> jax.stages.Lowered:
    how: dict[str, Any] = {"z_loss": z_loss, "accumulation_steps": accumulation_steps}
    step: Any = training.make_train_step(found.split, found.state, found.optimizer, **how)
    return step.lower(found.state, found.split.frozen, batch)


def _model_flops(found: Abstract, batch: Batch) -> int:
    def loss(trained: Any, frozen: Any, batch: Batch) -> Any:
        return training.loss_sum(trained, frozen, found.split.graphdef, batch, jax.random.key(0), 0.0)[0]

    return model_flops.training_flops(loss, found.state.trained, found.split.frozen, batch)


class _Reading:
    """The compiled parts of evaluation and inference, as `LanguageModel.score` and `generation.Writer` call them."""

    def __init__(self, found: Abstract, shapes: Shapes) -> None:
        self._mesh, self._shapes = found.split.mesh, shapes
        model = found.split.model(found.state.trained)
        ends = (model.eos_id, *model.stop_ids)
        self._graphdef, self._state = nnx.split(model)
        self._static = (self._graphdef, Greedy(), Limits(shapes.lengths["targets"], ends, model.pad_id))
        self._started: tuple[Any, ...] = ()

    def score(self, options: Options) -> jax.stages.Compiled:
        """The log-likelihood of one target an input."""
        arrays = [self._rows("inputs", jnp.int32), self._rows("inputs", bool)]
        arrays += [self._rows("targets", jnp.int32), self._rows("targets", bool), self._encoder_inputs()]
        return base.run_compiled.lower(base.score_rows, self._graphdef, self._state, *arrays).compile(options)

    def start(self, options: Options) -> jax.stages.Compiled:
        """Reading inputs, and the first token."""
        prompt = self._prompt()
        ids: Any = jax.ShapeDtypeStruct((self._shapes.eval_rows,), jnp.int32, sharding=self._sharding())
        inputs, mask = self._rows("inputs", jnp.int32), self._rows("inputs", bool)
        read = generation.Read(inputs, mask, ids, self._encoder_inputs())
        lowered = generation.start_texts.lower(*self._static, self._state, prompt, read)
        compiled = lowered.compile(options)
        self._started = _placed(lowered.out_info, compiled.output_shardings)
        return compiled

    def go_on(self, options: Options) -> jax.stages.Compiled:
        """The loop over tokens, of which one is counted."""
        number = jax.ShapeDtypeStruct((), jnp.int32, sharding=partitioning.replicated(self._mesh))
        return generation.write_on.lower(*self._static, self._state, self._started, number, number).compile(options)

    def _prompt(self) -> Any:
        lowered = generation.read_prompt_once.lower(self._graphdef, self._state)
        shapes = lowered.out_info
        return None if shapes is None else _placed(shapes, lowered.compile().output_shardings)

    def _sharding(self) -> NamedSharding:
        """Rows stay whole where the mesh does not divide them, as in `partitioning.spread_rows`."""
        spread = self._shapes.eval_rows % self._mesh.shape["data"] == 0
        return partitioning.batch_sharding(self._mesh) if spread else partitioning.replicated(self._mesh)

    def _rows(self, feature: str, dtype: Any) -> Any:
        shape = (self._shapes.eval_rows, self._shapes.lengths[feature])
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self._sharding())

    def _encoder_inputs(self) -> EncoderInputs | None:
        if "encoder_inputs" not in self._shapes.lengths:
            return None
        return EncoderInputs(self._rows("encoder_inputs", jnp.int32), self._rows("encoder_inputs", bool))
