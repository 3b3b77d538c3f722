"""Batches are a pure function of (seed, number), whoever makes them; nothing of an example is lost or added."""

import dataclasses
import itertools
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frozen_jax.batching import (
    Batches,
    Prefetched,
    Ragged,
    TaskTokens,
    all_buckets,
    bucket_of,
    default_buckets,
    pad,
    rounded_up,
)
from frozen_jax.errors import UserError

BUCKETS = {"inputs": (4, 8, 16), "targets": (3,)}


def task(name="task", size=37, rate=1.0, longest=16, seed=0):
    rng = np.random.default_rng(seed)
    inputs = [np.full(rng.integers(1, longest + 1), i) for i in range(size)]  # an example's tokens are its number
    targets = [np.full(rng.integers(1, 4), i) for i in range(size)]
    return TaskTokens(name, {"inputs": Ragged.from_sequences(inputs), "targets": Ragged.from_sequences(targets)}, rate)


def batches(tasks=None, **changes):
    settings = {"batch_size": 8, "seed": 0, "buckets": BUCKETS, "pad_id": 99} | changes
    return Batches(tasks or [task("a"), task("b", size=5, rate=2.0, seed=1)], **settings)


def assert_equal(one, other):
    for field in ("inputs", "inputs_mask", "targets", "targets_weights"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


@given(st.lists(st.lists(st.integers(0, 1000))))
def test_ragged_gives_back_its_sequences(sequences):
    ragged = Ragged.from_sequences([np.array(sequence, np.int64) for sequence in sequences])
    assert [ragged[i].tolist() for i in range(len(ragged))] == sequences
    assert ragged.lengths.tolist() == [len(sequence) for sequence in sequences]


def test_batch_says_what_is_real():
    rows, batch = batches().rows(3), batches().batch(3)
    tasks = batches().tasks
    for row, (which, example) in enumerate(rows):
        inputs, targets = (tasks[which].features[feature][example] for feature in ("inputs", "targets"))
        assert batch.inputs[row][batch.inputs_mask[row]].tolist() == inputs.tolist()
        assert batch.targets[row][batch.targets_weights[row] == 1].tolist() == targets.tolist()
        assert batch.inputs_mask[row].tolist() == [True] * len(inputs) + [False] * (batch.inputs.shape[1] - len(inputs))
    assert set(batch.inputs[~batch.inputs_mask]) <= {99}
    assert (batch.inputs.dtype, batch.targets_weights.dtype) == (np.int32, np.float32)


def test_negatives_come_beside_inputs_and_targets():
    ragged = Ragged.from_sequences([np.array([number, 9], np.int32)[: 1 + number % 2] for number in range(37)])
    with_them = dataclasses.replace(task(), features={**task().features, "negatives": ragged})
    settings = {"batch_size": 8, "seed": 0, "pad_id": 5}
    buckets = {"inputs": (16,), "targets": (16,), "negatives": (4,)}
    made = Batches([with_them], buckets=buckets, **settings)
    batch = made.batch(0)
    assert batch.negatives.tokens.shape == (8, 4)
    assert batch.encoder_inputs is None
    for row, (_, example) in enumerate(made.rows(0)):
        assert batch.negatives.tokens[row][batch.negatives.mask[row]].tolist() == ragged[example].tolist()
    assert not batch.negatives.tokens[~batch.negatives.mask].any()  # not the LM's padding: the mask says what is real
    assert Batches([task()], buckets=buckets, **settings).batch(0).negatives is None


def test_token_zero_is_a_token():
    _, mask = pad([np.array([0, 0]), np.array([0])], 3, pad_id=0)
    assert mask.tolist() == [[True, True, False], [True, False, False]]


def test_batch_is_a_function_of_seed_and_number():
    in_turn = batches()
    wanted = [in_turn.batch(number) for number in range(12)]
    assert_equal(batches().batch(11), wanted[11])
    assert_equal(in_turn.batch(2), wanted[2])
    assert not np.array_equal(batches(seed=1).rows(0), batches().rows(0))


@pytest.mark.parametrize("count", [2, 4, 8])
def test_processes_share_a_batch(count):
    whole = batches().batch(5)
    parts = [batches(process_index=index, process_count=count).batch(5) for index in range(count)]
    for field in ("inputs", "inputs_mask", "targets", "targets_weights"):
        np.testing.assert_array_equal(np.concatenate([getattr(p, field) for p in parts]), getattr(whole, field))


def test_an_epoch_of_one_task_holds_every_example_once():
    rows = itertools.chain.from_iterable(batches([task(size=40)]).rows(number) for number in range(5))
    assert sorted(example for _, example in rows) == list(range(40))


def test_batch_takes_the_smallest_bucket_that_holds_its_longest_row():
    widths = {batches([task(size=200)], batch_size=1).batch(number).inputs.shape[1] for number in range(50)}
    assert widths == {4, 8, 16}
    assert [bucket_of(length, (4, 8, 16)) for length in (1, 4, 5, 8, 16)] == [4, 4, 8, 8, 16]


@pytest.mark.parametrize(
    ("length", "buckets"),
    [(4, (4,)), (16, (16,)), (17, (16, 17)), (128, (16, 32, 64, 128)), (100, (16, 32, 64, 100))],
)
def test_default_buckets(length, buckets):
    assert default_buckets(length) == buckets


def test_rounded_up():
    assert [rounded_up(n) for n in range(1, 18)] == [1, 2, 3, 4, 6, 6, 8, 8, 12, 12, 12, 12, 16, 16, 16, 16, 24]
    assert (rounded_up(385), rounded_up(512)) == (512, 512)


def test_buckets_of_training_have_others_between():
    assert all_buckets({"inputs": 100, "targets": 16}, {"targets": (8, 16)}) == {
        "inputs": (16, 24, 32, 48, 64, 96, 100),
        "targets": (8, 16),
    }


def test_buckets_of_inputs_hold_a_frame_as_well():
    found = all_buckets({"inputs": 24, "targets": 16}, {"targets": (8, 16)}, frame_length=5)
    assert found == {"inputs": (21, 29), "targets": (8, 16)}
    assert all_buckets({"inputs": 24, "targets": 16}, {"inputs": [8, 24]}, 5)["inputs"] == (13, 29)


def test_buckets_may_come_in_any_order():
    assert_equal(batches(buckets={"inputs": (16, 4, 8), "targets": (3,)}).batch(0), batches().batch(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 6, "process_count": 4}, "6 rows cannot be divided among 4 processes"),
        ({"batch_size": 0}, "0 rows cannot be divided among 1 processes"),
        ({"buckets": {"inputs": (4, 8), "targets": (3,)}}, "inputs of task a have up to 16 tokens.*add one of 16"),
        ({"buckets": {"inputs": (16,), "targets": ()}}, "targets of task a have up to 3 tokens"),
        ({"tasks": [task("void", size=0)]}, "task void has no examples"),
        ({"tasks": [task("still", rate=0.0)]}, "nothing is ever drawn from .'still'.*rates sum to 0"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        batches(**changes)


def test_iterate_goes_on_where_it_is_told():
    with batches().iterate(start=7) as ahead:
        for number in range(7, 12):
            assert_equal(next(ahead), batches().batch(number))


def test_prefetch_raises_what_went_wrong_in_its_place():
    def items():
        yield 1
        raise OSError("the disk is gone")

    ahead = Prefetched(items(), 2)
    assert next(ahead) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)


def test_prefetch_ends_with_its_items():
    assert list(Prefetched(iter(range(5)), 2)) == list(range(5))


def test_prefetch_works_ahead_but_no_further_than_told():
    made = []
    with Prefetched((made.append(i) or i for i in range(100)), 2) as ahead:
        next(ahead)
        deadline = time.monotonic() + 5
        while len(made) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(made) == 4  # one handed out, two in the queue, one in the thread's hand


def test_closing_stops_the_thread():
    before = threading.active_count()
    ahead = batches().iterate()
    next(ahead)
    ahead.close()
    assert threading.active_count() == before
    with pytest.raises(StopIteration):
        next(ahead)


# Length grouping.


def lengths_of(made, number):
    return [len(made.tasks[task].features["inputs"][example]) for task, example in made.rows(number)]


def test_a_window_holds_the_same_examples_grouped_or_not():
    plain, grouped = batches(), batches(length_window=5)
    for window in range(3):
        numbers = range(5 * window, 5 * window + 5)
        assert sorted(row for k in numbers for row in grouped.rows(k)) == sorted(
            row for k in numbers for row in plain.rows(k)
        )
        for k in numbers:  # nor does a batch hold more of one task than it had drawn
            assert [task for task, _ in grouped.rows(k)] == [task for task, _ in plain.rows(k)]


def test_batches_of_a_window_hold_examples_of_like_length():
    made = batches([task(size=400)], length_window=6)
    spans = sorted((min(lengths_of(made, k)), max(lengths_of(made, k))) for k in range(6))
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))
    assert spans[0][0] < spans[-1][1]


