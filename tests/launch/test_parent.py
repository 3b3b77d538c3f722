"""The parent of a process of several: what it hands on, and what it says of a child that C++ or a signal ends."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARENT = "import sys; from launch import parent; sys.exit(parent.run([sys.executable, '-c', sys.argv[1]]))"
CHILD = "import os, signal, sys, time; from launch import parent; parent.die_with(); "

# As jaxlib 0.10.2 writes them.
POLLED = "E1126 12:45:52.244013    1176 coordination_service_agent.cc:289] Polled an error from coordination service.\n"
FATAL = (
    "F1126 12:45:52.244144    1176 client.h:80] Terminating process because the JAX distributed service detected fatal "
    "errors. This most likely indicates that another task died. absl::Status: "
)
TRACE = "\n*** Check failure stack trace: ***\n    @     0x7f54e3e40634  absl::LogMessage::SendToLog()\n"
UNHEALTHY = "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n{}The tasks have crashed."
LEADER = "UNAVAILABLE: Failed to send RPC to coordination service. Either the leader task was preempted or died."


def started(child):
    command = [sys.executable, "-c", PARENT, CHILD + child]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(child):
    """The exit status, and what is on stdout and stderr."""
    process = started(child)
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


def dying(status, before=""):
    """A child that has greeted and ends as JAX ends it."""
    words = POLLED + FATAL + status + TRACE
    return (
        f"parent.greet({{0: 'a', 1: 'b', 2: 'c'}}); {before}sys.stderr.write({words!r}); sys.stderr.flush(); os.abort()"
    )


@pytest.mark.parametrize("status", [0, 1, 2, 75, 130])
def test_a_child_s_own_status_and_words_go_up(status):
    said = run(f"print('out'); print('err', file=sys.stderr); sys.exit({status})")
    assert said == (status, "out\n", "err\n")


@pytest.mark.parametrize(
    ("words", "who"),
    [
        (UNHEALTHY.format("1\n"), r"process 1 \(b\) died"),
        (UNHEALTHY.format("1\n/job:jax_worker/replica:0/task:2\n"), r"process 1 \(b\) and process 2 \(c\) died"),
        (LEADER, r"process 0 \(a\) died"),
        ("ABORTED: something new", r"another process died \(ABORTED: something new\)"),
    ],
)
def test_where_another_process_died_one_line_names_it(words, who):
    status, _, stderr = run(dying(words, "print('before', file=sys.stderr); "))
    before, line = stderr.splitlines()
    assert (status, before) == (75, "before")
    assert re.fullmatch(f"ended: {who}; run the same command again in all processes", line)


def test_a_process_that_aborts_for_another_reason_has_its_own_words():
    status, _, stderr = run(f"sys.stderr.write({FATAL[:45]!r} + 'another reason'); sys.stderr.flush(); os.abort()")
    assert status == 128 + signal.SIGABRT
    assert "another reason\n"[:-1] in stderr
    assert stderr.endswith("ended: this process was killed by SIGABRT\n")


def test_what_only_looked_like_last_words_is_shown_all_the_same():
    status, _, stderr = run(
        f"sys.stderr.write({POLLED!r}); sys.stderr.flush(); time.sleep(1.5); os.kill(os.getpid(), 9)"
    )
    assert status == 128 + signal.SIGKILL
    assert stderr == POLLED + "ended: this process was killed by SIGKILL; the machine may have run out of memory\n"


def test_it_hands_sigterm_down():
    child = "signal.signal(15, lambda *_: os._exit(75)); print('ready', flush=True); time.sleep(60)"
    process = started(child)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 75
    process.communicate()


def test_a_child_dies_with_it():
    process = started("print(os.getpid(), flush=True); time.sleep(60)")
    child = int(process.stdout.readline())
    process.kill()
    process.communicate()  # returns when nobody holds its streams any more
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{child}/stat").read_text().split(") ")[1][0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the child lives")


def test_it_needs_nothing_that_takes_time_to_import():
    code = "import sys; from launch import parent; print({'jax', 'numpy', 'gin', 'frozen_jax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
