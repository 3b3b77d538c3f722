"""Module checkpoints: what was trained, and which LM it belongs to; never the LM.

    MODEL_DIR/checkpoints/STEP/     the latest states, to resume from
    MODEL_DIR/best/STEP/            the state with the best validation metric, to use
        state/                      orbax: trained parameters, optimizer state, step (= data position)
        description/metadata        JSON: method, LM name and fingerprint, seed, gin config, parameter shapes

Orbax writes a step into a temporary folder and renames it when it is whole, so a kill or a full disk costs the step
that was being saved and no other.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import nnx
from jaxtyping import Shaped

from frozen_jax.errors import UserError

FORMAT = 1
_BEST = "best"
_LATEST = "checkpoints"


def describe(method: nnx.Module, trained: Mapping[str, Any], *, seed: int, gin_config: str = "") -> dict[str, Any]:
    """Returns the JSON description that goes into every checkpoint of a run."""
    return {
        "format": FORMAT,
        "method": type(method).__name__,
        "frozen_lms": frozen_lms(method),
        "seed": seed,
        "trained": {path: list(array.shape) for path, array in trained.items()},
        "gin_config": gin_config,
    }


def frozen_lms(method: nnx.Module) -> dict[str, dict[str, str]]:
    """Returns path → name and fingerprint of every LM inside a method; of the LM itself, under the path ""."""
    return {
        "/".join(map(str, path)): {key: vars(module)[key] for key in ("name", "fingerprint")}
        for path, module in nnx.iter_modules(method)
        if hasattr(module, "fingerprint")
    }


class Checkpointer:
    """Saves and restores the training states of one run, asynchronously.

    Attributes:
        directory: the run's folder.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        description: Mapping[str, Any],
        *,
        best_metric: str | None = None,
        keep: int = 2,
    ) -> None:
        """Opens the run's folder, or makes it.

        Args:
            directory: MODEL_DIR, local or gs://.
            description: as `describe` returns it.
            best_metric: the evaluation metric whose highest value is kept beside the latest; None keeps none.
            keep: how many of the latest states to keep.
        """
        self.directory = epath.Path(directory)
        self._description = dict(description)
        self._best_metric = best_metric
        self._latest = _manager(self.directory / _LATEST, ocp.CheckpointManagerOptions(max_to_keep=keep))
        best = ocp.CheckpointManagerOptions(max_to_keep=1, best_fn=lambda m: m[best_metric], best_mode="max")
        self._best = _manager(self.directory / _BEST, best) if best_metric else None

    def restore(self, state: Any) -> Any:
        """Returns the latest saved state, placed like `state`, or `state` itself if nothing was saved yet.

        Raises:
            UserError: if the folder holds a run of another method, LM, seed or shape.
        """
        step = self._latest.latest_step()
        if step is None:
            return state
        found = read_description(self.directory / _LATEST / str(step))
        _check_same(self.directory, found, self._description)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        with _errors_named(self.directory / _LATEST / str(step)):
            return self._latest.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))[
                "state"
            ]

    def save(self, step: int, state: Any) -> None:
        """Begins to save the state after `step` steps."""
        with _errors_named(self.directory / _LATEST):
            self._latest.save(step, args=self._args(state), force=True)

    def save_best(self, step: int, state: Any, metrics: Mapping[str, float]) -> None:
        """Saves the state as the best so far, if it is.

        Raises:
            UserError: if the metrics lack the one to choose by.
        """
        if self._best is None or self._best_metric is None:
            return
        if self._best_metric not in metrics:
            raise UserError(f"best metric {self._best_metric!r} is not among those measured: {sorted(metrics)}")
        with _errors_named(self.directory / _BEST):
            self._best.save(
                step, args=self._args(state), metrics={self._best_metric: float(metrics[self._best_metric])}
            )

    def _args(self, state: Any) -> ocp.args.Composite:
        return ocp.args.Composite(state=ocp.args.StandardSave(state), description=ocp.args.JsonSave(self._description))

    def wait(self) -> None:
        """Returns when everything begun has been saved."""
        with _errors_named(self.directory):
            self._latest.wait_until_finished()
            if self._best:
                self._best.wait_until_finished()


