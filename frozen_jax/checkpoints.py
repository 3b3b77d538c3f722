"""Module checkpoints: what was trained, and which LM it belongs to; never the LM.

    MODEL_DIR/checkpoints/STEP/     the latest states, to resume from
    MODEL_DIR/best/STEP/            the state with the best validation metric, to use
        state/                      orbax: trained parameters, optimizer state, step (= data position)
        description/metadata        JSON: method and settings, LM name and fingerprint, seed, gin config, shapes, metric

Orbax writes a step into a temporary folder and renames it when it is whole; on `gs://`, which has no folders to rename,
it writes `commit_success.txt` into it last. So a kill or a full disk costs the step that was being saved and no other.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import nnx
from jaxtyping import Shaped

from frozen_jax import cloud_storage
from frozen_jax.errors import UserError

FORMAT = 1
_BEST = "best"
_LATEST = "checkpoints"
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)


def describe(
    method: nnx.Module,
    trained: Mapping[str, Any],
    *,
    seed: int,
    gin_config: str = "",
    encoder_text: str | None = None,
    train_half: int | None = None,
) -> dict[str, Any]:
    """Returns the JSON description that goes into every checkpoint of a run.

    Args:
        method: around a frozen LM.
        trained: path → parameter.
        seed: of the training.
        gin_config: that makes the run again.
        encoder_text: what the method's encoder read in place of every example's inputs.
        train_half: which half of the training examples it saw, see `ordering.half`.
    """
    return {
        "format": FORMAT,
        "method": type(method).__name__,
        "settings": _settings(method),
        "frozen_lms": frozen_lms(method),
        "seed": seed,
        "encoder_text": encoder_text,
        "train_half": train_half,
        "trained": {path: list(array.shape) for path, array in trained.items()},
        "gin_config": gin_config,
    }


def _settings(model: nnx.Module) -> dict[str, Any]:
    """Of a method; a frozen LM has none."""
    return dict(getattr(model, "settings", ()))


def frozen_lms(method: nnx.Module) -> dict[str, dict[str, str]]:
    """Returns path → name and fingerprint of every LM inside a method; of the LM itself, under the path ""."""
    return {
        "/".join(map(str, path)): {key: vars(module)[key] for key in ("name", "fingerprint")}
        for path, module in nnx.iter_modules(method)
        if hasattr(module, "fingerprint")
    }


class Checkpointer:
    """Saves and restores the training states of one run, asynchronously. Used in a `with` statement, or closed.

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

        Raises:
            UserError: if the folder cannot be made, or the best state in it is damaged.
        """
        self.directory = _absolute(directory)
        self._description = dict(description)
        self._best_metric = best_metric
        self._latest = _manager(self.directory / _LATEST, keep)
        self._best = _manager(self.directory / _BEST, keep=1) if best_metric else None
        self._managers = [manager for manager in (self._latest, self._best) if manager is not None]
        self._best_value = self._value_of_best()

    def _value_of_best(self) -> float:
        step = self._best.latest_step() if self._best else None
        if step is None:
            return -math.inf
        measured = read_description(self.directory / _BEST / str(step)).get("measured", {})
        return measured.get(self._best_metric, -math.inf)

    def restore(self, state: Any) -> Any:
        """Returns the latest saved state, placed like `state`, or `state` itself if nothing was saved yet.

        Raises:
            UserError: if the folder holds a run of another method, LM, seed, shape or optimizer, or is damaged.
        """
        step = self._latest.latest_step()
        if step is None:
            return state
        folder = self.directory / _LATEST / str(step)
        _check_same(self.directory, read_description(folder), self._description)
        _check_stored(folder, _shapes(state))
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        with _reading(folder):
            restored = self._latest.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))
        return restored["state"]

    def save(self, step: int, state: Any) -> None:
        """Begins to save the state after `step` steps, and waits for the save before it.

        Raises:
            UserError: if either fails; the states saved earlier stay.
        """
        self._begin(self._latest, step, _args(state, self._description), force=True)

    def _begin(self, manager: ocp.CheckpointManager, step: int, args: Any, force: bool = False) -> bool:
        self.wait()  # processes wait for each other in each: orbax would take the waits of another save for its own
        with _saving(manager.directory):
            return manager.save(step, args=args, force=force)

    def save_best(self, step: int, state: Any, metrics: Mapping[str, float]) -> None:
        """Begins to save the state as the best so far, if it is.

        Raises:
            UserError: if the metrics lack the one to choose by, or as `save`.
        """
        if self._best is None or self._best_metric is None:
            return
        if self._best_metric not in metrics:
            raise UserError(f"best metric {self._best_metric!r} is not among those measured: {sorted(metrics)}")
        value = float(metrics[self._best_metric])
        measured = {**self._description, "measured": {self._best_metric: value}}
        # Not if it is no number, and not where a killed run has saved this step already.
        if value > self._best_value and self._begin(self._best, step, _args(state, measured)):
            self._best_value = value

    def wait(self) -> None:
        """Returns when everything begun has been saved.

        Raises:
            UserError: if it could not be.
        """
        for manager in self._managers:
            with _saving(manager.directory):
                manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends orbax's threads.

        Raises:
            UserError: as `wait`.
        """
        with contextlib.ExitStack() as stack:  # the second is closed even if the first cannot be
            for manager in self._managers:
                stack.enter_context(_saving(manager.directory))
                stack.callback(manager.close)

    def __enter__(self) -> Checkpointer:
        """Returns itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Closes; an error that is already on its way is not hidden by another."""
        with contextlib.suppress(UserError) if kind else contextlib.nullcontext():
            self.close()


