"""What every run mode starts from: a method around a frozen LM, the task's data, and the run's folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh

from frozen_jax import checkpoints, freezing, gin_config, optimizers, partitioning
from frozen_jax.errors import UserError
from frozen_jax.lm.pretrained.load import load_lm
from frozen_jax.methods.base import Method
from frozen_jax.runs.environment import import_data

gin.external_configurable(load_lm)
__all__ = ["Job", "TaskData", "optimizers"]  # importing this file makes optax's names known to gin


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TaskData:
    """A seqio task or mixture, by name. seqio itself is imported when its examples are asked for.

    Attributes:
        mixture_or_task_name: registered by `module`.
        task_feature_lengths: the most tokens of "inputs" and "targets".
        batch_size: rows of a global training batch.
        seed: of the order of examples.
        module: Python module that registers tasks when it is imported; a collaborator's may stand anywhere.
        use_cached: read the task's seqio cache.
        buckets: feature → lengths that batches are padded to; None is powers of two.
        eval_examples: evaluate on so many examples of each task, chosen by the seed; None is the whole split.
    """

    mixture_or_task_name: str = gin.REQUIRED  # pyright: ignore[reportAssignmentType]
    task_feature_lengths: Mapping[str, int] = gin.REQUIRED  # pyright: ignore[reportAssignmentType]
    batch_size: int = 16
    seed: int = 0
    module: str = "tasks"
    use_cached: bool = False
    buckets: Mapping[str, Sequence[int]] | None = None
    eval_examples: int | None = None

    def train_batches(self) -> Any:
        """Returns the training batches, see `data.train_batches`."""
        data = import_data()
        data.load_task_module(self.module)
        return data.train_batches(
            self.mixture_or_task_name,
            self.task_feature_lengths,
            self.batch_size,
            seed=self.seed,
            use_cached=self.use_cached,
            buckets=self.buckets,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def eval_tasks(self, split: str) -> Any:
        """Returns the examples of a split to evaluate on, see `data.eval_tasks`."""
        data = import_data()
        data.load_task_module(self.module)
        return data.eval_tasks(
            self.mixture_or_task_name,
            self.task_feature_lengths,
            split,
            max_examples=self.eval_examples,
            use_cached=self.use_cached,
            seed=self.seed,
        )


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Job:
    """A method, its data and where its results go.

    Attributes:
        method: around a frozen LM.
        data: what it is trained and evaluated on.
        model_dir: the run's folder, local or gs://.
        mesh: axes ('data', 'model').
        seed: of training.
        rules: freezing rules instead of the method's own.
    """

    method: Method = gin.REQUIRED  # pyright: ignore[reportAssignmentType]
    data: TaskData = gin.REQUIRED  # pyright: ignore[reportAssignmentType]
    model_dir: str = gin.REQUIRED  # pyright: ignore[reportAssignmentType]
    mesh: Mesh = gin.REQUIRED  # pyright: ignore[reportAssignmentType]
    seed: int = 0
    rules: freezing.Rules | None = None

    @property
    def directory(self) -> epath.Path:
        """MODEL_DIR as a path."""
        return epath.Path(self.model_dir)

    def mask(self) -> freezing.Mask:
        """Returns which parameters are trained."""
        return freezing.trainable_mask(self.method, self.method.rules if self.rules is None else self.rules)

    def save_gin_config(self) -> None:
        """Writes MODEL_DIR/config.gin, which makes the same run again."""
        if jax.process_index() == 0:
            self.directory.mkdir(parents=True, exist_ok=True)
            (self.directory / "config.gin").write_text(gin_config.current())

    def check_trains(self, path: epath.PathLike, shapes: Mapping[str, Sequence[int]]) -> None:
        """Raises UserError if the method trains other parameters than the checkpoint at `path` holds."""
        _, trained, _ = freezing.split(self.method, self.mask())
        for name in sorted(trained.keys() | shapes.keys()):
            stored = tuple(shapes[name]) if name in shapes else "absent"
            wanted = trained[name].shape if name in trained else "absent"
            if stored != wanted:
                raise UserError(f"{path}: {name} is {stored} in the checkpoint and {wanted} in the method")

    def trained_method(self, path: epath.PathLike | None = None) -> Method:
        """Returns the method with the trained parameters of a module checkpoint.

        Args:
            path: of the checkpoint; None is MODEL_DIR.

        Raises:
            UserError: if there is none, it belongs to another LM, or it holds other parameters than this method trains.
        """
        path = path or self.directory
        loaded = checkpoints.load_trained(path, self.method)
        self.check_trains(path, {name: array.shape for name, array in loaded.items()})
        graphdef, _, frozen = freezing.split(self.method, self.mask())
        placed = {
            name: jax.device_put(jnp.asarray(array), partitioning.sharding_for(name, array.shape, self.mesh))
            for name, array in loaded.items()
        }
        return freezing.merge(graphdef, placed, frozen)