def _manager(directory: epath.Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs a page a save
    with _errors_named(directory):
        return ocp.CheckpointManager(directory, options=options)


@contextlib.contextmanager
def _errors_named(directory: epath.Path) -> Iterator[None]:
    """Turns what a full disk or a damaged file raises into one line."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0][:300]
        raise UserError(
            f"checkpoint {directory}: {type(error).__name__}: {reason}; earlier ones are untouched"
        ) from error


def read_description(checkpoint: epath.PathLike) -> dict[str, Any]:
    """Reads the JSON description of one saved step.

    Raises:
        UserError: if the folder holds none.
    """
    with _errors_named(epath.Path(checkpoint)):
        restored = ocp.CheckpointManager(epath.Path(checkpoint).parent).restore(
            int(epath.Path(checkpoint).name), args=ocp.args.Composite(description=ocp.args.JsonRestore())
        )
    return restored["description"]


def find(path: epath.PathLike) -> epath.Path:
    """Returns the saved step that a path means: itself, or of a run's folder the best, else the latest.

    Raises:
        UserError: if there is none.
    """
    root = epath.Path(path)
    if (root / "state").exists():
        return root
    for folder in (root / _BEST, root / _LATEST, root):
        steps = [p for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
        if steps:
            return max(steps, key=lambda p: int(p.name))
    raise UserError(
        f"{path}: no module checkpoint there; give a run's MODEL_DIR or one of its checkpoints/STEP folders"
    )


def load_trained(path: epath.PathLike, model: nnx.Module) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Reads the trained parameters of a module checkpoint, if it was trained beside the LM that `model` holds.

    Args:
        path: a run's folder, or one saved step.
        model: the frozen LM, or a method around it.

    Returns:
        path → array, on the host.

    Raises:
        UserError: if there is no checkpoint, it is damaged, or it belongs to another LM.
    """
    step = find(path)
    description = read_description(step)
    _check_lms(step, description["frozen_lms"], frozen_lms(model))
    _check_room(step, description["trained"])
    trained = {name: jax.ShapeDtypeStruct(tuple(s), np.float32) for name, s in description["trained"].items()}
    with _errors_named(step):
        restored = ocp.PyTreeCheckpointer().restore(
            step / "state",
            args=ocp.args.PyTreeRestore(
                item={"trained": trained},
                restore_args={"trained": {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in trained}},
                partial_restore=True,
            ),
        )
    arrays = restored["trained"]
    for name, array in arrays.items():
        if array.shape != trained[name].shape:
            raise UserError(f"{step}: {name} is {array.shape}; its description says {trained[name].shape}")
    return arrays


def _check_room(step: epath.Path, shapes: Mapping[str, Any]) -> None:
    claimed = 4 * sum(math.prod(shape) for shape in shapes.values())
    stored = _bytes_in(step / "state")
    if claimed > 1000 * max(stored, 1):  # compressed constants shrink, but not a thousandfold
        raise UserError(f"{step}: claims {claimed} bytes of parameters in {stored} bytes of files; it is damaged")


def _bytes_in(path: epath.Path) -> int:
    return sum(map(_bytes_in, path.iterdir())) if path.is_dir() else path.stat().length


def _check_same(directory: epath.Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    _check_lms(directory, found["frozen_lms"], wanted["frozen_lms"])
    for key, what in (("method", "method"), ("seed", "seed"), ("trained", "trained parameters")):
        if found[key] != wanted[key]:
            raise UserError(
                f"{directory}: holds a run with {what} {found[key]}, not {wanted[key]}; use another MODEL_DIR"
            )


def _check_lms(path: epath.Path, found: Mapping[str, Any], held: Mapping[str, Any]) -> None:
    """A module fits any model that holds the LMs it was trained beside, under whatever paths."""
    prints = {lm["fingerprint"] for lm in held.values()}
    for lm in found.values():
        if lm["fingerprint"] not in prints:
            names = " and ".join(f"{other['name']!r} ({other['fingerprint'][:12]})" for other in held.values())
            raise UserError(
                f"{path}: trained beside the LM {lm['name']!r} ({lm['fingerprint'][:12]}), not beside {names}; "
                "load that LM"
            )
