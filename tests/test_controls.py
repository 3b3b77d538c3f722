"""Controls change what an encoder reads and nothing else: nobody's own, none of the same data set, always the same."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frozen_jax import controls
from frozen_jax.batching import Ragged, TaskTokens
from frozen_jax.errors import UserError
from tests import fake_model

TEXT = np.array([7, 8, 1], np.int32)


def task(name="task", size=6, start=10, encoder=True):
    """Example i reads `start + i`, and its encoder a hundred more."""
    examples = [fake_model.example(i, str(start + i), "5") for i in range(size)]
    if encoder:
        examples = [dataclasses.replace(e, encoder_inputs=e.inputs + 100) for e in examples]
    return fake_model.task(examples, name=name)


def read(tasks):
    """The first token that each example's encoder reads, by task."""
    return {task.name: [int(example.encoder_inputs[0]) for example in task.examples] for task in tasks}


def without_encoder_inputs(tasks):
    return [[(e.index, e.inputs.tolist(), e.targets.tolist(), e.inputs_text) for e in task.examples] for task in tasks]


P3 = {"p3.a.one": 10, "p3.a.two": 20, "p3.b.one": 30, "p3.c.d.one": 40, "other": 50}
TASKS = [task(name, 4, start) for name, start in P3.items()]


@given(st.integers(2, 40), st.integers(0, 5))
def test_nobody_reads_his_own_and_everybody_is_read(size, seed):
    own = task(size=size)
    (found,) = read(controls.swapped([own], "same task", seed)).values()
    (before,) = read([own]).values()
    assert sorted(found) == before
    assert all(one != other for one, other in zip(found, before, strict=True))


@given(st.integers(0, 20))
def test_across_data_sets_none_stays_within(seed):
    found = read(controls.swapped(TASKS, "other data set", seed))
    mine = {name: {100 + start + i for i in range(4)} for name, start in P3.items()}
    within = {
        "p3.a.one": mine["p3.a.one"] | mine["p3.a.two"],
        "p3.a.two": mine["p3.a.one"] | mine["p3.a.two"],
        **{name: mine[name] for name in ("p3.b.one", "p3.c.d.one", "other")},
    }
    assert all(not within[name] & set(tokens) for name, tokens in found.items())
    assert all(len(set(tokens)) == 4 for tokens in found.values())


def test_givers_come_from_all_other_data_sets():
    large = [task("p3.a.one", 300), *(task(name, 100, 1000 * i) for i, name in enumerate(["p3.b.one", "p3.c.one"], 1))]
    found = read(controls.swapped(large, "other data set", 0))["p3.a.one"]
    assert {token // 1000 for token in found} == {1, 2}
    assert len(set(found)) == 200  # all in turn, then all once more


def test_the_seed_says_who_is_given_whose():
    for whose in ("same task", "other data set"):
        found = [read(controls.swapped(TASKS, whose, seed)) for seed in (0, 0, 1)]
        assert found[0] == found[1] != found[2]


def test_nothing_else_changes():
    for whose in controls.WHOSE:
        assert without_encoder_inputs(controls.swapped(TASKS, whose, 0)) == without_encoder_inputs(TASKS)
    assert read(controls.swapped(TASKS, "own", 0)) == read(TASKS)
    assert without_encoder_inputs(controls.evaluate_on_text(TASKS, TEXT)) == without_encoder_inputs(TASKS)


def test_an_encoder_with_the_lms_vocabulary_reads_anothers_inputs():
    own = task(encoder=False)
    (found,) = read(controls.swapped([own], "same task", 0)).values()
    assert sorted(found) == list(range(10, 16))
    assert found != list(range(10, 16))


@pytest.mark.parametrize(
    ("tasks", "whose", "message"),
    [
        (TASKS, "others", "encoder_inputs_of is 'others'; choose from 'own', 'same task', 'other data set'"),
        ([task(size=1)], "same task", "task task has one example in test: there is none to swap inputs with"),
        (TASKS[:2], "other data set", "all tasks are of the data set p3.a: there is no other to swap inputs with"),
        ([task(), task("b", encoder=False)], "same task", "some tasks have encoder_inputs and some have none"),
    ],
)
def test_what_cannot_be_swapped_is_named(tasks, whose, message):
    with pytest.raises(UserError, match=message):
        controls.swapped(tasks, whose, 0)


def test_every_encoder_reads_the_text():
    for found in controls.evaluate_on_text(TASKS, TEXT):
        assert [example.encoder_inputs.tolist() for example in found.examples] == [[7, 8, 1]] * 4
    rows = Ragged.from_sequences([np.array([4, 5, 1]), np.array([6]), np.array([], np.int32)])
    (found,) = controls.train_on_text([TaskTokens("t", {"inputs": rows, "targets": rows}, 2.0)], TEXT)
    assert [found.features["encoder_inputs"][i].tolist() for i in range(3)] == [[7, 8, 1]] * 3
    assert (found.features["inputs"], found.name, found.rate) == (rows, "t", 2.0)


def test_packed_rows_have_no_text():
    rows = Ragged.from_sequences([np.array([4, 5, 1])])
    names = ("inputs", "targets", "inputs_segments", "targets_segments")
    with pytest.raises(UserError, match=r"encoder_text: .* set TaskData.pack = False"):
        controls.train_on_text([TaskTokens("t", dict.fromkeys(names, rows))], TEXT)
