"""What the first pass of a frozen LM makes of every training example, computed once and mapped into memory from disk.

    folder/made.json     what the states are of: the LM, its dtype, and all tokens
          /states.bin    [positions, D] of all examples, end to end, in the dtype in which the LM computes
          /done          how many examples are there, in the order of their lengths: a kill goes on behind them

Nothing trained stands before the first pass, so it makes the same of an example at every step. Without it a training
step has one forward of the LM in place of two, beside the backward of the second: 1.5 times as fast at most.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jaxtyping import Float

from frozen_jax import cloud_storage, freezing, processes, progress
from frozen_jax.batching import FEATURES, SEGMENTS, Batches
from frozen_jax.errors import UserError
from frozen_jax.methods.base import Method
from frozen_jax.methods.neural_recursion import NeuralRecursion
from frozen_jax.types import Batch, FirstPass

Rows = Sequence[tuple[int, int]]  # task and example, as `Batches.rows` gives them
FORMAT = 1


class KeptStates:
    """The states of all training examples; `put_into` puts those of a batch into it."""

    def __init__(self, method: NeuralRecursion, batches: Batches, folder: str) -> None:
        """Looks where the states are, or will be.

        Args:
            method: around the LM.
            batches: the training batches.
            folder: a local one, of these states alone.

        Raises:
            UserError: if other states lie there, or the disk has no room for these.
        """
        self._method, self._batches, self._folder = method, batches, epath.Path(folder)
        config = method.lm.config
        self._dtype, self._width = jnp.dtype(config.dtype), config.emb_dim
        self._front = 0 if method.lm.first_token is None else 1
        self._inputs = [task.features["inputs"].lengths + self._front for task in batches.tasks]
        self._targets = [task.features["targets"].lengths - method.lm.reads_on for task in batches.tasks]
        counts = np.concatenate([a + b for a, b in zip(self._inputs, self._targets, strict=True)])
        self._first = np.cumsum([0, *map(len, self._inputs)])
        self._offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self._made = {
            "LM": f"{method.lm.name} ({method.lm.fingerprint[:12]})",
            "dtype": str(self._dtype),
            "width": self._width,
            "positions": int(self._offsets[-1]),
            "tokens": _digest(batches),
            "format": FORMAT,
        }
        self._check()

    def fill(self) -> None:
        """Computes the states that are not there yet, with a progress bar.

        Raises:
            UserError: if the disk is full.
        """
        order, rows, done = np.argsort(np.diff(self._offsets), kind="stable"), self._batches.batch_size, self._done()
        graphdef, state = nnx.split(self._method)
        states = self._mapped("r+")
        with progress.bar(initial=done, total=len(order), desc="first pass", unit="examples") as bar:
            for start in range(done, len(order), rows):
                numbers = order[start : start + rows].tolist()
                batch = self._batches.of([self._place(n) for n in numbers + numbers[:1] * (rows - len(numbers))])
                made = jax.device_get(_run(graphdef, state, batch))
                for row, number in enumerate(numbers):
                    states[self._offsets[number] : self._offsets[number + 1]] = self._taken(made, batch, row, number)
                states.flush()
                cloud_storage.write_whole(self._folder / "done", str(start + len(numbers)))
                bar.update(len(numbers))

    def put_into(self, rows: Rows, batch: Batch) -> Batch:
        """Returns the batch with the states of its rows."""
        states = self._mapped("r")
        numbers = [int(self._first[task]) + example for task, example in rows]
        found = [states[self._offsets[n] : self._offsets[n + 1]] for n in numbers]
        inputs = [int(self._inputs[task][example]) for task, example in rows]
        heads = [part[:count] for part, count in zip(found, inputs, strict=True)]
        tails = [part[count:] for part, count in zip(found, inputs, strict=True)]
        read = self._padded(heads, batch.inputs.shape[1] + self._front)
        written = self._padded(tails, batch.targets.shape[1] - self._method.lm.reads_on)
        if self._method.lm.reads_on:
            return batch._replace(first_pass=FirstPass(None, np.concatenate([read, written], axis=1)))
        return batch._replace(first_pass=FirstPass(read, written))

    def _padded(self, parts: Sequence[Float[np.ndarray, "_ D"]], length: int) -> Float[np.ndarray, "B Q D"]:
        found = np.zeros((len(parts), length, self._width), self._dtype)
        for row, part in enumerate(parts):
            found[row, : len(part)] = part
        return found

    def _taken(self, made: FirstPass, batch: Batch, row: int, number: int) -> Float[np.ndarray, "_ D"]:
        """The states of the real positions of one row: those of its inputs, then those of its targets."""
        task, example = self._place(number)
        inputs, targets = int(self._inputs[task][example]), int(self._targets[task][example])
        decoder = made.decoder[row]
        if made.encoder is not None:
            return np.concatenate([made.encoder[row][:inputs], decoder[:targets]])
        behind = decoder.shape[0] - (batch.targets.shape[1] - 1)
        return np.concatenate([decoder[:inputs], decoder[behind : behind + targets]])

    def _place(self, number: int) -> tuple[int, int]:
        task = int(np.searchsorted(self._first, number, side="right")) - 1
        return task, number - int(self._first[task])

    def _done(self) -> int:
        done = self._folder / "done"
        return int(done.read_text()) if done.exists() else 0

    def _mapped(self, mode: Any) -> np.memmap:
        return np.memmap(self._folder / "states.bin", self._dtype, mode, shape=(int(self._offsets[-1]), self._width))

    def _check(self) -> None:
        made = self._folder / "made.json"
        if made.exists():
            found = json.loads(made.read_text())
            if others := [name for name in self._made if found.get(name) != self._made[name]]:
                name = others[0]
                raise UserError(
                    f"{self._folder} holds the first pass of other examples: its {name} is {found.get(name)}, here it "
                    f"is {self._made[name]}; give another folder as train.first_pass, or delete that one"
                )
            return
        size = int(self._offsets[-1]) * self._width * self._dtype.itemsize
        with cloud_storage.refusals_explained(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / "done").unlink(missing_ok=True)  # of states that are no longer there
        _reserve(self._folder / "states.bin", size)
        cloud_storage.write_whole(made, json.dumps(self._made, indent=1))


def keep(method: Method, mask: freezing.Mask, batches: Batches, folder: str) -> None:
    """Computes the first pass of all training examples, and lets the batches bring it along.

    Args:
        method: neural recursion with nothing trained before its first pass.
        mask: which parameters are trained.
        batches: the training batches.
        folder: see `KeptStates`.

    Raises:
        UserError: for another method, something trained before the first pass, and as `KeptStates`.
    """
    if not isinstance(method, NeuralRecursion):
        raise UserError(f"train.first_pass keeps what neural recursion reads; the method is {type(method).__name__}")
    earlier = [path for path, trained in mask.items() if trained and path.startswith(("lm/", "before/"))]
    if earlier or hasattr(method, "before"):
        what = earlier[0] if earlier else "a method"
        raise UserError(f"{what} stands before the first pass, which changes with it; leave train.first_pass = None")
    if processes.are_several() or "://" in folder:
        raise UserError(f"train.first_pass = {folder!r}: states are kept by one process, in a local folder")
    states = KeptStates(method, batches, folder)
    states.fill()
    batches.beside = states.put_into


@jax.jit(static_argnums=0)
def _run(graphdef: Any, state: Any, batch: Batch) -> FirstPass:
    method = nnx.merge(graphdef, state)
    made = method.lm.run(method.begin(batch))
    return FirstPass(made.encoder and made.encoder.vectors, made.decoder.vectors)


def _digest(batches: Batches) -> str:
    read = [*FEATURES, *(name + SEGMENTS for name in FEATURES)]
    arrays = {
        (number, name, part): getattr(task.features[name], part)
        for number, task in enumerate(batches.tasks)
        for name in read
        if name in task.features
        for part in ("offsets", "tokens")
    }
    return freezing.digest(arrays)[:16]


def _reserve(path: epath.Path, size: int) -> None:
    """Takes the room on disk before anything is computed; a full disk would kill a process that maps the file."""
    free = shutil.disk_usage(path.parent).free
    try:
        if size > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
    except OSError as error:
        path.unlink(missing_ok=True)
        raise UserError(
            f"{path.parent}: the first pass of all examples takes {size / 2**30:.2f} GiB, {free / 2**30:.2f} are free "
            f"({error.strerror}); give a folder on a larger disk as train.first_pass, or train without it"
        ) from error
