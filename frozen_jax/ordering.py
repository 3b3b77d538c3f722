"""The order of training examples, as a pure function of a seed and a position.

    global position ──▶ task, draws of it before ──▶ epoch and place in it ──▶ example
                        (mixing rates)               (a permutation each epoch)

So a run resumes at any position without reading its way there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Int, UInt

Option = TypeVar("Option")
BLOCK = 8192  # positions for which a mixture's tasks are drawn at once


def random_bits(count: int, *key: str | int) -> UInt[np.ndarray, " count"]:
    """Random 64-bit integers that depend on the key alone.

    The raw output of a bit generator is the one stream that numpy promises never to change; its `permutation` and
    `choice` may differ from one release to the next, and with them the order of a run that is resumed.

    Args:
        count: how many.
        *key: what they depend on.

    Returns:
        The integers.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(count)


def permutation(count: int, *key: str | int) -> Int[np.ndarray, " count"]:
    """A permutation that depends on the key alone.

    Args:
        count: of the numbers 0 .. count - 1.
        *key: what it depends on.

    Returns:
        The numbers in their order.
    """
    return np.argsort(random_bits(count, *key), kind="stable")


def sample(count: int, most: int | None, seed: int, name: str) -> list[int]:
    """Which examples of a split are evaluated.

    Args:
        count: how many there are.
        most: no more than so many; None is all.
        seed: of the run.
        name: of the task.

    Returns:
        Their numbers, in ascending order; a smaller sample lies within a larger one.
    """
    return np.sort(permutation(count, seed, name, "evaluation")[:most]).tolist()


def choice(options: Sequence[Option], *key: str | int) -> Option:
    """One of several, which depends on the key alone.

    Args:
        options: at least one.
        *key: what it depends on.

    Returns:
        One of them.
    """
    return options[int(random_bits(1, *key)[0] % np.uint64(len(options)))]


def half(text: str) -> int:
    """Which half of the training examples one is in, for what is trained on one half and used on the other.

    Args:
        text: its inputs. Nothing else decides, so that no example is in both, whatever the seed and the sample; nor do
            upper case and spaces.

    Returns:
        0 or 1.
    """
    return choice((0, 1), "half", " ".join(text.lower().split()))


class EpochOrder:
    """The order of one task's examples: every epoch holds each of them once, in an order of its own."""

    def __init__(self, name: str, size: int, seed: int) -> None:
        """Holds what the order depends on.

        Args:
            name: of the task.
            size: how many examples it has.
            seed: of the run.
        """
        self._name, self._size, self._seed = name, size, seed
        self._latest: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def examples(self, draws: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The examples of draws from this task.

        Args:
            draws: how many examples of this task were drawn before each.

        Returns:
            The examples' numbers.
        """
        epochs, places = np.divmod(draws, self._size)
        found = np.empty_like(draws)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            found[chosen] = self._epoch(int(epoch))[places[chosen]]
        return found

    def _epoch(self, epoch: int) -> Int[np.ndarray, " size"]:
        if self._latest[0] != epoch:
            self._latest = (epoch, permutation(self._size, self._seed, self._name, epoch))
        return self._latest[1]


class MixtureOrder:
    """Which task each global position is drawn from, and how many of that task were drawn before.

    Tasks are drawn independently at their rates, in blocks of `BLOCK` positions with random bits of their own. What
    came before a block is counted from the first on: 0.2 ms a block, once when a run resumes.
    """

    def __init__(self, rates: Sequence[float], seed: int) -> None:
        """Holds what the draws depend on.

        Args:
            rates: of the tasks, relative to each other.
            seed: of the run.
        """
        self._seed = seed
        shares = np.cumsum(np.asarray(rates, np.float64)) / np.sum(rates)
        self._bounds = np.floor(shares[:-1] * 2.0**63).astype(np.uint64)  # 63 bits, so that a share of 1 still fits
        self._before: list[np.ndarray] = [np.zeros(len(rates), np.int64)]  # draws of each task before each block

    def draws(self, start: int, count: int) -> tuple[Int[np.ndarray, " count"], Int[np.ndarray, " count"]]:
        """The draws of consecutive global positions.

        Args:
            start: the first position.
            count: how many.

        Returns:
            The task of each position, and how many examples of that task were drawn before it.
        """
        if not len(self._bounds):
            return np.zeros(count, np.int64), start + np.arange(count)
        first, last = start // BLOCK, (start + count - 1) // BLOCK
        tasks, draws = zip(*(self._block(block) for block in range(first, last + 1)), strict=True)
        chosen = slice(start - first * BLOCK, start - first * BLOCK + count)
        return np.concatenate(tasks)[chosen], np.concatenate(draws)[chosen]

    def _block(self, block: int) -> tuple[Int[np.ndarray, " block"], Int[np.ndarray, " block"]]:
        while len(self._before) <= block:
            counts = np.bincount(self._tasks(len(self._before) - 1), minlength=len(self._before[0]))
            self._before.append(self._before[-1] + counts)
        tasks = self._tasks(block)
        draws = np.empty(BLOCK, np.int64)
        for task, before in enumerate(self._before[block]):
            chosen = tasks == task
            draws[chosen] = before + np.arange(np.count_nonzero(chosen))
        return tasks, draws

    def _tasks(self, block: int) -> Int[np.ndarray, " block"]:
        return np.searchsorted(self._bounds, random_bits(BLOCK, self._seed, "mixture", block) >> np.uint64(1), "right")
