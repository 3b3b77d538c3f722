"""Kubernetes: the manifest says what the config says, and the commands given to a stand-in kubectl."""

from __future__ import annotations

import shlex

import pytest
import yaml

from launch import config as configs
from launch.kubernetes import JobSet, render

GET = "get jobset"


def manifest(world, **changes) -> dict:
    world.config["kubernetes"] |= changes
    return yaml.safe_load(render(configs.load(world.write(), "kubernetes"), "abc"))


@pytest.mark.parametrize(("topology", "hosts"), [("2x2x1", 1), ("4x4x4", 16)])
def test_the_manifest_holds_what_the_config_says(world, topology, hosts):
    world.config["bindings"] = ['NAME = "a: $b # {c}"']
    found = manifest(world, topology=topology, hosts=hosts, namespace="lab")
    assert (found["metadata"]["name"], found["metadata"]["namespace"]) == ("a-run", "lab")
    assert found["spec"]["failurePolicy"]["maxRestarts"] == 2
    (workers,) = found["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    assert (workers["replicas"], job["parallelism"], job["completions"]) == (1, hosts, hosts)
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": topology,
    }
    (container,) = pod["containers"]
    assert container["image"] == "registry/frozen_jax:abc"
    assert container["resources"]["limits"] == container["resources"]["requests"] == {"google.com/tpu": 4}
    assert container["command"] == ["python", "run.py"]
    files, bindings = ["base.gin", "task.gin"], ['NAME = "a: $b # {c}"', "MODEL_DIR=gs://a-bucket/runs/a-run"]
    given = [*(f"--gin_file={file}" for file in files), *(f"--gin.{binding}" for binding in bindings)]
    assert container["args"] == [configs.DISTRIBUTED, "--run_mode=train", *given]


def test_a_mistake_fails_the_job_and_everything_else_starts_it_again(world):
    spec = manifest(world)["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    evicted, retry, mistake = job["podFailurePolicy"]["rules"]
    assert evicted == {"action": "Count", "onPodConditions": [{"type": "DisruptionTarget"}]}
    assert (retry["action"], retry["onExitCodes"]["values"]) == ("Count", [75])
    assert (mistake["action"], mistake["onExitCodes"]["values"]) == ("FailJob", [2])
    (container,) = job["template"]["spec"]["containers"]
    assert {rule["onExitCodes"]["containerName"] for rule in (retry, mistake)} == {container["name"]}
    assert (job["backoffLimit"], job["template"]["spec"]["restartPolicy"]) == (0, "Never")
    assert spec["failurePolicy"]["rules"] == [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}]


def test_spot_chooses_and_tolerates_spot_nodes(world):
    world.config["spot"] = True
    pod = manifest(world)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert [toleration["key"] for toleration in pod["tolerations"]] == ["cloud.google.com/gke-spot"]


def test_a_job_is_applied_followed_through_its_restarts_and_collected(world):
    world.answer({GET: ["", "a-run", "a-run StartupPolicyCompleted", "a-run", "a-run Completed"], "logs": ["a line"]})
    assert world.launch(JobSet) == 0
    assert world.verbs() == ["get", "apply", "get", "logs", "get", "get", "logs", "get", "logs", "rsync"]
    assert yaml.safe_load((world.folder / "runs" / "a-run" / "jobset.yaml").read_text())["kind"] == "JobSet"
    assert (world.folder / "runs" / "a-run" / "pods.log").read_text() == "a line\n"
    follow = world.calls()[3]
    assert "--follow" in follow
    assert "jobset-name=a-run,batch.kubernetes.io/job-completion-index=0" in " ".join(follow)


def test_a_dry_run_runs_nothing_and_prints_manifest_and_commands(world, capsys, commit):
    assert world.launch(JobSet, "--dry_run") == 0
    assert world.calls() == []
    assert not (world.folder / "runs").exists()
    dry = capsys.readouterr().out
    assert render(configs.load(world.write(), "kubernetes"), commit) in dry
    world.answer({GET: ["", "a-run", "a-run Completed"]})
    assert world.launch(JobSet) == 0
    assert capsys.readouterr().out.count("$ ") == dry.count("\n$ ") + dry.startswith("$ ")
    assert all(f"$ {shlex.join(call)}" in dry for call in world.calls())


def test_a_pod_that_failed_is_named(world, capsys):
    pods = "a-run-workers-0-0-x 0\na-run-workers-0-1-y 2\na-run-workers-0-2-z "
    world.answer({GET: ["", "a-run", "a-run Failed"], "get pods": [pods]})
    assert world.launch(JobSet) == 2
    assert capsys.readouterr().err.endswith("error: the job a-run failed: a-run-workers-0-1-y ended with 2\n")


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (["a-run Completed"], "the job a-run is there already: Completed; delete it first"),
        (["", ""], "the job a-run has been deleted"),
        ([[1, "", 'the server doesn\'t have a resource type "jobset"']], "the cluster has no JobSet; https://"),
        ([[1, "", "Unauthorized"]], "kubectl failed with exit status 1: Unauthorized"),
    ],
)
def test_what_the_cluster_says_is_one_line(world, capsys, answers, message):
    world.answer({GET: answers})
    assert world.launch(JobSet) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_kubectl_alone_will_do(world, capsys):
    (world.folder / "programs" / "gcloud").unlink()
    world.answer({GET: ["", "a-run", "a-run Completed"]})
    assert world.launch(JobSet) == 0
    assert "results in gs://a-bucket/runs/a-run; copying those needs gcloud" in capsys.readouterr().out


def test_the_image_is_made_of_the_archive_of_the_commit(world, commit):
    assert world.launch(JobSet, "image") == 0
    build, push = world.calls()
    assert build[1:] == ["build", f"--tag=registry/frozen_jax:{commit}", "--file=launch/Dockerfile", "-"]
    assert push[1:] == ["push", f"registry/frozen_jax:{commit}"]
    assert (world.folder / "runs" / "a-run" / f"frozen_jax-{commit}.tar.gz").is_file()


def test_delete(world):
    assert world.launch(JobSet, "delete") == 0
    assert world.calls() == [["kubectl", "delete", "--namespace=default", "jobset", "a-run"]]