def test_the_batches_of_a_window_come_in_a_random_order():
    made = batches([task(size=4000)], length_window=6)
    orders = {tuple(np.argsort([sum(lengths_of(made, 6 * window + k)) for k in range(6)])) for window in range(8)}
    assert len(orders) > 4


def test_grouping_pads_less():
    plain, grouped = (batches([task(size=400)], length_window=window) for window in (1, 10))
    sizes = [sum(made.batch(k).inputs.size for k in range(20)) for made in (plain, grouped)]
    assert sizes[1] < 0.8 * sizes[0]


def test_grouped_batches_are_a_pure_function_of_seed_and_number():
    first, other = batches(length_window=4), batches(length_window=4)
    wanted = [first.rows(k) for k in range(12)]
    assert [other.rows(k) for k in (11, 2, 7, 3)] == [wanted[k] for k in (11, 2, 7, 3)]
    assert batches(length_window=4, seed=1).rows(0) != wanted[0]


def test_a_window_of_nothing_is_refused():
    with pytest.raises(UserError, match="length_window is 0; give a number of batches"):
        batches(length_window=0)


# Several examples a row.


def test_packed_rows_say_which_token_is_whose():
    inputs, segments = [[7, 7, 8, 0, 8], [9]], [[1, 1, 2, 2, 2], [1]]
    features = {name: Ragged.from_sequences(map(np.array, inputs)) for name in ("inputs", "targets")}
    features |= {f"{name}_segments": Ragged.from_sequences(map(np.array, segments)) for name in ("inputs", "targets")}
    made = batches([TaskTokens("packed", features)], batch_size=2, buckets={"inputs": (8,), "targets": (6,)})
    batch = made.batch(0)
    by_length = np.argsort(-batch.inputs_mask.sum(1))
    assert batch.inputs[by_length].tolist() == [[7, 7, 8, 0, 8, 99, 99, 99], [9, *[99] * 7]]
    assert batch.segments.inputs[by_length].tolist() == [[1, 1, 2, 2, 2, 0, 0, 0], [1, *[0] * 7]]
    assert batch.segments.targets.shape == batch.targets.shape == (2, 6)
    assert batches().batch(0).segments is None


