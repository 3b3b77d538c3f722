"""Tokens in memory, and the order in which training sees them: global batch k is a pure function of (seed, k).

    split's tokens ──▶ order of examples ──▶ window of batches ──▶ batch k ──▶ length bucket ──▶ this process's rows
    (one array)        (seed, position)      (grouped by length)               (all rows)        (padded)

Every process knows all rows of a batch by number and length, and materialises only its own. So the data position of a
run is one integer, the next k, whatever the number of processes; going on at k costs nothing. Nothing here knows seqio.

Length grouping: the examples of `length_window` batches are drawn as without it; then each task's examples are dealt
out in the order of their lengths, to the batches in a random order. A batch holds as many examples of each task as
before, only of like length, so it is padded less, and no epoch or mixing rate changes.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from frozen_jax.errors import UserError
from frozen_jax.ordering import EpochOrder, MixtureOrder, permutation
from frozen_jax.types import Batch, EncoderInputs, Negatives, Segments

Tokens = Int[np.ndarray, "_"]  # of one text; of any length, also beside others
FEATURES = ("inputs", "targets")
ENCODER_INPUTS = "encoder_inputs"  # the inputs again, where an encoder has a vocabulary of its own
NEGATIVES = "negatives"  # a passage that does not answer the inputs, for a retriever to learn from
OPTIONAL_FEATURES = {ENCODER_INPUTS: EncoderInputs, NEGATIVES: Negatives}  # made where they have a length
SEGMENTS = "_segments"  # of the feature before it: which example of a packed row a token belongs to, from 1 on
SMALLEST_BUCKET = 16
LENGTH_WINDOW = 32  # batches; of the FLOPs on IMDB at 512 tokens 8 save 0.31, 32 save 0.34, 128 save 0.35


@dataclasses.dataclass(frozen=True)
class Ragged:
    """Token sequences of different lengths, end to end in one array.

    Attributes:
        tokens: all tokens.
        offsets: sequence i is tokens[offsets[i] : offsets[i + 1]].
    """

    tokens: Int[np.ndarray, " total"]
    offsets: Int[np.ndarray, " bounds"]

    @classmethod
    def from_sequences(cls, sequences: Iterable[Tokens]) -> Ragged:
        """Lays sequences end to end.

        Args:
            sequences: of token ids.

        Returns:
            All of them.
        """
        rows = [np.asarray(row, np.int32) for row in sequences]
        offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        return cls(np.concatenate([np.zeros(0, np.int32), *rows]), offsets)

    def __len__(self) -> int:
        """How many sequences there are."""
        return len(self.offsets) - 1

    def __getitem__(self, index: int | np.integer) -> Tokens:
        """Sequence `index`, not copied."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    @functools.cached_property  # asked for once a window of batches, of all sequences
    def lengths(self) -> Int[np.ndarray, " N"]:
        """The length of each sequence."""
        return np.diff(self.offsets)


@dataclasses.dataclass(frozen=True)
class TaskTokens:
    """One split of one task, as tokens.

    Attributes:
        name: of the task; keys the order of its examples.
        features: `inputs` and `targets`, with as many sequences, and those of `OPTIONAL_FEATURES` that were asked for;
            where several examples share a row, also `inputs_segments` and `targets_segments`.
        rate: how often a row is drawn from this task, relative to the others of a mixture.
    """

    name: str
    features: Mapping[str, Ragged]
    rate: float = 1.0

    def __len__(self) -> int:
        """How many rows there are: examples, unless several share one."""
        return len(self.features["inputs"])

    @property
    def packed(self) -> bool:
        """Whether several examples share a row."""
        return FEATURES[0] + SEGMENTS in self.features


