"""SIGTERM: at once, noted, and at once again within what notes it."""

import os
import signal

import pytest

from frozen_jax import preemption


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.setattr(preemption, "_noted", False)
    before = signal.getsignal(signal.SIGTERM)
    preemption.listen()
    yield
    signal.signal(signal.SIGTERM, before)


def tell():
    os.kill(os.getpid(), signal.SIGTERM)


def test_it_ends_what_is_running():
    with pytest.raises(preemption.Preempted, match="run the same command again"):
        tell()
    assert not issubclass(preemption.Preempted, Exception)  # which a metric that fails, or a save, would be


def told_twice(reached):
    with preemption.put_off() as told:
        assert not told()
        tell()
        assert told()
        with pytest.raises(preemption.Preempted), preemption.at_once():
            pytest.fail("begun all the same")
        tell()  # put off again
        reached.append("the end")


def test_put_off_it_is_noted_and_what_need_not_end_ends():
    reached = []
    with pytest.raises(preemption.Preempted):
        told_twice(reached)
    assert reached == ["the end"]
    with pytest.raises(preemption.Preempted):
        tell()
