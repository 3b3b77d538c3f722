"""The order is a pure function of seed and position, and what it promises about epochs and rates holds."""

import numpy as np
import pytest

from frozen_jax.ordering import BLOCK, EpochOrder, MixtureOrder, permutation, random_bits


def test_random_bits_are_golden():
    # Written down once: a resumed run of an older release must see the same order.
    assert random_bits(2, 0, "task", 1).tolist() == [12509532295823148306, 10391057029284599602]
    assert permutation(6, 3, "task", 0).tolist() == [5, 2, 0, 1, 3, 4]


def test_random_bits_depend_on_every_part_of_the_key():
    keys = [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1), ("0", "a", 0)]
    assert len({random_bits(1, *key)[0] for key in keys}) == len(keys)


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_every_epoch_holds_each_example_once(epoch):
    draws = np.arange(epoch * 10, (epoch + 1) * 10)
    assert sorted(EpochOrder("task", 10, seed=0).examples(draws)) == list(range(10))


def test_epochs_seeds_and_tasks_have_orders_of_their_own():
    def order(name, seed, epoch):
        return tuple(EpochOrder(name, 100, seed).examples(np.arange(epoch * 100, (epoch + 1) * 100)))

    assert len({order("a", 0, 0), order("a", 0, 1), order("a", 1, 0), order("b", 0, 0)}) == 4


def test_draws_across_the_end_of_an_epoch():
    order = EpochOrder("task", 7, seed=0)
    whole = EpochOrder("task", 7, seed=0).examples(np.arange(21))
    assert order.examples(np.array([5, 20, 6, 7, 13])).tolist() == whole[[5, 20, 6, 7, 13]].tolist()


def test_mixture_counts_the_earlier_draws_of_each_task():
    tasks, draws = MixtureOrder([1.0, 2.0, 5.0], seed=0).draws(0, 3 * BLOCK)
    for task in range(3):
        assert draws[tasks == task].tolist() == list(range(np.count_nonzero(tasks == task)))


def test_mixture_resumes_anywhere():
    tasks, draws = MixtureOrder([1.0, 2.0, 5.0], seed=4).draws(0, 3 * BLOCK)
    for start, count in [(0, 5), (BLOCK - 3, 7), (2 * BLOCK + 11, 100), (7, 2 * BLOCK)]:
        fresh = MixtureOrder([1.0, 2.0, 5.0], seed=4).draws(start, count)
        assert fresh[0].tolist() == tasks[start : start + count].tolist()
        assert fresh[1].tolist() == draws[start : start + count].tolist()


def test_mixture_goes_back_as_well_as_on():
    order = MixtureOrder([1.0, 3.0], seed=0)
    ahead = order.draws(5 * BLOCK, 10)
    first = order.draws(0, 10)
    assert first[1].max() < 10
    assert order.draws(5 * BLOCK, 10)[1].tolist() == ahead[1].tolist()


def test_mixture_keeps_its_rates():
    tasks, _ = MixtureOrder([1.0, 0.0, 2.0, 5.0, 0.0], seed=1).draws(0, 10 * BLOCK)
    shares = np.bincount(tasks, minlength=5) / len(tasks)
    assert shares[[1, 4]].tolist() == [0, 0]
    # Five standard deviations of a share over 81,920 draws are below 0.009.
    np.testing.assert_allclose(shares, np.array([1, 0, 2, 5, 0]) / 8, atol=0.009)


def test_one_task_is_drawn_in_turn():
    tasks, draws = MixtureOrder([0.3], seed=0).draws(BLOCK + 2, 4)
    assert tasks.tolist() == [0, 0, 0, 0]
    assert draws.tolist() == [BLOCK + 2, BLOCK + 3, BLOCK + 4, BLOCK + 5]