def default_buckets(length: int, *, between: bool = False) -> tuple[int, ...]:
    """Powers of two from 16 up, and the feature's own length; each is one program to compile.

    Args:
        length: the most tokens that the feature has.
        between: also 24, 48, 96, ...: worth their programs where thousands of batches are grouped by length.

    Returns:
        The lengths to which batches are padded.
    """
    powers = [SMALLEST_BUCKET << i for i in range(length.bit_length())]
    steps = [step for power in powers for step in ((power, power * 3 // 2) if between else (power,))]
    return (*(step for step in steps if step < length), length)


def features_of(lengths: Mapping[str, Any]) -> list[str]:
    """The features that a run asks for.

    Args:
        lengths: TASK_FEATURE_LENGTHS, or anything else by feature.

    Returns:
        `FEATURES`, and those of `OPTIONAL_FEATURES` that have a length.
    """
    return [*FEATURES, *(name for name in OPTIONAL_FEATURES if name in lengths)]


def rounded_up(length: int) -> int:
    """The smallest of 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, ... that holds a length, so that many tasks share few shapes.

    Args:
        length: of anything, 1 or more.

    Returns:
        At most half as much again.
    """
    power = 1 << (length - 1).bit_length()
    return power * 3 // 4 if power > 2 and length <= power * 3 // 4 else power


def all_buckets(
    lengths: Mapping[str, int], given: Mapping[str, Sequence[int]] | None = None, frame_length: int = 0
) -> dict[str, Sequence[int]]:
    """The buckets of every feature, for training.

    Args:
        lengths: TASK_FEATURE_LENGTHS.
        given: those of some features; None of none.
        frame_length: tokens that stand around the inputs, which neither of these counts.

    Returns:
        The given ones, and the default ones of the other features; those of the inputs hold the frame as well.
    """
    # None between of the others: programs are multiplied, and an encoder's lengths go with those of the inputs.
    found: dict[str, Sequence[int]] = {
        name: default_buckets(lengths[name], between=name in FEATURES) for name in features_of(lengths)
    }
    found.update(given or {})
    return {**found, "inputs": tuple(length + frame_length for length in found["inputs"])}


def bucket_of(length: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds a length.

    Args:
        length: of the longest row of a batch.
        buckets: in ascending order; the last holds every row.

    Returns:
        One of the buckets.
    """
    return buckets[bisect.bisect_left(buckets, length)]


def pad(rows: Sequence[Tokens], length: int, pad_id: int) -> tuple[Int[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
    """Rows of different lengths as one array.

    Args:
        rows: of token ids, none longer than `length`.
        length: L.
        pad_id: what stands behind a row.

    Returns:
        The tokens, and True where they are real.
    """
    mask = np.arange(length) < np.array([len(row) for row in rows])[:, None]
    tokens = np.full((len(rows), length), pad_id, np.int32)
    tokens[mask] = np.concatenate(rows)
    return tokens, mask


class Batches:
    """The training batches of one process, by number."""

    def __init__(
        self,
        tasks: Sequence[TaskTokens],
        *,
        batch_size: int,
        seed: int,
        buckets: Mapping[str, Sequence[int]],
        length_window: int = 1,
        pad_id: int = 0,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        """Checks that the batches can be made.

        Args:
            tasks: one, or those of a mixture.
            batch_size: rows of a global batch.
            seed: of the order.
            buckets: for each feature the lengths to which batches are padded.
            length_window: batches within which examples are grouped by length; 1 groups nothing.
            pad_id: what stands behind a row.
            process_index: which process this is.
            process_count: of how many.

        Raises:
            UserError: if the batch cannot be divided among the processes, a task is empty, or a bucket is too short.
        """
        if not sum(task.rate for task in tasks) > 0:
            raise UserError(f"nothing is ever drawn from {[task.name for task in tasks]}: their mixing rates sum to 0")
        if batch_size <= 0 or batch_size % process_count:
            raise UserError(f"a batch of {batch_size} rows cannot be divided among {process_count} processes")
        if length_window < 1:
            raise UserError(f"length_window is {length_window}; give a number of batches, 1 to group nothing")
        self.tasks = list(tasks)
        self.beside: Callable[[Sequence[tuple[int, int]], Batch], Batch] | None = None  # puts more into a batch
        self.batch_size, self._length_window, self._pad_id, self._seed = batch_size, length_window, pad_id, seed
        rows = batch_size // process_count
        self._local = slice(process_index * rows, (process_index + 1) * rows)
        features = features_of(self.tasks[0].features)
        self._buckets = {feature: _checked_buckets(feature, buckets[feature], tasks) for feature in features}
        self._mixture = MixtureOrder([task.rate for task in tasks], seed)
        self._orders = [EpochOrder(task.name, len(task), seed) for task in tasks]
        self._latest: tuple[int, list[tuple[int, int]]] = (-1, [])  # window, its rows
        self._lock = threading.Lock()  # the orders remember; a thread prefetches while the main one may ask too

    def rows(self, number: int) -> list[tuple[int, int]]:
        """Which examples stand in a global batch.

        Args:
            number: k.

        Returns:
            For each row of the global batch its task's place in `tasks` and the example's number in that task.
        """
        window, place = divmod(number, self._length_window)
        with self._lock:
            if self._latest[0] != window:
                self._latest = (window, self._window(window))
            return self._latest[1][place * self.batch_size : (place + 1) * self.batch_size]

    def _window(self, window: int) -> list[tuple[int, int]]:
        """The rows of all batches of a window, one batch after the other."""
        count = self._length_window * self.batch_size
        tasks, draws = self._mixture.draws(window * count, count)
        turns = permutation(self._length_window, self._seed, "length window", window).repeat(self.batch_size)
        examples = np.empty_like(draws)
        for task in np.unique(tasks):
            here = np.flatnonzero(tasks == task)
            drawn = self._orders[task].examples(draws[here])
            if self._length_window > 1:
                here = here[np.argsort(turns[here], kind="stable")]
                drawn = drawn[np.lexsort([self.tasks[task].features[name].lengths[drawn] for name in FEATURES[::-1]])]
            examples[here] = drawn
        return list(zip(tasks.tolist(), examples.tolist(), strict=True))

    def batch(self, number: int) -> Batch:
        """This process's rows of global batch k, padded to the bucket of the longest row of all.

        Args:
            number: k.

        Returns:
            The rows.
        """
        return self.of(self.rows(number))

    def of(self, rows: Sequence[tuple[int, int]]) -> Batch:
        """The same of any examples, named as `rows` names them."""
        inputs, inputs_mask = self._padded("inputs", rows)
        targets, targets_mask = self._padded("targets", rows)
        others = {name: kind for name, kind in OPTIONAL_FEATURES.items() if name in self._buckets}
        beside: dict[str, Any] = {name: kind(*self._padded(name, rows)) for name, kind in others.items()}
        found = Batch(inputs, inputs_mask, targets, _weights(targets_mask), self._segments(rows), **beside)
        return found if self.beside is None else self.beside(rows[self._local], found)

    def iterate(self, start: int = 0, prefetch: int = 2) -> Prefetched:
        """The batches from a position on, made ahead of time by a thread.

        Args:
            start: the number of the first batch.
            prefetch: how many are kept ready.

        Returns:
            An endless iterator; close it, or use it in a `with` statement.
        """
        return Prefetched(map(self.batch, itertools.count(start)), prefetch)

    def _padded(
        self, feature: str, rows: Sequence[tuple[int, int]]
    ) -> tuple[Int[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
        sequences = [self.tasks[task].features[feature][example] for task, example in rows]
        length = bucket_of(max(map(len, sequences)), self._buckets[feature.removesuffix(SEGMENTS)])
        # Token 0 is in every vocabulary; the LM's padding may not be in an encoder's.
        return pad(sequences[self._local], length, self._pad_id if feature in FEATURES else 0)

    def _segments(self, rows: Sequence[tuple[int, int]]) -> Segments | None:
        if not self.tasks[0].packed:
            return None
        return Segments(*(self._padded(feature + SEGMENTS, rows)[0] for feature in FEATURES))


class Prefetched(Iterator[Any]):
    """An iterator whose items a thread makes ahead of time; what goes wrong there is raised here."""

    def __init__(self, items: Iterator[Any], size: int) -> None:
        """Starts the thread.

        Args:
            items: what it makes.
            size: how many items are kept ready.
        """
        self._queue: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(size)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(items,), daemon=True, name="batches")
        self._thread.start()

    def __next__(self) -> Any:
        """The next item.

        Raises:
            BaseException: whatever the thread met, at the place where it met it.
        """
        if self._stopped.is_set():
            raise StopIteration
        item, error = self._queue.get()
        if error is not None:
            self.close()
            raise error
        return item

    def __enter__(self) -> Prefetched:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stops the thread."""
        self.close()

    def close(self) -> None:
        """Stops the thread and waits for its end."""
        self._stopped.set()
        self._thread.join()

    def _fill(self, items: Iterator[Any]) -> None:
        try:
            for item in items:
                if not self._put((item, None)):
                    return
            self._put((None, StopIteration()))
        except BaseException as error:
            self._put((None, error))

    def _put(self, entry: tuple[Any, BaseException | None]) -> bool:
        """Waits for room in the queue, but not for a reader who has gone."""
        while not self._stopped.is_set():
            try:
                self._queue.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False


def _checked_buckets(feature: str, buckets: Sequence[int], tasks: Sequence[TaskTokens]) -> tuple[int, ...]:
    for task in tasks:
        if not len(task):
            raise UserError(f"task {task.name} has no examples in this split")
        longest = int(task.features[feature].lengths.max())
        if not buckets or longest > max(buckets):
            raise UserError(
                f"the {feature} of task {task.name} have up to {longest} tokens, but the longest bucket in "
                f"{tuple(buckets)} does not hold them; add one of {longest}"
            )
    return tuple(sorted(buckets))


def _weights(mask: Bool[np.ndarray, "B T"]) -> Float[np.ndarray, "B T"]:
    return mask.astype(np.float32)