# The inputs again, for an encoder.


def again(name="task", **settings):
    """As `task`, and what an encoder reads of example i: so many tokens more, a hundred higher."""
    made = task(name, **settings)
    longer = [np.full(len(made.features["inputs"][i]) + 3, 100 + i) for i in range(len(made))]
    return dataclasses.replace(made, features={**made.features, "encoder_inputs": Ragged.from_sequences(longer)})


ENCODER_BUCKETS = BUCKETS | {"encoder_inputs": (10, 19)}


def encoded(**changes):
    return batches([again("a"), again("b", size=5, rate=2.0, seed=1)], buckets=ENCODER_BUCKETS, **changes)


def test_the_encoder_reads_the_example_of_its_row():
    made = encoded()
    for number in range(6):
        batch = made.batch(number)
        read, mask = batch.encoder_inputs
        assert (read[:, 0] == batch.inputs[:, 0] + 100).all()
        assert (mask.sum(1) == batch.inputs_mask.sum(1) + 3).all()
        assert (read[~mask] == 0).all()  # in every vocabulary, as the LM's own 99 may not be
        assert read.shape[1] == bucket_of(int(mask.sum(1).max()), (10, 19))
        plain = batches([task("a"), task("b", size=5, rate=2.0, seed=1)]).batch(number)
        assert_equal(plain, batch)
        assert plain.encoder_inputs is None


def test_processes_share_what_the_encoder_reads_and_a_run_goes_on_with_it():
    whole = encoded().batch(5).encoder_inputs
    parts = [encoded(process_index=index, process_count=4).batch(5).encoder_inputs for index in range(4)]
    for field in ("tokens", "mask"):
        np.testing.assert_array_equal(np.concatenate([getattr(p, field) for p in parts]), getattr(whole, field))
    with encoded().iterate(start=5) as ahead:
        np.testing.assert_array_equal(next(ahead).encoder_inputs.tokens, whole.tokens)


def test_buckets_of_an_encoder_have_none_between():
    found = all_buckets({"inputs": 64, "targets": 8, "encoder_inputs": 64})
    assert found == {"inputs": (16, 24, 32, 48, 64), "targets": (8,), "encoder_inputs": (16, 32, 64)}


def test_a_short_bucket_of_the_encoder_is_named():
    with pytest.raises(UserError, match=r"encoder_inputs of task a have up to 19 tokens.*add one of 19"):
        batches([again("a")], buckets=BUCKETS | {"encoder_inputs": (16,)})
