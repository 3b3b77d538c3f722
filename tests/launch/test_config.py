"""The launchers' one config: what it makes of a run, and one line for every mistake in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launch import config as configs
from launch.errors import LaunchError
from launch.tpu_vm import TpuVms

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("place", ["tpu_vm", "kubernetes"])
def test_the_example_is_read_and_its_gin_files_are_there(place):
    config = configs.load(str(ROOT / "launch" / "example.toml"), place)
    assert getattr(config, place)
    assert all((ROOT / file).is_file() for file in config.gin_files)
    assert config.arguments()[-1] == "--gin.MODEL_DIR=gs://my-bucket/runs/choices-xxl"


@pytest.mark.parametrize(
    ("table", "field", "value", "message"),
    [
        ("", "bukket", "x", "unknown field bukket; did you mean bucket?"),
        ("tpu_vm", "zones", "x", "unknown field tpu_vm.zones; did you mean zone?"),
        ("", "bucket", None, "the field bucket is missing"),
        ("kubernetes", "hosts", None, "the field kubernetes.hosts is missing"),
        ("", "retries", "three", "retries is 'three'; it should be a whole number"),
        ("", "retries", True, "retries is True; it should be a whole number"),
        ("", "retries", -1, "retries is -1; it should not be negative"),
        ("", "spot", 1, "spot is 1; it should be true or false"),
        ("", "gin_files", "a.gin", "gin_files is 'a.gin'; it should be a list of texts"),
        ("", "bindings", [1], "bindings is 1; it should be a list of texts"),
        ("", "name", "A Run", "name is 'A Run'; write at most 40"),
        ("", "bucket", "a-bucket", "begins with gs://"),
        ("", "bindings", ["MODEL_DIR = 'x'"], "bindings set MODEL_DIR, which is gs://a-bucket/runs/a-run"),
        ("kubernetes", "topology", "big", "kubernetes.topology is 'big'; write it like 4x4x4"),
        ("kubernetes", "hosts", 3, "topology 2x2x2 has 8 chips, but hosts x chips_per_host is 3 x 4"),
        ("", "tpu_vm", None, "there is no [tpu_vm]; launch/example.toml has one"),
        ("", "commit", "no-such", "commit 'no-such' is not in"),
        ("", "gin_files", ["base.gin", "new.gin"], "gin_files names new.gin, which is not in commit"),
    ],
)
def test_a_mistake_is_one_line(world, capsys, table, field, value, message):
    values = world.config[table] if table else world.config
    values[field] = value
    if value is None:
        del values[field]
    assert world.launch(TpuVms) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert world.calls() == []


def test_a_file_that_is_none_is_one_line(world, capsys):
    (world.folder / "bad.toml").write_text("name =")
    for path, message in {"no.toml": "No such file", "bad.toml": "no TOML"}.items():
        with pytest.raises(LaunchError, match=rf"^{path}: .*{message}"):
            configs.load(path, "tpu_vm")


def test_head_of_a_tree_with_changes_is_refused_and_a_named_older_commit_is_not(world, commit, capsys):
    tree = world.folder / "tree"
    (tree / "base.gin").write_text("a change")
    assert world.launch(TpuVms, "--dry_run") == 2
    assert "changes are in no commit, base.gin for one" in capsys.readouterr().err
    subprocess.run(["git", "-C", tree, "-c", "user.name=a", "-c", "user.email=a", "commit", "-qam", "b"], check=True)
    (tree / "base.gin").write_text("another change")
    world.config["commit"] = commit[:10]
    assert world.launch(TpuVms, "--dry_run") == 0
    assert f"frozen_jax-{commit}.tar.gz" in capsys.readouterr().out


def test_a_program_that_is_not_installed_is_one_line(world, capsys):
    (world.folder / "programs" / "gcloud").unlink()
    assert world.launch(TpuVms, "--dry_run") == 0
    assert world.launch(TpuVms) == 2
    assert "gcloud is not installed, or not on PATH; https://" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["tpu_vm", "kubernetes"])
def test_the_launchers_need_nothing_but_python(module):
    command = [sys.executable, "-S", "-m", f"launch.{module}", "--help"]  # -S: no installed packages
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--dry_run" in done.stdout
