"""Runs frozen_jax on a slice of TPUs in a Kubernetes cluster of GKE, with kubectl: fills in launch/jobset.yaml.

    python -m launch.kubernetes my.toml --dry_run    print the manifest and every command, do nothing
    python -m launch.kubernetes my.toml image        build and push the image of the commit (docker)
    python -m launch.kubernetes my.toml              apply the manifest, follow, collect
    python -m launch.kubernetes my.toml collect      copy logs and results once more
    python -m launch.kubernetes my.toml delete       delete the job

The cluster restarts what was preempted; nothing here need stay alive. The same command again follows what runs.
"""

from __future__ import annotations

import json
import shutil
import string
import sys
from pathlib import Path
from typing import Any, ClassVar

from launch import commands
from launch.commands import Shell
from launch.config import MISTAKE, RETRY, Config
from launch.errors import CommandError, LaunchError

TEMPLATE = Path(__file__).with_name("jobset.yaml")
FINISHED = ("Completed", "Failed")  # conditions of a JobSet that has ended


def render(config: Config, commit: str) -> str:
    """Returns the manifest of a run, as YAML."""
    where = config.kubernetes
    assert where
    # https://cloud.google.com/kubernetes-engine/docs/concepts/spot-vms: the label, and the taint that a pool may have.
    spot = {"cloud.google.com/gke-spot": "true"} if config.spot else {}
    selector = {
        "cloud.google.com/gke-tpu-accelerator": where.accelerator,
        "cloud.google.com/gke-tpu-topology": where.topology,
    }
    values: dict[str, Any] = {
        "name": config.name,
        "namespace": where.namespace,
        "retries": config.retries,
        "hosts": where.hosts,
        "chips_per_host": where.chips_per_host,
        "retry": RETRY,
        "mistake": MISTAKE,
        "node_selector": selector | spot,
        "tolerations": [
            {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"} for key, value in spot.items()
        ],
        "image": image_of(config, commit),
        "arguments": config.arguments(),
    }
    # JSON is YAML: whatever stands in a text, it stays that text.
    filled = {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
    return string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(filled)


def image_of(config: Config, commit: str) -> str:
    """Returns the image of a commit."""
    assert config.kubernetes
    return f"{config.kubernetes.image}:{commit}"


class JobSet:
    """A run as a JobSet in the cluster that kubectl is set to.

    Flags are those of https://kubernetes.io/docs/reference/kubectl/generated/ (apply, get, logs, delete).
    """

    PLACE: ClassVar[str] = "kubernetes"
    ACTIONS: ClassVar[tuple[str, ...]] = ("run", "image", "collect", "delete")

    def __init__(self, config: Config, shell: Shell) -> None:
        assert config.kubernetes
        self.config = config
        self.shell = shell
        self._namespace = f"--namespace={config.kubernetes.namespace}"
        self._hosts = config.kubernetes.hosts
        self._selector = f"--selector=jobset.sigs.k8s.io/jobset-name={config.name}"

    def image(self) -> None:
        """Builds the image of the commit, of the archive of its code alone, and pushes it."""
        commit = commands.commit_of(self.config)
        code = commands.archive(self.shell, self.config, commit)
        image = image_of(self.config, commit)
        self.shell.run("docker", "build", f"--tag={image}", "--file=launch/Dockerfile", "-", stdin=code)
        self.shell.run("docker", "push", image)

    def run(self) -> None:
        """Applies the manifest and follows the job to its end.

        Raises:
            LaunchError: if the job fails, or one of its name is there that has ended.
        """
        manifest = render(self.config, commands.commit_of(self.config))
        if (state := self._state("")) in FINISHED:
            raise LaunchError(
                f"the job {self.config.name} is there already: {state}; "
                "delete it first (python -m launch.kubernetes CONFIG delete), or take another name"
            )
        self._apply(manifest)
        self._follow()
        self.collect()

    def collect(self) -> None:
        """Copies the logs of all pods and, where there is gcloud, what is in MODEL_DIR."""
        log = self.config.results / "pods.log"
        every = [self._selector, "--prefix", "--tail=-1", f"--max-log-requests={self._hosts}"]
        self.shell.run(*self._kubectl("logs", *every), stdout=log, check=False)
        if self.shell.dry_run or shutil.which("gcloud"):
            commands.collect_results(self.shell, self.config)
        else:
            print(f"the log is in {log}, results in {self.config.model_dir}; copying those needs gcloud")

    def delete(self) -> None:
        """Deletes the job and its pods; what is in the bucket stays."""
        self.shell.run(*self._kubectl("delete", "jobset", self.config.name))

    def _apply(self, manifest: str) -> None:
        path = self.config.results / "jobset.yaml"
        if self.shell.dry_run:
            print(manifest)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(manifest, encoding="utf-8")
        self.shell.run("kubectl", "apply", f"--filename={path}")

    def _follow(self) -> None:
        """Shows the log of the first pod, of each start, until the job ends."""
        first = f"{self._selector},batch.kubernetes.io/job-completion-index=0"
        state = self._state("running")
        while state not in FINISHED:
            if not state:
                raise LaunchError(f"the job {self.config.name} has been deleted")
            # A pod that has no node yet has no log either: not a failure.
            self.shell.run(*self._kubectl("logs", first, "--follow", "--tail=100"), check=False)
            if (state := self._state("Completed")) not in FINISHED:
                self.shell.wait(self.config.wait_seconds, f"{self.config.name} has not ended")
                state = self._state("Completed")
        if state == "Failed":
            raise LaunchError(f"the job {self.config.name} failed: {self._failed_pods()}")

    def _state(self, pretend: str) -> str:
        """Completed, Failed, running (or waiting for nodes), or nothing if there is no such job."""
        query = '{.metadata.name}{range .status.conditions[?(@.status=="True")]} {.type}{end}'
        get = self._kubectl("get", "jobset", self.config.name, "--ignore-not-found", f"--output=jsonpath={query}")
        try:
            name, *conditions = self.shell.output(*get, pretend=f"{pretend and 'job'} {pretend}").split(" ")
        except CommandError as error:
            if "resource type" in error.text:
                raise LaunchError(
                    "the cluster has no JobSet; https://jobset.sigs.k8s.io/docs/installation/ installs it"
                ) from error
            raise
        return next((condition for condition in conditions if condition in FINISHED), name and "running")

    def _failed_pods(self) -> str:
        """Names the pods that failed, with their exit codes."""
        query = '{range .items[*]}{.metadata.name} {.status.containerStatuses[0].state.terminated.exitCode}{"\\n"}{end}'
        pods = self.shell.output(*self._kubectl("get", "pods", self._selector, f"--output=jsonpath={query}"))
        codes = dict(line.split(" ") for line in pods.splitlines() if line.count(" ") == 1)
        said = [f"{pod} ended with {code}" for pod, code in codes.items() if code not in ("", "0")]
        return ", ".join(said) or f"kubectl describe jobset {self.config.name} says why"

    def _kubectl(self, verb: str, *arguments: str) -> list[str]:
        return ["kubectl", verb, self._namespace, *arguments]


if __name__ == "__main__":
    sys.exit(commands.main(JobSet, __doc__, sys.argv[1:]))
