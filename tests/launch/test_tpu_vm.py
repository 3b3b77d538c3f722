"""Cloud TPU VMs: which commands are given to a stand-in gcloud, in which order, and what is made of its answers."""

from __future__ import annotations

import shlex
import tarfile

import pytest

from launch.tpu_vm import TpuVms

READY = "READY\tv5p-16"
NO_NODE = [1, "", "ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource was not found"]
FULL = [1, "", 'There is no more capacity in the zone "a-zone"; you can try in another zone']
START = ["scp", "install", "start"]
END = ["scp", "rsync"]  # the log of worker 0, and what is in MODEL_DIR


def statuses(*ends: str | int) -> str:
    return "\n".join(f"worker {worker}: {end}" for worker, end in enumerate(ends))


def test_a_slice_is_created_used_and_kept(world, commit):
    world.answer({"tpu-vm describe": [NO_NODE, READY], "status": [statuses(0, 0)]})
    assert world.launch(TpuVms) == 0
    assert world.verbs() == ["describe", "create", "describe", *START, "follow", "status", *END]
    place = ["--project=a-project", "--zone=a-zone"]
    calls = world.calls()
    assert calls[1][:5] == ["gcloud", "compute", "tpus", "tpu-vm", "create"]
    assert calls[1][5:] == ["a-run", *place, "--accelerator-type=v5p-16", "--version=v2-alpha-tpuv5"]
    archive = f"runs/a-run/frozen_jax-{commit}.tar.gz"
    assert calls[3][4:] == ["scp", archive, "a-run:", *place, "--worker=all"]
    with tarfile.open(world.folder / archive) as packed:
        assert "run.py" in packed.getnames()
    assert calls[6][-2] == "--worker=0"
    assert calls[-1][-2:] == ["gs://a-bucket/runs/a-run", "runs/a-run"]


@pytest.mark.parametrize("queued", [False, True])
def test_a_dry_run_runs_nothing_and_prints_what_would_be_run(world, capsys, queued):
    world.config |= {"spot": True}
    world.config["tpu_vm"]["queued"] = queued
    assert world.launch(TpuVms, "--dry_run") == 0
    assert world.calls() == []
    assert not (world.folder / "runs").exists()
    dry = capsys.readouterr().out
    world.answer(
        {
            "tpu-vm describe": [NO_NODE, READY],
            "queued-resources describe": [NO_NODE],
            "status": [statuses(0)],
        }
    )
    assert world.launch(TpuVms) == 0
    assert capsys.readouterr().out.count("$ ") == dry.count("$ ")
    assert all(f"$ {shlex.join(call)}\n" in dry for call in world.calls())
    assert "--spot" in dry


def test_a_slice_that_is_there_is_used_again(world):
    world.answer({"describe": ["CREATING", READY], "status": [statuses("absent"), statuses(0)]})
    assert world.launch(TpuVms) == 0
    assert world.verbs() == ["describe", "describe", "status", *START, "follow", "status", *END]


def test_a_job_that_runs_is_followed_not_started(world, capsys):
    running = statuses(0, "running")
    world.answer({"describe": [READY], "status": [running, running, statuses(0, 0)]})
    assert world.launch(TpuVms) == 0
    assert world.verbs() == ["describe", "status", "follow", "status", "status", *END]
    assert "a-run is running already" in capsys.readouterr().out


def test_a_preempted_slice_is_made_again_and_the_job_started_again(world, capsys):
    states = [READY, "PREEMPTED\tv5p-16", "PREEMPTED\tv5p-16", READY]
    world.answer({"describe": states, "status": [statuses("absent"), statuses(1, 134), statuses(0, 0)]})
    assert world.launch(TpuVms) == 0
    first = ["describe", "status", *START, "follow", "status", "describe"]
    assert world.verbs() == [*first, "describe", "delete", "create", "describe", *START, "follow", "status", *END]
    assert "the node is PREEMPTED; retry 1 of 2" in capsys.readouterr().out


def test_a_slice_that_is_lost_while_files_are_copied_is_made_again(world):
    world.answer(
        {
            "describe": [NO_NODE, READY, "PREEMPTED\tv5p-16", "PREEMPTED\tv5p-16", READY],
            "scp --worker=all": [[1, "", "connection reset"], ""],
            "status": [statuses(0)],
        }
    )
    assert world.launch(TpuVms) == 0
    assert world.verbs()[:8] == ["describe", "create", "describe", "scp", "describe", "describe", "delete", "create"]


def test_a_job_that_saved_and_wants_to_go_on_is_started_again(world, capsys):
    world.answer({"describe": [READY], "status": [statuses("absent"), *[statuses(75, 1)] * 2, statuses(0)]})
    assert world.launch(TpuVms) == 0
    assert world.verbs().count("start") == 2
    assert "worker 0 ended with 75, worker 1 ended with 1; retry 1 of 2" in capsys.readouterr().out