def _manager(directory: epath.Path, keep: int) -> ocp.CheckpointManager:
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs a page a save; its errors are raised as well
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
    with _saving(directory):
        return ocp.CheckpointManager(directory, options=options)


def _args(state: Any, description: Mapping[str, Any]) -> ocp.args.Composite:
    return ocp.args.Composite(state=ocp.args.StandardSave(state), description=ocp.args.JsonSave(description))


@contextlib.contextmanager
def _saving(directory: epath.Path) -> Iterator[None]:
    """Turns what a full disk or a bucket raises into one line."""
    try:
        with cloud_storage.refusals_explained(directory):
            yield
    except (OSError, ValueError) as error:
        raise UserError(f"cannot save to {directory}: {_reason(error)}; what was saved before is untouched") from error


@contextlib.contextmanager
def _reading(folder: epath.Path) -> Iterator[None]:
    """Turns what a damaged file raises into one line. What may not be read is not damaged."""
    try:
        with cloud_storage.refusals_explained(folder):
            yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        advice = "delete it to use the one before it"
        raise UserError(f"checkpoint {folder} is damaged or incomplete: {_reason(error)}; {advice}") from error


def _reason(error: Exception) -> str:
    """What the system says, if it is found in what TensorStore makes of it, else the beginning of that."""
    text = " ".join(str(error).split())
    return next((os.strerror(code) for code in _DISK_ERRORS if os.strerror(code) in text), text[:200])


def _are_shapes(found: Any) -> bool:
    return isinstance(found, dict) and all(
        isinstance(shape, list) and all(isinstance(size, int) and size >= 0 for size in shape)
        for shape in found.values()
    )


def _are_lms(found: Any) -> bool:
    return isinstance(found, dict) and all(
        isinstance(lm, dict) and all(isinstance(lm.get(key), str) for key in ("name", "fingerprint"))
        for lm in found.values()
    )


_DESCRIBED: dict[str, Callable[[Any], bool]] = {
    "method": lambda found: isinstance(found, str),
    "settings": lambda found: isinstance(found, dict),
    "seed": lambda found: isinstance(found, int),
    "encoder_text": lambda found: isinstance(found, str | None),
    "train_half": lambda found: found in (None, 0, 1),
    "frozen_lms": lambda found: _are_lms(found) and bool(found),
    "trained": _are_shapes,
}
_DEFAULTS = {"settings": {}, "encoder_text": None, "train_half": None}  # of descriptions from before there were such


def read_description(checkpoint: epath.PathLike) -> dict[str, Any]:
    """Returns the JSON description of one saved step.

    Raises:
        UserError: if the folder holds none.
    """
    folder = epath.Path(checkpoint)
    with _reading(folder):
        found = _DEFAULTS | json.loads((folder / "description" / "metadata").read_text())
        if found["format"] != FORMAT:
            raise ValueError(f"its description has format {found['format']}; this version reads {FORMAT}")
        for key, fits in _DESCRIBED.items():
            if not fits(found[key]):
                raise ValueError(f"its description says {key} is {found[key]!r}")
    return found


def _absolute(path: epath.PathLike) -> epath.Path:
    """The same place, from the root: orbax takes no relative paths. Buckets have no others."""
    return cloud_storage.open_path(path) if "://" in os.fspath(path) else epath.Path(path).expanduser().resolve()


