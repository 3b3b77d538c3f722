"""Runs frozen_jax on a slice of Cloud TPU VMs, with gcloud.

    python -m launch.tpu_vm my.toml --dry_run    print every command, do nothing
    python -m launch.tpu_vm my.toml              create or reuse, copy, install, start, follow, retry, collect
    python -m launch.tpu_vm my.toml collect      copy logs and results once more
    python -m launch.tpu_vm my.toml delete       give the slice back

The job runs in the background of every VM, so a connection that breaks stops nothing: the same command again follows
what runs. A slice that was preempted is deleted and created again, and the job goes on from its last checkpoint.
"""

from __future__ import annotations

import re
import shlex
import sys
from typing import ClassVar

from launch import commands
from launch.commands import Shell
from launch.config import MISTAKE, RETRY, Config
from launch.errors import CommandError, LaunchError

# States: https://cloud.google.com/tpu/docs/reference/rest/v2/projects.locations.nodes#State and, while a queued
# resource has no node yet, .../projects.locations.queuedResources#State. In all others the slice is on its way.
READY = "READY"
MISSING = "MISSING"  # ours: gcloud knows no such node
GONE = {"PREEMPTED", "TERMINATED", "STOPPED", "FAILED", "SUSPENDED"}

# uv brings the Python that frozen_jax needs: the VMs' Ubuntu 22.04 has 3.10.
_INSTALL = """set -e
mkdir -p {code}
tar --extract --gzip --file={archive} --directory={code}
cd {code}
test -x ~/.local/bin/uv || curl --location --silent --show-error --fail https://astral.sh/uv/install.sh | sh
~/.local/bin/uv venv --quiet --allow-existing --python=3.11 .venv
~/.local/bin/uv pip install --quiet --python=.venv/bin/python --requirement=requirements.txt 'jax[tpu]'"""

# setsid and nohup: the job outlives the connection. Its exit status is a file, the only thing that outlives the job.
_START = """set -e
cd {code}
rm -f ../{name}.exit
setsid nohup bash -c {job} > ../{name}.log 2>&1 < /dev/null &
echo $! > ../{name}.pid"""

_FOLLOW = "tail --follow --lines=100 --pid=$(cat frozen_jax/{name}.pid) frozen_jax/{name}.log"

# The number of a worker is where JAX finds it. `lost`: the VM was restarted, or the job killed with its shell.
_STATUS = """job=frozen_jax/{name}
attributes=http://metadata.google.internal/computeMetadata/v1/instance/attributes
number=$(curl --silent --header 'Metadata-Flavor: Google' $attributes/agent-worker-number)
if test ! -e $job.pid; then status=absent
elif test -e $job.exit; then status=$(cat $job.exit)
elif kill -0 $(cat $job.pid) 2> /dev/null; then status=running
else status=lost
fi
echo worker $number: $status"""