def test_retries_end(world, capsys):
    world.answer({"describe": [READY], "status": [statuses(75)]})
    assert world.launch(TpuVms) == 2
    assert world.verbs().count("start") == 3
    assert capsys.readouterr().err == "error: given up after 2 retries: worker 0 ended with 75\n"


@pytest.mark.parametrize("ends", [(75, 2), (0, 1)])
def test_a_worker_that_failed_is_named_and_not_started_again(world, capsys, ends):
    world.answer({"describe": [READY], "status": [statuses("absent"), statuses(*ends)]})
    assert world.launch(TpuVms) == 2
    assert f"worker 1 ended with {ends[1]}; logs are in runs/a-run\n" in capsys.readouterr().err
    assert world.verbs().count("start") == 1
    assert "runs/a-run/worker_1.log" in world.calls()[-1]


def test_a_connection_that_breaks_stops_nothing(world, capsys):
    broken = [255, statuses(0), "Connection closed"]
    answers = [statuses("absent"), broken, statuses("running"), statuses(0)]
    world.answer({"describe": [READY], "status": answers})
    assert world.launch(TpuVms) == 0
    assert world.verbs().count("start") == 1
    assert (
        "cannot reach every worker (gcloud failed with exit status 255: Connection closed)" in capsys.readouterr().out
    )


def test_capacity_is_asked_for_again_and_a_wrong_request_is_not(world, capsys):
    world.answer({"describe": [NO_NODE], "create": [FULL]})
    assert world.launch(TpuVms) == 2
    assert world.verbs() == ["describe", "create"] * 3
    assert "given up after 2 retries: gcloud failed with exit status 1: There is no more" in capsys.readouterr().err
    world.answer({"describe": [[1, "", "PERMISSION_DENIED: the caller does not have permission"]]})
    assert world.launch(TpuVms) == 2
    assert capsys.readouterr().err.endswith("PERMISSION_DENIED: the caller does not have permission\n")


def test_a_node_of_another_type_is_refused(world, capsys):
    world.answer({"describe": ["READY\tv5p-8"]})
    assert world.launch(TpuVms) == 2
    assert "accelerator_type is v5p-16, but the node a-run that is there is a v5p-8" in capsys.readouterr().err


def test_a_queued_slice_is_waited_for(world, capsys):
    world.config["tpu_vm"]["queued"] = True
    queue = [NO_NODE, "WAITING_FOR_RESOURCES", "PROVISIONING", "FAILED", "FAILED", "FAILED", "PROVISIONING"]
    world.answer(
        {
            "tpu-vm describe": [NO_NODE] * 7 + [READY],
            "queued-resources describe": queue,
            "status": [statuses(0)],
        }
    )
    assert world.launch(TpuVms) == 0
    requests = [call for call in world.calls() if "queued-resources" in call and "describe" not in call]
    assert [call[4] for call in requests] == ["create", "delete", "create"]
    assert "--node-id=a-run" in requests[0]
    assert {"--force", "--quiet"} < set(requests[1])
    printed = capsys.readouterr().out
    assert "a-run is WAITING_FOR_RESOURCES" in printed
    assert "the node is FAILED; retry 1 of 2" in printed


def test_delete(world):
    assert world.launch(TpuVms, "delete") == 0
    (call,) = world.calls()
    assert call[3:6] == ["tpu-vm", "delete", "a-run"]
    assert "--quiet" in call


UV = """#!/bin/bash
if test $1 = venv; then
    mkdir -p .venv/bin
    printf '#!/bin/bash\\nprintf "%%s\\\\n" "$@"\\nexit $(cat ~/ends)\\n' > .venv/bin/python
    chmod +x .venv/bin/python
fi
"""


def test_what_is_sent_to_the_workers_runs_there(world, capfd):
    """In bash, with a curl and a uv that are none: files arrive, jobs get their arguments, ends are told apart."""
    for worker, end in enumerate([0, 7]):
        home = world.folder / f"worker_{worker}"
        (home / ".local" / "bin").mkdir(parents=True)
        (home / ".local" / "bin" / "uv").write_text(UV)
        (home / "curl").write_text(f"#!/bin/bash\necho -n {worker}\n")
        (home / "ends").write_text(str(end))
        for program in (home / ".local" / "bin" / "uv", home / "curl"):
            program.chmod(0o755)
    world.answer({"describe": [NO_NODE, READY]})
    assert world.launch(TpuVms) == 2
    out, err = capfd.readouterr()
    assert "error: worker 1 ended with 7;" in err
    arguments = ["run.py", "--distributed", "--run_mode=train", "--gin_file=base.gin", "--gin_file=task.gin"]
    bindings = ["--gin.TRAIN_STEPS=10", '--gin.NAME="it\'s $HOME"', "--gin.MODEL_DIR=gs://a-bucket/runs/a-run"]
    log = "\n".join([*arguments, *bindings])
    assert log in out
    assert (world.folder / "runs" / "a-run" / "worker_1.log").read_text().strip() == log
