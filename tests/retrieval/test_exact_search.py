"""The exact search against numpy, on eight devices."""

from __future__ import annotations

import numpy as np
import pytest

from frozen_jax.retrieval import exact_search
from frozen_jax.retrieval.base import NONE, Hits
from frozen_jax.retrieval.exact_search import ExactSearch, recall_of
from tests import tiny


def by_brute_force(queries: np.ndarray, vectors: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :count]


def made(vectors: np.ndarray, **settings: object) -> ExactSearch:
    read = settings.pop("read", lambda start, stop: vectors[start:stop])
    return ExactSearch(read, *vectors.shape, tiny.mesh(4, 2), **settings)


def small_integers(rows: int, seed: int) -> np.ndarray:
    """Sums of their products are exact in any order, and many are equal."""
    return np.random.default_rng(seed).integers(-2, 3, (rows, 5)).astype(np.float32)


@pytest.mark.parametrize(("total", "block"), [(203, 4), (8, 8192)])
def test_equal_to_brute_force_with_ties_in_the_order_of_numbers(total: int, block: int) -> None:
    vectors, queries = small_integers(total, 0), small_integers(5, 1)
    found = made(vectors, block=block).search(queries, 7)
    expected = by_brute_force(queries, vectors, 7)
    np.testing.assert_array_equal(found.passages, expected)
    np.testing.assert_array_equal(found.scores, np.take_along_axis(queries @ vectors.T, expected, axis=1))
    if total == 203:
        assert (np.diff(found.scores) == 0).any()  # there were ties, across shards too


def test_what_is_not_there_is_none() -> None:
    vectors, queries = small_integers(3, 0), -np.abs(small_integers(2, 1))
    found = made(vectors).search(queries, 5)
    np.testing.assert_array_equal(found.passages[:, :3], by_brute_force(queries, vectors, 3))
    assert (found.passages[:, 3:] == NONE).all()
    assert np.isneginf(found.scores[:, 3:]).all()
    assert made(vectors).search(queries[:0], 5).passages.shape == (0, 5)


def test_each_device_is_read_its_own_vectors_alone() -> None:
    vectors, asked = small_integers(21, 0), []

    def read(start: int, stop: int) -> np.ndarray:
        asked.append((start, stop))
        return vectors[start:stop]

    made(vectors, read=read)
    assert sorted(asked) == [(0, 3), (3, 6), (6, 9), (9, 12), (12, 15), (15, 18), (18, 21)]


def test_scores_of_all_vectors_are_never_held_together() -> None:
    search = made(small_integers(4096, 0), block=16)
    queries = np.zeros((6, 5), np.float32)
    compiled = exact_search._search.lower(queries, search._vectors, tiny.mesh(4, 2), 4096, 3, 16, None).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < queries.shape[0] * 4096 * 4 / 8  # a device's part of them


def test_more_questions_than_are_asked_at_once() -> None:
    vectors, queries = small_integers(30, 0), small_integers(300, 1)
    np.testing.assert_array_equal(made(vectors).search(queries, 2).passages, by_brute_force(queries, vectors, 2))


def test_recall_of_an_approximate_search_is_measured() -> None:
    exact = Hits(np.array([[4, 2, 7], [1, 5, NONE]]), np.zeros((2, 3), np.float32))
    found = Hits(np.array([[7, 4, 9], [1, 0, NONE]]), np.zeros((2, 3), np.float32))
    assert recall_of(exact, exact) == 1
    assert recall_of(found, exact) == 3 / 5
    rng = np.random.default_rng(0)
    vectors, queries = (rng.normal(size=(rows, 5)).astype(np.float32) for rows in (200, 4))
    approximate = made(vectors, recall_target=0.9).search(queries, 5)
    assert recall_of(approximate, made(vectors).search(queries, 5)) >= 0.9
