"""README, docs and CONTRIBUTING say what is so: links, names, the tree, tables, and every command.

Commands run in their dry form: `run.py` reads its flags and gin files and stops before its run mode, make prints what
it would do. Nothing is trained, downloaded or installed.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gin
import pytest

import launch.commands
import run
from frozen_jax import runs, wheels
from frozen_jax.runs import environment
from frozen_jax.runs.matrix import ALONE
from launch.kubernetes import JobSet
from launch.tpu_vm import TpuVms

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CODE = ("frozen_jax", "launch", "tasks")
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

# Paths in backticks that are not of this tree: what a run writes or reads, and the files of other people's formats.
ELSEWHERE = re.compile(
    r"(my_lab|runs|checkpoints|best|predictions|answers|tensorboard|encoder|state)/.*|(~/|\.venv).*|checkpoint_N"
    r"|report\.md|ledger\.(md|png|json)|data_sets\.md|templates\.csv|prompts/|metrics\.jsonl|config\.(gin|json)|model\.safetensors|(tokenizer|tokenizer_config|special_tokens_map)\.json|tokenizer\.ggml\.\w+|(spiece|sentencepiece|tokenizer)\.model"
)
SUFFIXES = r"\w\.(py|gin|md|toml|txt|json|jsonl|model|safetensors)"

NOT_COMMITTED = re.compile(r"\.(?!ci/).*|(venv|build|dist|runs)/.*|.*\b__pycache__/.*")
NOT_OURS_TO_SAY = re.compile(  # paths of one machine, addresses of package indexes
    r"(?<![\w.~])/(work|opt|root|home|mnt|Users|workspace)/\w|/tmp/w\b|file://\S"
    r"|pypi\.org|files\.pythonhosted|localhost:\d|(index-url|find-links)[ =]+\S*/"
)


@functools.cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@functools.cache
def source(*names: str) -> str:
    """The text of files, and of all Python and gin files in folders."""
    paths = [path for name in names for path in [ROOT / name, *sorted((ROOT / name).rglob("*"))] if path.is_file()]
    return "\n".join(text_of(path) for path in paths if path.suffix != ".pyc")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)


def lines(language: str) -> list[str]:
    """The lines of all blocks in a language, continuation lines joined, each once."""
    text = "".join(block for page in PAGES for block in blocks(page, language)).replace("\\\n", " ")
    return list(dict.fromkeys(" ".join(line.split()) for line in text.splitlines() if line.strip()))


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def spans(pattern: str) -> list[str]:
    """What stands in backticks and matches a pattern as a whole, each once."""
    found = {span for page in PAGES for span in re.findall(r"`([^`\n]+)`", prose(page))}
    chosen = sorted(span for span in found if re.fullmatch(pattern, span))
    assert chosen, f"nothing in backticks looks like {pattern}"
    return chosen


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def rows(page: Path) -> list[list[str]]:
    return [cells(line) for line in text_of(page).splitlines() if line.startswith("| ")]


# Links and the tree.

LINKS = [(page, target) for page in PAGES for target in re.findall(r"\]\(([^)\s]+)\)", prose(page))]


@pytest.mark.parametrize(("page", "target"), LINKS, ids=lambda value: getattr(value, "name", value))
def test_link_leads_somewhere(page, target):
    if "://" in target:
        assert target.startswith("https://")
    else:
        there = (page.parent / target).resolve()
        assert there.is_relative_to(ROOT)
        assert there.exists()


def tree() -> dict[str, str]:
    """Path → description, for every line of the README's tree."""
    found: dict[str, str] = {}
    parents: list[str] = []
    for line in blocks(README, "text")[0].splitlines():
        name, _, description = line.strip().partition("  ")
        parents[(len(line) - len(line.lstrip())) // 2 :] = [name]
        found["".join(parents)] = description.strip()
    return found


@pytest.mark.parametrize("path", tree())
def test_tree_names_what_is_there(path):
    assert (ROOT / path).exists()
    assert (ROOT / path).is_dir() == path.endswith("/")
    assert tree()[path], "no description"


def test_tree_leaves_nothing_out():
    modules = [ROOT / "run.py", *(file for name in CODE for file in (ROOT / name).rglob("*.py"))]
    there = {file for file in [*modules, *PAGES] if file.name != "__init__.py"} - {README}
    there |= {file.parent for file in [*modules, *(ROOT / "gin").rglob("*.gin"), *PAGES]} - {ROOT}
    assert {str(path.relative_to(ROOT)) for path in there} - {path.rstrip("/") for path in tree()} == set()


# Names in backticks.


@pytest.mark.parametrize("span", spans(rf"[\w./~-]+/|[\w./~-]*{SUFFIXES}"))
def test_path_exists(span):
    places = [ROOT / span, ROOT / "frozen_jax" / span]
    if "/" not in span:
        places += [ROOT / path / span for path in tree() if path.endswith("/")]
    assert ELSEWHERE.fullmatch(span) or any(place.exists() for place in places)


@pytest.mark.parametrize("span", spans(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+"))
def test_macro_or_variable_is_known(span):
    assert span.startswith("PIP_") or re.search(rf"\b{span}\b", source("gin", *CODE, "Makefile"))


@pytest.mark.parametrize("span", spans(r"([A-Z][a-z]+){2,}|T5\w+|[a-z]+(_[a-z]+)+|\w+(\.\w+)*\.[a-z]\w*"))
def test_identifier_is_known(span):
    if re.search(SUFFIXES, span) or ELSEWHERE.fullmatch(span):
        return
    known = source(*CODE, "pyproject.toml")
    assert all(re.search(rf"(\b|_){name}\b", known) for name in span.split("."))


@pytest.mark.parametrize("span", spans(r"--\S+"))
def test_flag_is_one_of_run_py(span, dry_run, capsys):
    if span.startswith("--gin."):
        name = span.removeprefix("--gin.")
        assert name == "NAME=value" or dry_run([QUICKSTART, span if "=" in span else f"{span}=x"]) == "train"
    else:
        with pytest.raises(SystemExit):
            run.main(["--help"])
        assert span.partition("=")[0] in capsys.readouterr().out.split()


# Commands.

QUICKSTART = "--gin_file=gin/runs/quickstart.gin"


@pytest.fixture
def dry_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Calls run.py up to its run mode, and returns which one that is, or its exit status."""
    chosen: list[str] = []
    for mode in list(runs.MODES):
        monkeypatch.setitem(runs.MODES, mode, functools.partial(chosen.append, mode))
    monkeypatch.setattr(environment, "prepare", lambda: None)
    monkeypatch.chdir(ROOT)

    def call(arguments: list[str]) -> str | int:
        gin.clear_config()
        chosen.clear()
        return run.main(arguments) or chosen[0]

    yield call
    gin.clear_config()


def dry_make(*arguments: str) -> str:
    """What make would do in a tree without a virtual environment."""
    ours = ("MAKE", "MFLAGS", "PYTHON", "VENV", "WORKERS", "TESTS")  # pytest itself may run under make
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    command = ["make", "--dry-run", "VENV=.venv-that-is-not", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.replace(".venv-that-is-not", ".venv")


RUNS = [line for line in lines("bash") if " run.py" in line]
LAUNCHES = [line for line in lines("bash") if line.startswith("python -m launch.")]
OTHERS = [line for line in lines("bash") if line not in RUNS + LAUNCHES]


def test_every_run_mode_has_its_command():
    modes = {mode for mode in runs.MODES if any(f"--run_mode={mode}" in line for line in RUNS)}
    assert modes | {"train", "dry_run"} == set(runs.MODES)
    assert any("--dry_run" in line for line in RUNS)


@pytest.mark.parametrize("command", RUNS)
def test_run_command(command, dry_run, capsys):
    arguments = shlex.split(command.partition(" run.py ")[2])
    mode = re.search(r"--run_mode=(\w+)", command)
    wanted = "dry_run" if "--dry_run" in arguments else mode[1] if mode else "train"
    assert dry_run(arguments) == wanted, capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["--gin_file=no.gin", "--gin.NO_SUCH=1", "--gin.train.no_such=1", "--no_such"])
def test_a_wrong_run_command_is_noticed(wrong, dry_run):
    assert dry_run([QUICKSTART, wrong]) == 2


@pytest.mark.parametrize("command", LAUNCHES)
def test_launch_command(command, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(launch.commands, "commit_of", lambda config: "a" * 40)  # the tree may have changes
    module, *arguments = shlex.split(command.removeprefix("python -m launch."))
    launcher = {"tpu_vm": TpuVms, "kubernetes": JobSet}[module]
    assert launch.commands.main(launcher, None, [*arguments, "--dry_run"]) == 0
    assert "$ " in capsys.readouterr().out


@pytest.mark.parametrize("command", [*OTHERS, *spans(r"make .*")])
def test_other_command(command):
    program, *arguments = shlex.split(command)
    if program == "make":
        assert "Nothing to be done" not in dry_make(*arguments)
    elif "--requirement" in arguments:
        assert (ROOT / arguments[-1]).is_file()
        assert f"--requirement {arguments[-1]}" in dry_make("quickstart", "test")
    else:
        assert command in dry_make("quickstart", "test")


def test_what_make_runs_stands_in_the_readme():
    made = [line for line in dry_make("quickstart", "test").splitlines() if line.startswith(".venv/bin/python ")]
    assert [line for line in made if " pip " not in line and line not in lines("bash")] == []
    assert len(made) > 4


@pytest.mark.parametrize("line", lines("json"))
def test_json_line_is_what_infer_reads(line):
    assert isinstance(json.loads(line)["inputs"], str)


# Python.


@pytest.mark.parametrize("block", [block for page in PAGES for block in blocks(page, "python")])
def test_python_imports_resolve_and_calls_fit(block):
    module, known = ast.parse(block), {}
    for node in module.body:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(("frozen_jax", "tasks")):
            known |= {alias.name: getattr(importlib.import_module(node.module), alias.name) for alias in node.names}
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):  # lm = load_lm(...): lm is a T5
            made = known.get(ast.unparse(node.value.func))
            known[ast.unparse(node.targets[0])] = made if inspect.isclass(made) else made and returned(made)
    assert sum(binds(node, known) for node in ast.walk(module) if isinstance(node, ast.Call))


def returned(function: Any) -> type:
    return inspect.signature(function, eval_str=True).return_annotation


def binds(call: ast.Call, known: dict[str, Any]) -> bool:
    """Whether a call is of something of ours; raises TypeError if that does not take its arguments."""
    arguments, keywords = call.args, {str(keyword.arg): keyword.value for keyword in call.keywords}
    function, _, method = ast.unparse(call.func).rpartition(".")
    if function == "functools":
        inspect.signature(known[ast.unparse(arguments[0])]).bind_partial(*arguments[1:], **keywords)
    elif known.get(function):
        inspect.signature(getattr(known[function], method)).bind(known[function], *arguments, **keywords)
    elif inspect.isclass(known.get(method)):  # the signature of an NNX class itself takes anything
        inspect.signature(known[method].__init__).bind(None, *arguments, **keywords)
    elif method in known:
        inspect.signature(known[method]).bind(*arguments, **keywords)
    else:
        return False
    return True


# What else the README says.


def test_table_of_archives_is_that_of_the_code():
    pinned = [[name, wheel.version, wheel.licence] for name, wheel in wheels.WHEELS.items()]
    assert sorted(row[:3] for row in rows(README) if row[0] in wheels.WHEELS) == sorted(pinned)


@pytest.mark.parametrize("name", wheels.WHEELS)
def test_archives_that_nothing_reads_are_marked(name):
    users = source("tasks", "frozen_jax").replace(text_of(Path(wheels.__file__)), "")
    (row,) = [row for row in rows(README) if row[0] == name]
    assert (f'"{name}"' in users) == (not row[3].startswith("nothing yet"))


def test_methods_are_here():
    files = {file.stem for file in (ROOT / "frozen_jax" / "methods").glob("*.py")} - {"__init__", "base"}
    status = [row[3] for row in rows(README) if row[-1].startswith("[here](frozen_jax/methods") and len(row) == 4]
    assert sorted(status) == sorted(f"[here](frozen_jax/methods/{name}.py)" for name in files)


def test_quickstart_table_is_one_that_a_run_prints():
    (shown,) = re.findall(r"<!-- quickstart begin -->(.*)<!-- quickstart end -->", text_of(README), re.DOTALL)
    header, _, *body = (cells(line) for line in shown.splitlines() if line.startswith("|"))
    (mixture,) = re.findall(r'"four_classifications",\s*\[(.*)\]', source("tasks/mixtures.py"))
    mixed = re.findall(r"(\w+)\.TASK", mixture)
    names = [re.findall(r'TaskRegistry\.add\(\s*"(\w+)"', source(f"tasks/{name}.py"))[0] for name in mixed]
    (modules,) = re.findall(r"modules = \{(.*)\}", source("gin/runs/quickstart_comparison.gin"))
    assert header == ["", *(f"{name}, accuracy" for name in sorted(names))]
    assert [row[0] for row in body] == [ALONE, *re.findall(r'"([^"]+)":', modules), "one constant answer", "examples"]


# What no file that is committed may hold.


def committed_files() -> Iterator[Path]:
    for folder, folders, files in os.walk(ROOT):
        here = Path(folder).relative_to(ROOT)
        folders[:] = [name for name in folders if not NOT_COMMITTED.fullmatch(f"{here / name}/")]
        yield from (Path(folder, name) for name in files if Path(folder, name) != Path(__file__))


def test_no_machine_path_or_index_address():
    found = {}
    for file in committed_files():
        text = file.read_bytes().decode("utf-8", errors="ignore")
        found |= {str(file.relative_to(ROOT)): hit[0] for hit in NOT_OURS_TO_SAY.finditer(text)}
    assert found == {}


@pytest.mark.parametrize("path", ["/work/main", "/tmp/w/a", "--find-links /a", "https://pypi.org/simple", "file:///a"])
def test_machine_path_is_recognised(path):
    assert NOT_OURS_TO_SAY.search(path)
