"""What a run keeps quiet, and what it never does."""

import os
import subprocess
import sys

import pytest

PROCESS = """
import sys
from frozen_jax.runs import environment
environment.prepare()
class Reported:
    def __init__(self, text):
        self.text = text
    def __del__(self):
        raise RuntimeError(self.text)
def unraisable(text):
    Reported(text)
def uncaught(text):
    try:
        raise RuntimeError(text)
    except RuntimeError:
        sys.excepthook(*sys.exc_info())
{report}("Event loop is closed")
{report}("something else")
"""


@pytest.mark.parametrize("report", ["unraisable", "uncaught"])  # TensorStore's threads come by both
def test_a_loop_closed_by_a_failed_save_is_not_reported_and_all_else_is(report):
    command = [sys.executable, "-c", PROCESS.format(report=report)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "RuntimeError: something else" in done.stderr
    assert "Event loop is closed" not in done.stderr


def test_libtpu_without_a_tpu_says_nothing():
    code = "import jax\nfrom frozen_jax.runs import environment\nenvironment.prepare()\nprint(len(jax.devices()))"
    settings = {name: value for name, value in os.environ.items() if name not in ("JAX_PLATFORMS", "XLA_FLAGS")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=settings)
    assert (done.stdout, done.stderr) == ("1\n", "")
