"""The shape of the house: imports run one way, files stay small, everything public says what it is."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = ("frozen_jax", "launch", "tasks")
FILES = [ROOT / "run.py", *(file for name in CODE for file in sorted((ROOT / name).rglob("*.py")))]
LONGEST_FILE = 400  # lines
PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "torch"}

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in FILES}


def imported_names(file: Path) -> Iterator[str]:
    """Everything a file imports, functions' own imports too; `from a import b` is both a and a.b."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import; write the whole name"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache
def imports(module: str) -> frozenset[str]:
    """The modules of this project that a module imports by name: the innermost, not the packages around them."""
    found = {name for name in imported_names(MODULES[module]) if name in MODULES and name != module}
    return frozenset(name for name in found if not any(other.startswith(f"{name}.") for other in found))


@functools.cache
def reaches(module: str) -> frozenset[str]:
    """Every module that is imported when this one is."""
    found: set[str] = set()
    left = [module]
    while left:
        left += (new := imports(left.pop()) - found)
        found |= new
    return frozenset(found)


def within(package: str) -> list[str]:
    """A package and its modules, or a module alone."""
    found = [name for name in MODULES if name == package or name.startswith(f"{package}.")]
    assert found, f"there is no {package}"
    return found


def importers(*packages: str) -> set[str]:
    """The files that import one of these packages of other people."""
    return {
        module
        for module, file in MODULES.items()
        if any(name.split(".")[0] in packages for name in imported_names(file))
    }


@pytest.mark.parametrize("module", MODULES)
def test_no_import_cycle(module):
    assert module not in reaches(module)


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("frozen_jax.errors", "frozen_jax"),
        ("frozen_jax.types", "frozen_jax"),
        ("frozen_jax.lm", "frozen_jax.methods"),
        ("frozen_jax.lm", "frozen_jax.freezing"),
        ("frozen_jax.lm", "frozen_jax.checkpoints"),
        ("frozen_jax.lm", "frozen_jax.training"),
        ("frozen_jax.lm", "frozen_jax.evaluation"),
        ("frozen_jax.lm", "frozen_jax.data"),
        ("frozen_jax.methods", "frozen_jax.training"),
        ("frozen_jax.methods", "frozen_jax.evaluation"),
        ("frozen_jax.methods", "frozen_jax.data"),
        ("frozen_jax.training", "frozen_jax.methods"),
        ("frozen_jax.evaluation", "frozen_jax.methods"),
        ("frozen_jax.evaluation", "frozen_jax.data"),
        ("frozen_jax.checkpoints", "frozen_jax.methods"),
        ("frozen_jax.data", "frozen_jax.lm"),
        ("frozen_jax", "tasks"),
        ("frozen_jax", "run"),
        ("frozen_jax", "launch"),
    ],
)
def test_imports_run_one_way(lower, higher):
    others = set(within(higher)) - {lower}
    assert not {module: wrong for module in within(lower) if (wrong := reaches(module) & others)}


def test_only_run_py_knows_the_run_modes():
    runs = set(within("frozen_jax.runs"))
    assert {module for module in MODULES if imports(module) & runs} - runs == {"run"}


def test_methods_do_not_import_each_other():
    methods = set(within("frozen_jax.methods")) - {"frozen_jax.methods", "frozen_jax.methods.base"}
    assert len(methods) > 1
    assert not {method: wrong for method in methods if (wrong := reaches(method) & methods)}


def test_the_trainer_names_no_method():
    methods = set(within("frozen_jax.methods")) - {"frozen_jax.methods", "frozen_jax.methods.base"}
    assert not {module: wrong for module in within("frozen_jax.runs") if (wrong := imports(module) & methods)}


def test_seqio_and_tensorflow_stay_at_the_edge():
    heavy = importers("seqio", "tensorflow", "tensorflow_datasets", "clu")
    assert {module for module in heavy if module.split(".")[0] != "tasks"} == {
        "frozen_jax.data",
        "frozen_jax.lm_vocabulary",
    }


def test_the_launchers_run_without_what_pip_installs():
    found = {name.split(".")[0] for module in within("launch") for name in imported_names(MODULES[module])}
    assert found - {"launch"} <= sys.stdlib_module_names


def test_data_is_only_imported_when_its_examples_are_asked_for():
    def at_the_top(file: Path) -> set[str]:
        body = ast.Module([node for node in ast.parse(file.read_text()).body if not is_definition(node)], [])
        names = [node for node in ast.walk(body) if isinstance(node, ast.ImportFrom)]
        return {f"{node.module}.{alias.name}" for node in names for alias in node.names} | {n.module for n in names}

    library = [file for module, file in MODULES.items() if module.split(".")[0] != "tasks"]
    edge = {"frozen_jax.data", "frozen_jax.lm_vocabulary"}
    assert {module_name(file) for file in library if edge & at_the_top(file)} <= {"frozen_jax.data"}


def test_torch_and_pickles_are_nowhere():
    assert importers(*PICKLES) == set()


@pytest.mark.parametrize("word", ["allow_pickle=True", "pickle.load", "torch.load"])
def test_nothing_unpickles_by_another_name(word):
    assert not [file for file in FILES if word in file.read_text()]


@pytest.mark.parametrize("module", MODULES)
def test_file_is_small(module):
    assert len(MODULES[module].read_text().splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_has_a_docstring(module):
    tree = ast.parse(MODULES[module].read_text())
    assert ast.get_docstring(tree), "the module"
    assert not [node.name for node in public_definitions(tree) if not ast.get_docstring(node)]


def public_definitions(node: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    """Public functions and classes, and the public methods of those; what is private may speak for itself."""
    for child in node.body:
        if is_definition(child) and (not child.name.startswith("_") or child.name == "__call__"):
            yield child
            if isinstance(child, ast.ClassDef):
                yield from public_definitions(child)


def is_definition(node: ast.AST) -> bool:
    return isinstance(node, Definition)