class TpuVms:
    """A slice of Cloud TPU VMs and the job on it.

    Flags are those of https://cloud.google.com/sdk/gcloud/reference/compute/tpus/tpu-vm (create, describe, scp, ssh,
    delete) and of .../tpus/queued-resources (create, describe, delete).
    """

    PLACE: ClassVar[str] = "tpu_vm"
    ACTIONS: ClassVar[tuple[str, ...]] = ("run", "collect", "delete")

    def __init__(self, config: Config, shell: Shell) -> None:
        assert config.tpu_vm
        self.config = config
        self.where = config.tpu_vm
        self.shell = shell
        self._created = False  # in this run

    def run(self) -> None:
        """Trains to the end, however often the slice is taken away, `retries` times at most."""
        commit, retries = commands.commit_of(self.config), self.config.retries
        done = 0
        while why := self._attempt(commit):
            if done == retries:
                raise LaunchError(f"given up after {retries} retries: {why}")
            done += 1
            self.shell.wait(self.config.wait_seconds, f"{why}; retry {done} of {retries}")
        self.collect()
        print(f"{self.config.name} is still there and paid for: python -m launch.tpu_vm CONFIG delete")

    def collect(self) -> None:
        """Copies the log of worker 0 and what is in MODEL_DIR."""
        self._fetch_log(0)
        commands.collect_results(self.shell, self.config)

    def delete(self) -> None:
        """Deletes the slice; what is in the bucket stays."""
        if self.where.queued:  # --force: its node as well
            self.shell.output(*self._gcloud("queued-resources", "delete", "--force", "--quiet"))
        else:
            self.shell.output(*self._gcloud("tpu-vm", "delete", "--quiet"))

    def _attempt(self, commit: str) -> str | None:
        """Returns why to try again, or None when the job is done.

        Raises:
            LaunchError: if trying again would not help.
        """
        try:
            if not self._make_ready():
                return f"the node is {self._state()}"
            if self._created or not self._is_running():
                self._start(commit)
        except CommandError as error:
            if re.search(r"capacity|RESOURCE_EXHAUSTED", error.text):
                return str(error)
            if (state := self._state()) == READY:
                raise
            return f"the node is {state}"
        try:
            statuses = self._follow()
        except CommandError as error:
            return f"cannot reach every worker ({error})"
        return self._verdict(statuses)

    # The slice.

    def _make_ready(self) -> bool:
        """Reuses, awaits or creates the slice, once; returns whether it is there."""
        self._created = False
        while (state := self._state()) != READY:
            if state not in GONE | {MISSING}:
                self.shell.wait(self.config.wait_seconds, f"{self.config.name} is {state}")
            elif self._created:
                return False
            else:
                if state in GONE:
                    self.delete()
                self._create()
        return True

    def _state(self) -> str:
        """The state of the node, or of the request for it.

        Raises:
            LaunchError: if a node of that name has another type.
        """
        wanted = self.where.accelerator_type
        described = self._describe("tpu-vm", "state,acceleratorType", f"{READY}\t{wanted}" if self._created else "")
        state, _, kind = described.partition("\t")
        if kind and kind != wanted:
            raise LaunchError(
                f"tpu_vm.accelerator_type is {wanted}, but the node {self.config.name} that is there is a {kind}; "
                "delete that one, or take another name"
            )
        if not state and self.where.queued:
            state = self._describe("queued-resources", "state.state", "")
        return state or MISSING

    def _describe(self, group: str, fields: str, pretend: str) -> str:
        """Fields of the node or of the request, separated by tabs; nothing if it is not there."""
        try:
            return self.shell.output(*self._gcloud(group, "describe", f"--format=value({fields})"), pretend=pretend)
        except CommandError as error:
            if "NOT_FOUND" in error.text:
                return ""
            raise

    def _create(self) -> None:
        """Asks for the slice: tpu-vm returns when it is there or cannot be had, queued-resources at once."""
        kind, version = f"--accelerator-type={self.where.accelerator_type}", self.where.runtime_version
        spot = ["--spot"] if self.config.spot else []
        if self.where.queued:
            node = f"--node-id={self.config.name}"
            request = self._gcloud("queued-resources", "create", node, kind, f"--runtime-version={version}", *spot)
        else:
            request = self._gcloud("tpu-vm", "create", kind, f"--version={version}", *spot)
        self.shell.output(*request)
        self._created = True

    # The job.

    def _start(self, commit: str) -> None:
        archive = commands.archive(self.shell, self.config, commit)
        places = [str(archive), f"{self.config.name}:"]
        self.shell.run(*self._gcloud("tpu-vm", "scp", "--worker=all", positional=places))
        code = f"frozen_jax/{commit}"
        self.shell.run(*self._ssh(_INSTALL.format(code=code, archive=archive.name)))
        job = f".venv/bin/python run.py {shlex.join(self.config.arguments())}; echo $? > ../{self.config.name}.exit"
        self.shell.run(*self._ssh(_START.format(code=code, name=self.config.name, job=shlex.quote(job))))

    def _follow(self) -> dict[int, str]:
        """Shows the log of worker 0 until it ends, then waits for the others; returns how each ended."""
        self.shell.run(*self._ssh(_FOLLOW.format(name=self.config.name), worker="0"))
        while "running" in (statuses := self._statuses()).values():
            self.shell.wait(self.config.wait_seconds, "some workers are still running")
        return statuses

    def _is_running(self) -> bool:
        if running := "running" in self._statuses("absent").values():
            print(f"{self.config.name} is running already; following it")
        return running

    def _statuses(self, pretend: str = "0") -> dict[int, str]:
        """Worker → the exit status of its job, or running, absent or lost."""
        ask = self._ssh(_STATUS.format(name=self.config.name))
        answers = self.shell.output(*ask, pretend=f"worker 0: {pretend}")
        found = re.findall(r"^worker (\d+): (\w+)$", answers, re.MULTILINE)
        return {int(worker): status for worker, status in found}

    def _verdict(self, statuses: dict[int, str]) -> str | None:
        """What follows from how the workers ended: as `_attempt`."""
        failed = {worker: status for worker, status in sorted(statuses.items()) if status != "0"}
        if statuses and not failed:
            return None
        if (state := self._state()) != READY:  # then how they ended says nothing of the job
            return f"the node is {state}"
        for worker in failed:
            self._fetch_log(worker)
        said = ", ".join(f"worker {worker} ended with {status}" for worker, status in failed.items())
        retriable = {str(RETRY), "lost", "absent"} & set(failed.values())
        if str(MISTAKE) in failed.values() or (failed and not retriable):
            raise LaunchError(f"{said}; logs are in {self.config.results}")
        return said or "no worker answered"

    def _fetch_log(self, worker: int) -> None:
        """Copies the log of a worker, if it can be had."""
        if not self.shell.dry_run:
            self.config.results.mkdir(parents=True, exist_ok=True)
        name = self.config.name
        places = [f"{name}:frozen_jax/{name}.log", str(self.config.results / f"worker_{worker}.log")]
        self.shell.run(*self._gcloud("tpu-vm", "scp", f"--worker={worker}", positional=places), check=False)

    def _ssh(self, command: str, worker: str = "all") -> list[str]:
        return self._gcloud("tpu-vm", "ssh", f"--worker={worker}", f"--command={command}")

    def _gcloud(self, group: str, verb: str, *flags: str, positional: list[str] | None = None) -> list[str]:
        place = [f"--project={self.where.project}", f"--zone={self.where.zone}"]
        return ["gcloud", "compute", "tpus", group, verb, *(positional or [self.config.name]), *place, *flags]


if __name__ == "__main__":
    sys.exit(commands.main(TpuVms, __doc__, sys.argv[1:]))
