"""Stand-in gcloud, kubectl and docker: they record their arguments, and answer what a test wants them to."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launch import commands

# Few imports and none that are slow: a test starts it up to twenty times.
STAND_IN = """#!{python} -SE
import json, os, sys

world = {world!r}
arguments = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
with open(world + "/calls.jsonl", "a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
asks = ["status"] if "agent-worker-number" in " ".join(arguments) else []
with open(world + "/answers.json") as file:
    answers = json.load(file)
for words, left in answers:
    if all(word in arguments + asks for word in words.split()):
        status, out, error = left.pop(0) if len(left) > 1 else left[0]
        with open(world + "/answers.json", "w") as file:
            json.dump(answers, file)
        print(out)
        print(error, file=sys.stderr)
        sys.exit(status)

# A test that has folders of workers wants commands run and files copied there.
chosen = next((argument.partition("=")[2] for argument in arguments if argument.startswith("--worker=")), None)
workers = sorted(world + "/" + name for name in os.listdir(world) if name.startswith("worker_"))
for worker in workers if chosen == "all" else workers[int(chosen) :][:1] if chosen else []:
    import subprocess

    if "ssh" in arguments:
        environment = dict(os.environ, HOME=worker, PATH=worker + ":" + os.environ["PATH"])
        command = arguments[-1].partition("=")[2]
        subprocess.run(["bash", "-c", command], cwd=worker, env=environment, check=True)
    else:
        source, target = arguments[5:7]
        copied = [source, worker] if target.endswith(":") else [worker + "/" + source.partition(":")[2], target]
        subprocess.run(["cp", *copied], check=True)
"""

# All that is on PATH beside the stand-ins: a real gcloud must never hear of a test.
TOOLS = ("bash", "cat", "chmod", "cp", "git", "gzip", "mkdir", "nohup", "rm", "setsid", "sh", "tail", "tar")


class World:
    """A folder with programs that stand in for the cloud's, a git repository, and a config."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.config = {
            "name": "a-run",
            "bucket": "gs://a-bucket/runs",
            "gin_files": ["base.gin", "task.gin"],
            "bindings": ["TRAIN_STEPS=10", 'NAME="it\'s $HOME"'],
            "retries": 2,
            "wait_seconds": 0,
            "tpu_vm": {
                "project": "a-project",
                "zone": "a-zone",
                "accelerator_type": "v5p-16",
                "runtime_version": "v2-alpha-tpuv5",
            },
            "kubernetes": {
                "image": "registry/frozen_jax",
                "accelerator": "tpu-v5p-slice",
                "topology": "2x2x2",
                "hosts": 2,
                "chips_per_host": 4,
            },
        }
        self.answer({})

    def answer(self, answers: dict[str, list]) -> None:
        """Words that all occur in a command → what such commands print one after the other: stdout, or all three."""
        full = [[k, [a if isinstance(a, list) else [0, a, ""] for a in v]] for k, v in answers.items()]
        (self.folder / "answers.json").write_text(json.dumps(full))

    def calls(self) -> list[list[str]]:
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def verbs(self) -> list[str]:
        """What was done, a word or two a command."""
        known = ("describe", "create", "delete", "scp", "rsync", "apply", "logs", "get", "build", "push")
        ssh = {"run.py": "start", "uv": "install", "tail": "follow", "agent-worker-number": "status"}
        said = []
        for call in self.calls():
            text = " ".join(call)
            verb = next((verb for verb in known if verb in call), None)
            said.append(verb or next(verb for word, verb in ssh.items() if word in text))
        return said

    def write(self) -> str:
        """Writes the config as TOML and returns its path."""

        def table(values: dict) -> str:
            return "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items() if not isinstance(v, dict))

        tables = {name: value for name, value in self.config.items() if isinstance(value, dict)}
        text = table(self.config) + "".join(f"[{name}]\n{table(value)}" for name, value in tables.items())
        path = self.folder / "config.toml"
        path.write_text(text)
        return str(path)

    def launch(self, launcher: type, *arguments: str) -> int:
        return commands.main(launcher, "a description", [self.write(), *arguments])


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="session")
def one_commit(tmp_path_factory) -> Path:
    """A git repository with a commit, to be copied."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("base.gin", "task.gin", "requirements.txt", "run.py"):
        (tree / name).write_text("")
    git(tree, "init", "--quiet")
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--message=a commit")
    return tree


@pytest.fixture
def world(tmp_path, monkeypatch, one_commit) -> World:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("gcloud", "kubectl", "docker"):
        (programs / name).write_text(STAND_IN.format(python=sys.executable, world=str(tmp_path)))
        (programs / name).chmod(0o755)
    for name in TOOLS:
        found = shutil.which(name)
        assert found, f"{name} is not on PATH"
        (programs / name).symlink_to(found)
    shutil.copytree(one_commit, tmp_path / "tree")
    monkeypatch.setattr(commands, "ROOT", tmp_path / "tree")
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.chdir(tmp_path)
    return World(tmp_path)


@pytest.fixture
def commit(world) -> str:
    return git(world.folder / "tree", "rev-parse", "HEAD")