def find(path: epath.PathLike) -> epath.Path:
    """Returns the saved step that a path means: itself, or of a run's folder the best, else the latest.

    Raises:
        UserError: if there is none.
    """
    root = _absolute(path)
    if (root / "state").exists():
        return root
    for folder in (root / _BEST, root / _LATEST, root):
        steps = [p for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
        if whole := [step for step in steps if ocp.utils.is_checkpoint_finalized(step)]:
            return max(whole, key=lambda p: int(p.name))
    raise UserError(
        f"{path}: no module checkpoint there; give a run's MODEL_DIR or one of its checkpoints/STEP folders"
    )


def find_beside(path: epath.PathLike, model: nnx.Module) -> tuple[epath.Path, dict[str, Any]]:
    """Returns the saved step that a path means and its description, if it was trained beside the LM in `model`.

    Raises:
        UserError: if there is no checkpoint, its description is damaged, or it belongs to another LM or to a method of
            other settings.
    """
    step = find(path)
    description = read_description(step)
    _check_settings(step, description["settings"], _settings(model))
    _check_lms(step, description["frozen_lms"], frozen_lms(model))
    return step, description


def load_trained(path: epath.PathLike, model: nnx.Module) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Reads the trained parameters of a module checkpoint, if it was trained beside the LM that `model` holds.

    Args:
        path: a run's folder, or one saved step.
        model: the frozen LM, or a method around it.

    Returns:
        path → array, on the host.

    Raises:
        UserError: if there is no checkpoint, it is damaged, or it belongs to another LM or a method of other settings.
    """
    step, description = find_beside(path, model)
    with _reading(step):
        trained = {name: jax.ShapeDtypeStruct(tuple(s), np.float32) for name, s in description["trained"].items()}
        _check_stored(step, _shapes({"trained": trained}))
        _check_room(step, trained)
        restored = ocp.PyTreeCheckpointer().restore(
            step / "state",
            args=ocp.args.PyTreeRestore(
                item={"trained": trained},
                restore_args={"trained": {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in trained}},
                partial_restore=True,
            ),
        )
    return restored["trained"]


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in flat}


def _check_stored(step: epath.Path, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Compares shapes before memory is taken; what is not wanted may be there as well."""
    with _reading(step):
        stored = _shapes(ocp.PyTreeCheckpointHandler().metadata(step / "state").tree)
    for name, shape in wanted.items():
        if stored.get(name) != shape:
            raise UserError(f"{step}: {name} is {stored.get(name, 'absent')} in the checkpoint; wanted is {shape}")


def _check_room(step: epath.Path, trained: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    claimed = 4 * sum(math.prod(leaf.shape) for leaf in trained.values())
    stored = _bytes_in(step / "state")
    if claimed > 1000 * max(stored, 1):  # compressed constants shrink, but not a thousandfold
        raise ValueError(f"it claims {claimed} bytes of parameters in {stored} bytes of files")


def _bytes_in(path: epath.Path) -> int:
    return sum(map(_bytes_in, path.iterdir())) if path.is_dir() else path.stat().length


def _check_same(directory: epath.Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    _check_lms(directory, found["frozen_lms"], wanted["frozen_lms"])
    _check_settings(directory, found["settings"], wanted["settings"])
    differences = [(key, found[key], wanted[key]) for key in ("method", "seed", "encoder_text", "train_half")]
    shapes = [{name: tuple(shape) for name, shape in described["trained"].items()} for described in (found, wanted)]
    names = sorted(shapes[0].keys() | shapes[1].keys())
    differences += [(name, *(tree.get(name, "absent") for tree in shapes)) for name in names]
    for what, was, now in differences:
        if was != now:
            raise UserError(f"{directory}: holds a run with {what} {was}, not {now}; use another MODEL_DIR")


def _check_settings(path: epath.Path, found: Mapping[str, Any], held: Mapping[str, Any]) -> None:
    for name in sorted(found.keys() & held.keys()):
        if found[name] != held[name]:
            raise UserError(f"{path}: holds a module with {name} = {found[name]!r}; the method has {held[name]!r}")


def _check_lms(path: epath.Path, found: Mapping[str, Any], held: Mapping[str, Any]) -> None:
    """A module fits any model that holds the LMs it was trained beside, under whatever paths."""
    prints = {lm["fingerprint"] for lm in held.values()}
    for lm in found.values():
        if lm["fingerprint"] not in prints:
            names = " and ".join(f"{other['name']!r} ({other['fingerprint'][:12]})" for other in held.values())
            was = f"{lm['name']!r} ({lm['fingerprint'][:12]})"
            raise UserError(f"{path}: trained beside the LM {was}, not beside {names}; load that LM")
