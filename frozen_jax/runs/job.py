"""What every run mode starts from: a method around a frozen LM, the task's data, and the run's folder."""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import jax
from etils import epath
from flax import nnx
from jax.sharding import Mesh

from frozen_jax import checkpoints, cloud_storage, freezing, gin_config, optimizers, partitioning
from frozen_jax.errors import UserError
from frozen_jax.evaluation import Kept
from frozen_jax.lm.base import LanguageModel
from frozen_jax.lm.pretrained.load import load_lm
from frozen_jax.methods.base import Method
from frozen_jax.runs.task_data import TaskData

_held: weakref.WeakValueDictionary[Any, LanguageModel] = weakref.WeakValueDictionary()


@functools.wraps(load_lm)
def _held_or_loaded(*args: Any, **settings: Any) -> LanguageModel:
    """What gin calls `load_lm`: asked for the same again, the LM that is there already, for as long as it is held.

    So however many methods a run has, one trained inside another's preparation too, there is one copy of the weights.
    """
    asked = (settings.get("mesh"), repr((args, sorted(settings.items()))))
    if (found := _held.get(asked)) is None:
        _held[asked] = found = load_lm(*args, **settings)
    return found


def forget_lms() -> None:
    """Lets no LM be found again: those of a plan are shapes, and good within it alone."""
    _held.clear()


gin.external_configurable(_held_or_loaded, name="load_lm")
__all__ = ["Job", "optimizers"]  # importing this file makes optax's names known to gin


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

    def __post_init__(self) -> None:
        """Looks at the run's folder and data at once, before anything is read or trained; not where it is planned.

        Raises:
            UserError: see `cloud_storage.open_path`, `TaskData.check_encoder_tokenizer` and `TaskData.check_fits`.
        """
        prepare = self.method.prepare if self.method.prepares else None
        share = partitioning.row_share(self.mesh) if partitioning.is_here(self.mesh) else (0, 1)
        # The data knows neither method nor mesh.
        object.__setattr__(self, "data", dataclasses.replace(self.data, prepare=prepare, row_share=share))
        if not partitioning.is_here(self.mesh):
            return
        cloud_storage.open_path(self.model_dir)
        self.data.check_encoder_tokenizer()
        self.data.check_fits(self.method)

    @property
    def directory(self) -> epath.Path:
        """MODEL_DIR as a path."""
        return cloud_storage.open_path(self.model_dir)

    def mask(self) -> freezing.Mask:
        """Returns which parameters are trained."""
        return freezing.trainable_mask(self.method, self.method.rules if self.rules is None else self.rules)

    def save_gin_config(self) -> None:
        """Writes MODEL_DIR/config.gin, which makes the same run again."""
        with cloud_storage.refusals_explained(self.directory):
            cloud_storage.write_whole(self.directory / "config.gin", gin_config.current())

    def check_trains(self, path: epath.PathLike, shapes: Mapping[str, Sequence[int]]) -> None:
        """Raises UserError if the method trains other parameters than the checkpoint at `path` holds."""
        _, trained, _ = freezing.split(self.method, self.mask())
        for name in sorted(trained.keys() | shapes.keys()):
            stored = tuple(shapes[name]) if name in shapes else "absent"
            wanted = trained[name].shape if name in trained else "absent"
            if stored != wanted:
                raise UserError(f"{path}: {name} is {stored} in the checkpoint and {wanted} in the method")

    def kept(self, model: LanguageModel) -> Kept:
        """Returns where the answers of a model lie while a split is worked on: under what it is, to the last bit."""
        dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(nnx.state(model))})
        ends = {"eos_id": model.eos_id, "stop_ids": list(model.stop_ids)}
        made: dict[str, Any] = {"lms": checkpoints.frozen_lms(model), "dtypes": dtypes, **ends}
        if isinstance(model, Method):
            _, trained, _ = freezing.split(model, self.mask())
            what = {"method": type(model).__name__, "settings": list(model.settings)}
            made |= {**what, "trained": freezing.digest(trained)}
        return Kept(self.directory / "answers", made)

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
        return freezing.merge(graphdef, partitioning.place(loaded, self.mesh), frozen)
