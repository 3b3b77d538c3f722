"""`--run_mode=plan`: what a run would need on TPUs that are not here, compared between topologies.

    python run.py --run_mode=plan --gin_file=... --topology=v5p:4x4x4 --topology=v5e:8x8
    python run.py --run_mode=plan --gin_file=... --topology=v5p --smallest

Nothing is read but gin files, and of a source of weights its headers, where gin does not tell the LM's whole shape.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from typing import Any

import gin
import jax
import optax
from flax import nnx

from frozen_jax import chips, cloud_storage, gin_config, partitioning, planning
from frozen_jax.batching import all_buckets
from frozen_jax.errors import UserError
from frozen_jax.plans import Plan, Shapes
from frozen_jax.runs import plan_page
from frozen_jax.runs.job import Job, forget_lms
from frozen_jax.tokenizer import lm_tokenizer

_EVAL_ROWS = 32  # the default of `evaluation.evaluate`


@gin.configurable
def plan(
    job: Callable[[], Job] = gin.REQUIRED,
    optimizer: optax.GradientTransformation = gin.REQUIRED,
    train_steps: int = gin.REQUIRED,
    topologies: Sequence[str] = (),
    smallest: bool = False,
) -> None:
    """Prints what a run would need, and writes MODEL_DIR/plan/plan.{json,md,png}.

    Args:
        job: makes the method, its data and the run's folder.
        optimizer: from optax.
        train_steps: in all.
        topologies: as `v5p:4x4x4`; with `smallest` a generation is enough.
        smallest: look for the smallest slice of each generation that holds the run.

    Raises:
        UserError: for a topology that is not known, a mesh that does not divide heads or batch, without libtpu, and
            where no slice of a generation holds the run.
    """
    if not topologies:
        raise UserError("--run_mode=plan: say for which TPUs, with --topology=v5p:4x4x4; it may be given again")
    for topology in topologies:
        chips.generation(topology)
        if not smallest:
            chips.chips(topology)
    chips.require_libtpu()
    made = [(_smallest if smallest else _planned)(topology, job, optimizer) for topology in topologies]
    folder = cloud_storage.open_path(made[0][0].model_dir) / "plan"
    plans = [found for _, found in made]
    text = plan_page.text(plans, train_steps)
    with cloud_storage.refusals_explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plan.json").write_text(json.dumps([_as_json(one, train_steps) for one in plans], indent=1) + "\n")
        (folder / "plan.md").write_text(plan_page.page(text, made[0][0].method, train_steps))
        (folder / "plan.png").write_bytes(plan_page.picture(plans))
    print(f"{text}\n\nWritten: {folder}")


def _planned(topology: str, make_job: Callable[[], Job], optimizer: optax.GradientTransformation) -> tuple[Job, Plan]:
    with partitioning.standing_in(chips.devices(topology)):
        job = _abstract_job(make_job)
        found = planning.abstract(job.method, optimizer, job.mesh, job.rules)
        settings = {"z_loss": 0.0, "accumulation_steps": 1} | gin_config.bound_to("train")
        how = {name: settings[name] for name in ("z_loss", "accumulation_steps")}
        return job, planning.plan(topology, chips.generation(topology), found, _shapes(job), **how)


def _abstract_job(make: Callable[[], Job]) -> Job:
    """The job, its method without memory."""
    held: list[Job] = []

    def make_method() -> Any:
        held.append(make())
        return held[0].method

    forget_lms()
    method = nnx.eval_shape(make_method)
    forget_lms()
    object.__setattr__(held[0], "method", method)  # `dataclasses.replace` would let gin make the method anew, of arrays
    return held[0]


def _shapes(job: Job) -> Shapes:
    framed = gin.get_bindings("lm_tokenizer").get("template") is not None
    buckets = all_buckets(job.data.task_feature_lengths, job.data.buckets, lm_tokenizer().frame_length if framed else 0)
    rows = gin_config.bound_to("evaluate").get("batch_size", _EVAL_ROWS)
    return Shapes(job.data.batch_size, {name: max(sizes) for name, sizes in buckets.items()}, rows, job.data.pack)


def _smallest(topology: str, make_job: Callable[[], Job], optimizer: optax.GradientTransformation) -> tuple[Job, Plan]:
    """The first of a generation's slices, and of its meshes the one that splits parameters least, that holds all."""
    name, reasons = topology.partition(":")[0], []
    given = gin_config.bound_to("make_mesh").get("model")
    for slice_name in chips.generation(name).slices:
        count = chips.chips(f"{name}:{slice_name}")
        for model in [given] if given else [2**power for power in range(count.bit_length())]:
            with gin.unlock_config():
                gin.bind_parameter("make_mesh.model", model)
            try:
                job, found = _planned(f"{name}:{slice_name}", make_job, optimizer)
            except UserError as error:  # this mesh does not divide something; a larger one may
                reasons.append(str(error))
                continue
            if found.fits:
                return job, found
            reasons.append(f"{name}:{slice_name}, make_mesh.model = {model}: {found.peak_bytes / 2**30:.1f} GiB a chip")
    raise UserError(f"--topology={topology} --smallest: no slice of {name} holds the run; the last try: {reasons[-1]}")


def _as_json(found: Plan, train_steps: int) -> dict[str, Any]:
    figures = {name: getattr(found, name) for name in ("fits", "peak_bytes", "seconds", "share_of_peak")}
    figures |= {"compute_share": found.compute_share, **plan_page.over_the_run(found, train_steps)}
    told = dataclasses.asdict(found)
    steps = {
        name: step | {"collectives": {kind: sent._asdict() for kind, sent in found.steps[name].collectives.items()}}
        for name, step in told["steps"].items()
    }
    versions = {"jax": jax.__version__, "libtpu": importlib.metadata.version("libtpu")}
    return {**told, "shapes": found.shapes._asdict(), "steps": steps, **figures, "versions": versions}
