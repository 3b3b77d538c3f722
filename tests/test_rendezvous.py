"""The processes of a run meet: what each of them learns, and what all say when something is wrong with one."""

import concurrent.futures
import dataclasses
import socket
import threading

import pytest

from frozen_jax import rendezvous
from frozen_jax.errors import UserError
from frozen_jax.rendezvous import Process

COUNT = 3


def address():
    """A free port of this machine."""
    with socket.create_server(("localhost", 0)) as server:
        return f"localhost:{server.getsockname()[1]}"


def processes(**last):
    """Three that agree, but for what is said of the last."""
    own = [Process(index, COUNT, f"host{index}", "code", "settings") for index in range(COUNT)]
    return [*own[:-1], dataclasses.replace(own[-1], **last)]


def met(own, seconds=10.0, where=None):
    """What each of them gets, an error's text or all processes."""
    where = where or address()

    def one(process):
        try:
            return rendezvous.meet(process, where, seconds)
        except UserError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(one, own))


def test_all_learn_who_all_are():
    assert met(reversed(processes())) == [processes()] * COUNT


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ({"index": 1}, "two processes have the number 1, on host1 and on host2; give each its own --process_index"),
        ({"index": 0}, "two processes have the number 0, on host0 and on host2; give each its own --process_index"),
        ({"count": 4}, "process 2 (host2) is one of 4, process 0 (host0) one of 3; give all the same number"),
        ({"code": "x"}, "process 2 (host2) has other code than process 0 (host0); start all of them from one commit"),
        (
            {"settings": "x"},
            "process 2 (host2) has another gin configuration than process 0 (host0); give all the same gin files and "
            "flags",
        ),
    ],
)
def test_what_is_wrong_with_one_all_say(last, message):
    found = met(processes(**last))
    assert sorted(found) == [message] * COUNT


def test_who_differs_from_most_is_named_even_if_it_is_the_first():
    own = [dataclasses.replace(process, code="new" if process.index else "old") for process in processes()]
    said = rendezvous.objection(own, 10.0)
    assert said == "process 0 (host0) has other code than process 1 (host1); start all of them from one commit"


def test_who_does_not_come_is_named():
    assert met(processes()[:2], seconds=1.0) == ["of 3 processes only 0, 1 came within 1 s; missing: 2"] * 2


def test_a_coordinator_that_never_answers():
    where = address()
    (said,) = met(processes()[1:2], seconds=0.5, where=where)
    assert said.startswith(f"nobody has answered at {where} for 0.5 s: process 0 has to run there")


def test_one_who_says_nonsense_disturbs_nobody():
    where = address()
    host, port = where.split(":")

    def stranger():
        while True:
            try:
                with socket.create_connection((host, int(port))) as connection:
                    connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    return
            except ConnectionRefusedError:
                pass

    strange = threading.Thread(target=stranger)
    strange.start()
    assert met(processes(), where=where) == [processes()] * COUNT
    strange.join()


@pytest.mark.parametrize("given", ["host", "host:", ":1234", "host:port", "host:99999"])
def test_an_address_without_host_or_port(given):
    with pytest.raises(UserError, match=f"--coordinator_address is '{given}'; write HOST:PORT"):
        rendezvous.meet(processes()[0], given, 1.0)
