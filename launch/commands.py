"""Running other programs, or printing what would be run; and what both launchers do alike."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from launch import config as configs
from launch.config import Config
from launch.errors import CommandError, LaunchError

ROOT = Path(__file__).parents[1]

_INSTALL = {
    "gcloud": "https://cloud.google.com/sdk/docs/install",
    "kubectl": "https://kubernetes.io/docs/tasks/tools/",
    "docker": "https://docs.docker.com/engine/install/",
}


class Shell:
    """Prints every command, and runs it unless it is a dry run.

    Attributes:
        dry_run: whether nothing is run.
    """

    def __init__(self, dry_run: bool) -> None:
        self.dry_run = dry_run

    def run(self, *command: str, check: bool = True, stdin: Path | None = None, stdout: Path | None = None) -> None:
        """Runs a command in the terminal.

        Args:
            *command: program and arguments.
            check: whether its failure is ours.
            stdin: a file that it reads.
            stdout: a file that it writes.

        Raises:
            CommandError: if it fails.
        """
        redirections = [f"{sign} {file}" for sign, file in (("<", stdin), (">", stdout)) if file]
        self._show(" ".join([shlex.join(command), *redirections]))
        if self.dry_run:
            return
        _require(command[0])
        if stdout:
            stdout.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            read = stack.enter_context(stdin.open("rb")) if stdin else None
            written = stack.enter_context(stdout.open("wb")) if stdout else None
            status = subprocess.run(command, stdin=read, stdout=written, check=False).returncode
        if status and check:
            raise CommandError(command[0], status)

    def output(self, *command: str, pretend: str = "") -> str:
        """Runs a command and returns what it prints, without white space around it.

        Args:
            *command: program and arguments.
            pretend: what a dry run takes for its output.

        Raises:
            CommandError: if it fails.
        """
        self._show(shlex.join(command))
        if self.dry_run:
            return pretend
        _require(command[0])
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CommandError(command[0], done.returncode, done.stderr)
        return done.stdout.strip()

    def wait(self, seconds: int, why: str) -> None:
        """Says what is waited for, and waits."""
        print(f"{why}; waiting {seconds} s", flush=True)
        if not self.dry_run:
            time.sleep(seconds)

    def _show(self, line: str) -> None:
        print(f"$ {line}", flush=True)


def _require(program: str) -> None:
    if not shutil.which(program):
        raise LaunchError(f"{program} is not installed, or not on PATH; {_INSTALL.get(program, 'install it')}")


def commit_of(config: Config) -> str:
    """Returns the full hash of the commit to run.

    Raises:
        LaunchError: if it is not there, lacks a gin file, or is HEAD while the tree has changes.
    """
    commit = _git("rev-parse", "--verify", "--quiet", f"{config.commit}^{{commit}}")
    if not commit:
        raise LaunchError(
            f"commit {config.commit!r} is not in {ROOT}; git log shows those that are, git fetch gets more"
        )
    # HEAD is what stands in the editor, or so one thinks. New files do not count: the config itself may be one.
    if commit == _git("rev-parse", "HEAD") and (changes := _git("status", "--porcelain", "--untracked-files=no")):
        raise LaunchError(f"changes are in no commit, {changes.split()[1]} for one; commit or stash them")
    for file in config.gin_files:
        if not _git("ls-tree", "--name-only", commit, "--", file):
            raise LaunchError(f"gin_files names {file}, which is not in commit {commit[:12]}")
    return commit


def _git(*arguments: str) -> str:
    """What git prints about this tree: asking changes nothing, so a dry run does it as well."""
    _require("git")
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def archive(shell: Shell, config: Config, commit: str) -> Path:
    """Packs the code as it is at a commit, and returns the archive."""
    path = config.results / f"frozen_jax-{commit}.tar.gz"
    if not shell.dry_run:
        path.parent.mkdir(parents=True, exist_ok=True)
    shell.run("git", "-C", str(ROOT), "archive", "--format=tar.gz", f"--output={path.absolute()}", commit)
    return path


def collect_results(shell: Shell, config: Config) -> None:
    """Copies MODEL_DIR to the local folder of results, without checkpoints: those are read where they are."""
    if not shell.dry_run:
        config.results.mkdir(parents=True, exist_ok=True)
    # https://cloud.google.com/sdk/gcloud/reference/storage/rsync
    exclude = "--exclude=^(checkpoints|best)/.*"
    shell.run("gcloud", "storage", "rsync", "--recursive", exclude, config.model_dir, str(config.results))
    print(f"results are in {config.results}, checkpoints in {config.model_dir}")


class Launcher(Protocol):
    """Somewhere to run, made of a config and a shell; each action is the name of a method without arguments."""

    PLACE: ClassVar[str]
    ACTIONS: ClassVar[tuple[str, ...]]

    def __init__(self, config: Config, shell: Shell) -> None: ...


def main(launcher: type[Launcher], description: str | None, arguments: Sequence[str]) -> int:
    """Does what the command line asks of a launcher and returns the exit status: 0, 2 for an error, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog=f"python -m launch.{launcher.PLACE}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", help="a TOML file like launch/example.toml")
    parser.add_argument("action", nargs="?", choices=launcher.ACTIONS, default="run")
    parser.add_argument("--dry_run", action="store_true", help="print every command, and do nothing")
    flags = parser.parse_args(arguments)
    try:
        config = configs.load(flags.config, launcher.PLACE)
        action: Any = getattr(launcher(config, Shell(flags.dry_run)), flags.action)
        action()
    except LaunchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nWhat was started goes on; the same command follows it again.", file=sys.stderr)
        return 130
    return 0
