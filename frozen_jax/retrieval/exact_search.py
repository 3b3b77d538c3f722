"""Exact search: the vectors with the largest inner products, out of as many as all devices of a mesh hold together.

    vectors [N, D], rows split over all devices
        each device    block by block: scores [B, block] ──▶ its k best so far        never [B, N]
        all of them    k best of each ──all-gather──▶ k best of all

Equal scores come in the order of the vectors' numbers, whatever the mesh. What is read of a file, each process reads
for its own devices. TPUs have an instruction that finds nearly the best in less time (Chern et al. 2022); it is used
where a recall target is given, and `recall_of` says what it found.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int

from frozen_jax.batching import rounded_up
from frozen_jax.retrieval.base import NONE, Hits
from frozen_jax.types import Array

_PART = 65_536  # vectors that are read at a time on their way to a device
_QUESTIONS = 256  # at a time; a device's scores take 256 * 8192 * 4 bytes, 8 MiB
BLOCK = 8192  # vectors whose scores are looked at together

Read = Callable[[int, int], Float[np.ndarray, "rows D"]]  # the vectors from a number on, up to another


class ExactSearch:
    """Vectors on a mesh, to be searched.

    Attributes:
        count: N, how many vectors there are.
        width: D.
    """

    def __init__(
        self, read: Read, count: int, width: int, mesh: Mesh, *, block: int = BLOCK, recall_target: float | None = None
    ) -> None:
        """Reads the vectors to where they are searched.

        Args:
            read: gives those from one number up to another.
            count: N.
            width: D.
            mesh: over all of whose devices they are split.
            block: how many are scored together on a device.
            recall_target: in place of the exact search, how many of the best shall be found, of 1.
        """
        self.count, self.width = count, width
        share = math.ceil(count / mesh.size)
        self._block = min(block, share)
        rows = mesh.size * self._block * math.ceil(share / self._block)
        sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._vectors = jax.make_array_from_callback(
            (rows, width), sharding, lambda index: _rows_of(index or (slice(None),), read, count, (rows, width))
        )
        self._mesh, self._recall_target = mesh, recall_target

    def search(self, queries: Float[np.ndarray, "B D"], count: int) -> Hits:
        """Finds the vectors whose inner products with each query are the largest.

        Args:
            queries: B of them.
            count: k, how many vectors for each.

        Returns:
            Their numbers and scores; `NONE` and minus infinity behind the last where there are fewer than k.
        """
        found = [Hits(np.zeros((0, count), np.int32), np.zeros((0, count), np.float32))]
        for start in range(0, len(queries), _QUESTIONS):
            part = queries[start : start + _QUESTIONS].astype(np.float32)
            filled = np.pad(part, ((0, rounded_up(len(part)) - len(part)), (0, 0)))
            numbers, scores = _search(
                filled, self._vectors, self._mesh, self.count, count, self._block, self._recall_target
            )
            found.append(Hits(np.asarray(numbers)[: len(part)], np.asarray(scores)[: len(part)]))
        return Hits(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))


def recall_of(found: Hits, exact: Hits) -> float:
    """Returns which part of the exact search's hits another search has found, for what `approx_max_k` loses."""
    there = exact.passages != NONE
    hit = (exact.passages[:, :, None] == found.passages[:, None, :]).any(axis=2) & there
    return float(hit.sum() / max(1, there.sum()))


def _rows_of(index: tuple[slice, ...], read: Read, count: int, shape: tuple[int, int]) -> Float[np.ndarray, "rows D"]:
    """A device's rows; those behind the last vector are zeros."""
    start, stop, _ = index[0].indices(shape[0])
    rows = np.zeros((stop - start, shape[1]), np.float32)
    for first in range(start, min(stop, count), _PART):
        last = min(first + _PART, stop, count)
        rows[first - start : last - start] = read(first, last)
    return rows


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5, 6))
def _search(
    queries: Float[Array, "B D"],
    vectors: Float[Array, "N D"],
    mesh: Mesh,
    total: int,
    count: int,
    block: int,
    recall_target: float | None,
) -> tuple[Int[Array, "B k"], Float[Array, "B k"]]:
    axes = mesh.axis_names

    def on_each(queries: Float[Array, "B D"], vectors: Float[Array, "n D"]) -> tuple[Array, Array]:
        first = jax.lax.axis_index(axes) * len(vectors)
        best = _best_of_shard(queries, vectors.reshape(-1, block, vectors.shape[1]), first, total, count, recall_target)
        numbers, scores = (jax.lax.all_gather(array, axes, axis=1, tiled=True) for array in best)
        return _best(numbers, scores, count)

    split, whole = PartitionSpec(axes), PartitionSpec()
    return jax.shard_map(on_each, mesh=mesh, in_specs=(whole, split), out_specs=whole, check_vma=False)(
        queries, vectors
    )


def _best_of_shard(
    queries: Float[Array, "B D"],
    blocks: Float[Array, "blocks rows D"],
    first: Int[Array, ""],
    total: int,
    count: int,
    recall_target: float | None,
) -> tuple[Int[Array, "B k"], Float[Array, "B k"]]:
    """The best of one device: each block's are compared with the best of those before it, which win where equal."""

    def step(best: tuple[Array, Array], block: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        vectors, start = block
        numbers = jnp.broadcast_to(start + jnp.arange(len(vectors), dtype=jnp.int32), (len(queries), len(vectors)))
        scores = jnp.matmul(queries, vectors.T, precision=jax.lax.Precision.HIGHEST)
        scores = jnp.where(numbers < total, scores, -jnp.inf)
        if recall_target is not None:
            scores, places = jax.lax.approx_max_k(scores, min(count, len(vectors)), recall_target=recall_target)
            numbers = jnp.take_along_axis(numbers, places, axis=1)
        numbers, scores = (jnp.concatenate(both, axis=1) for both in zip(best, (numbers, scores), strict=True))
        return _best(numbers, scores, count), None

    shape = (len(queries), count)
    nothing = (jnp.full(shape, NONE, jnp.int32), jnp.full(shape, -jnp.inf, jnp.float32))
    starts = first + jnp.arange(blocks.shape[0], dtype=jnp.int32) * blocks.shape[1]
    return jax.lax.scan(step, nothing, (blocks, starts))[0]


def _best(
    numbers: Int[Array, "B n"], scores: Float[Array, "B n"], count: int
) -> tuple[Int[Array, "B k"], Float[Array, "B k"]]:
    """The best of each row; of equal ones those that stand first, which have the lower numbers."""
    scores, places = jax.lax.top_k(scores, count)
    return jnp.take_along_axis(numbers, places, axis=1), scores
