"""Stored arrays: parts, transposes, layers of a stack; and the fingerprint of weights."""

from __future__ import annotations

import hashlib

import ml_dtypes
import numpy as np
import pytest

from frozen_jax.errors import UserError
from frozen_jax.lm.pretrained import stored
from frozen_jax.lm.pretrained.stored import Checkpoint, StoredArray, check_arrays, fingerprint, in_memory
from tests import tiny

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)
STACK = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def recorded(array: np.ndarray, parts: list) -> StoredArray:
    def read(part):
        parts.append(part)
        return array[part]

    return StoredArray(array.shape, array.dtype, read)


def test_transposed_reads_only_the_part():
    parts = []
    turned = stored.transposed(recorded(MATRIX, parts))
    assert turned.shape == (4, 3)
    np.testing.assert_array_equal(turned.read((slice(1, 3), slice(0, 2))), MATRIX.T[1:3, 0:2])
    assert parts == [(slice(0, 2), slice(1, 3))]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_layer_of_a_stack_reads_only_the_layer(axis):
    parts = []
    layer = stored.layer_of(recorded(STACK, parts), 1, axis)
    np.testing.assert_array_equal(layer.read_all(), np.take(STACK, 1, axis))
    assert layer.shape == np.take(STACK, 1, axis).shape
    assert parts[0][axis] == slice(1, 2)


def test_fingerprint_is_what_its_docstring_says():
    arrays = {"b": MATRIX.astype(ml_dtypes.bfloat16), "a/c": MATRIX[0]}
    lines = [
        f"a/c float32 (4,) {hashlib.sha256(MATRIX[0].tobytes()).hexdigest()}\n",
        f"b bfloat16 (3, 4) {hashlib.sha256(arrays['b'].tobytes()).hexdigest()}\n",
    ]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert fingerprint({name: in_memory(array) for name, array in arrays.items()}) == expected


def test_fingerprint_does_not_depend_on_layout_or_block(monkeypatch):
    plain = fingerprint({"a": in_memory(MATRIX)})
    assert fingerprint({"a": stored.transposed(in_memory(np.ascontiguousarray(MATRIX.T)))}) == plain
    parts = []
    monkeypatch.setattr(stored, "HASH_BLOCK", 40)  # bytes: two rows
    assert fingerprint({"a": recorded(MATRIX, parts)}) == plain
    assert [part[0] for part in parts] == [slice(0, 2), slice(2, 3)]


@pytest.mark.parametrize(
    "other",
    [
        {"a": in_memory(MATRIX + np.float32(1))},
        {"a": in_memory(MATRIX.reshape(4, 3))},
        {"a": in_memory(MATRIX.view(np.int32))},
        {"b": in_memory(MATRIX)},
        {"a": in_memory(MATRIX), "b": in_memory(MATRIX)},
    ],
)
def test_fingerprint_tells_weights_apart(other):
    assert fingerprint(other) != fingerprint({"a": in_memory(MATRIX)})


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({}, r"somewhere: the array a of shape \(3, 4\), which the config asks for, is missing"),
        ({"a": in_memory(MATRIX.T)}, r"a has shape \(4, 3\) in the file, but shape \(3, 4\) by the config"),
        ({"a": in_memory(MATRIX), "b": in_memory(STACK)}, r"no place for the array b of shape \(2, 3, 4\)"),
        ({"a": in_memory(MATRIX.astype(np.uint16))}, r"a is stored as uint16"),
    ],
)
def test_arrays_that_the_config_does_not_ask_for(arrays, match):
    with pytest.raises(UserError, match=match):
        check_arrays(Checkpoint("somewhere", tiny.CONFIG, arrays), {"a": (3, 4)})
