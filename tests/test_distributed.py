"""Who the processes of a run are, and at which step they stop; several real ones: tests/multi_process."""

import jax
import pytest

from frozen_jax import distributed
from frozen_jax.errors import UserError


@pytest.fixture(autouse=True)
def pod(monkeypatch):
    """What the machine says of the others: nothing, unless a test does."""
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_PROCESS_COUNT", "JAX_PROCESS_INDEX"):
        monkeypatch.delenv(name, raising=False)

    def says(answer):
        monkeypatch.setattr(distributed.ClusterEnv, "auto_detect_unset_distributed_params", answer)

    says(lambda *given: given[:4])
    return says


def test_flags_go_before_the_environment_and_that_before_the_pod(monkeypatch, pod):
    assert distributed._identity("a:1", 2, 1) == ("a:1", 2, 1, None)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "b:1")
    monkeypatch.setenv("JAX_PROCESS_COUNT", "3")
    pod(lambda address, count, index, *rest: (address, count, 2 if index is None else index, [0]))
    assert distributed._identity(None, None, None) == ("b:1", 3, 2, [0])
    monkeypatch.setenv("JAX_PROCESS_INDEX", "0")
    assert distributed._identity("a:1", None, None) == ("a:1", 3, 0, None)


def test_one_process_of_a_pod_is_alone(pod):
    pod(lambda *given: ("host:1", 1, 0, None))
    (found,) = distributed.start()
    assert (found.index, found.count) == (0, 1)
    assert not jax.distributed.is_initialized()


def refused(*_):
    raise OSError("no metadata server")


@pytest.mark.parametrize("answer", [lambda *given: given[:4], refused])
def test_where_nothing_tells_who_the_others_are(pod, answer):
    pod(answer)
    with pytest.raises(UserError, match="nor the machine tell who the other processes are; give --coordinator_address"):
        distributed.start(coordinator_address="host:1", process_count=2)


@pytest.mark.parametrize("index", [-1, 2])
def test_a_number_out_of_range(index):
    with pytest.raises(UserError, match=f"--process_index is {index}; of 2 processes they go from 0 to 1"):
        distributed.start("host:1", 2, index)


def test_a_number_that_is_none(monkeypatch):
    monkeypatch.setenv("JAX_PROCESS_COUNT", "two")
    with pytest.raises(UserError, match="JAX_PROCESS_COUNT is 'two' in the environment; it should be a number"):
        distributed.start("host:1", None, 0)


def test_the_digest_is_of_all_code(monkeypatch):
    whole = distributed._code_digest()
    assert whole == distributed._code_digest()
    for name in distributed._CODE:
        monkeypatch.setattr(distributed, "_CODE", [other for other in distributed._CODE if other != name])
        assert distributed._code_digest() != whole


class Keys(dict):
    """The coordination service's keys."""

    def key_value_set(self, key, value, allow_overwrite):
        if key in self and not allow_overwrite:
            raise jax.errors.JaxRuntimeError("ALREADY_EXISTS")
        self[key] = value

    def key_value_try_get(self, key):
        if key not in self:
            raise jax.errors.JaxRuntimeError("NOT_FOUND")
        return self[key]


def test_all_stop_behind_the_step_that_the_first_who_was_told_names(monkeypatch):
    keys = Keys()
    monkeypatch.setattr(distributed, "_client", lambda: keys)
    assert not distributed.all_stop(False, 3)
    assert not distributed.all_stop(True, 3)  # others may have begun the fourth step
    assert not distributed.all_stop(False, 3)
    assert distributed.all_stop(True, 4)
    assert distributed.all_stop(False, 4)


def test_alone_it_stops_at_once():
    assert distributed.all_stop(True, 3)
    assert not distributed.all_stop(False, 3)
