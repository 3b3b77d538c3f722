"""Modules that register tasks: imported, or named with what is wrong and where."""

import sys

import pytest
import seqio

from frozen_jax.errors import UserError
from frozen_jax.task_modules import load_task_module

REGISTER = """
import seqio
{}
seqio.TaskRegistry.add({!r}, source=None, preprocessors=[], output_features={{}})
"""


@pytest.fixture(autouse=True)
def _registries(monkeypatch):
    monkeypatch.setattr(seqio.TaskRegistry, "_REGISTRY", {})
    monkeypatch.setattr(seqio.MixtureRegistry, "_REGISTRY", {})


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes modules that can be imported until the end of the test."""
    monkeypatch.syspath_prepend(tmp_path)

    def written(files):
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(content)

    before = set(sys.modules)
    yield written
    for name in set(sys.modules) - before:
        del sys.modules[name]


def mistake(name):
    with pytest.raises(UserError) as caught:
        load_task_module(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_module_is_imported(write):
    write({"my_own_tasks.py": "READ = True\n"})
    load_task_module("my_own_tasks")
    assert sys.modules["my_own_tasks"].READ


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "ModuleNotFoundError: No module named 'broken'"),
        ("\n1 / 0", "ZeroDivisionError: division by zero (broken, line 2)"),
        ("def (", "SyntaxError: invalid syntax (broken.py, line 1)"),
        ("import sys\nsys.exit('bye\\nbye')", "SystemExit: bye bye (broken, line 2)"),
        ("def f():\n    {}['x']\n\nf()", "KeyError: 'x' (broken, line 4)"),
    ],
)
def test_a_broken_module_is_named_with_its_cause_and_line(write, content, cause):
    if content is not None:
        write({"broken.py": content})
    assert mistake("broken") == f"task module 'broken' does not import: {cause}"


def test_an_error_in_a_module_inside_is_placed_there(write):
    write({"outer/__init__.py": "from outer import inner\n", "outer/inner.py": "x = 1\nimport absent_library\n"})
    assert mistake("outer") == (
        "task module 'outer' does not import: ModuleNotFoundError: No module named 'absent_library' "
        "(outer.inner, line 2)"
    )


def test_a_task_that_is_registered_twice_is_named_with_both_places(write):
    name = "_".join(["my", "task"])  # quoted as a whole it would stand in this file as well
    write({"mine.py": REGISTER.format("", name), "yours.py": REGISTER.format("import mine", name)})
    assert mistake("yours") == (
        f"task module 'yours' does not import: it registers the task or mixture {name!r}, which is there already; "
        "its name stands in mine (yours, line 4)"
    )


def test_an_empty_mixture_is_named(write):
    write({"hollow.py": "import seqio\n\nseqio.MixtureRegistry.add('nothing', [], default_rate=1.0)\n"})
    assert "Mixture, nothing, does not contain any Tasks. (hollow, line 3)" in mistake("hollow")
