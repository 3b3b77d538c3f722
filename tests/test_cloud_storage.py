"""Paths on `gs://`: what a bucket's refusals become, and what is written into one, against an emulator."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import google.auth
import numpy as np
import pytest
import tensorstore
from etils import epath
from google.auth.exceptions import DefaultCredentialsError, RefreshError

from frozen_jax import checkpoints, cloud_storage, load_lm
from frozen_jax.cloud_storage import refusals_explained
from frozen_jax.errors import UserError
from frozen_jax.event_file import EventFile
from frozen_jax.tokenizer import load_tokenizer
from tests import tiny_tokenizer
from tests.emulated_cloud import serving

FIXTURES = epath.Path(__file__).parent / "fixtures" / "t5x"


@pytest.fixture(scope="module")
def server():
    with serving() as server:
        yield server


@pytest.fixture
def cloud(server, monkeypatch):
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    forget()
    yield server
    forget()


def forget():
    cloud_storage._ask.cache_clear()
    cloud_storage._client.cache_clear()


def refused(path):
    with pytest.raises(UserError) as caught:
        cloud_storage.open_path(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_local_path_is_not_asked_for(monkeypatch):
    monkeypatch.setattr(cloud_storage, "_client", None)
    assert cloud_storage.open_path("/nowhere/at/all") == epath.Path("/nowhere/at/all")


@pytest.mark.parametrize(
    ("bucket", "message"),
    [
        ("private", "no credentials, or none that are valid; run `gcloud auth application-default login`"),
        ("forbidden", "no permission; give the account the roles Storage Object User"),
        ("absent", "there is no bucket 'absent'; make it, or mend its name"),
    ],
)
def test_a_refusal_says_what_to_do(cloud, bucket, message):
    said = refused(f"gs://{bucket}/run")
    assert said.startswith(f"gs://{bucket}/run: {message}")
    if bucket == "forbidden":
        assert said.endswith("(tester@example.com does not have access.)")


def test_a_bucket_is_asked_once(cloud, monkeypatch):
    cloud_storage.open_path("gs://bucket/run")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://nowhere.invalid")
    assert cloud_storage.open_path("gs://bucket/run") == epath.Path("gs://bucket/run")


def test_a_network_that_is_down_is_given_up(cloud, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://nowhere.invalid")
    monkeypatch.setattr(cloud_storage, "_SECONDS", 0.2)
    assert "gs://bucket/run: Cloud Storage cannot be reached" in refused("gs://bucket/run")


def test_without_gcsfs_it_is_named(cloud, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert "gs:// needs gcsfs, which does not import" in refused("gs://bucket/run")


def test_credentials_that_cannot_be_found_are_looked_for_once(monkeypatch):
    def none(**_):
        raise DefaultCredentialsError("none here")

    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS", "NO_GCE_CHECK"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setattr(google.auth, "default", none)
    assert cloud_storage._way_to_log_in() == "anon"
    assert cloud_storage.os.environ["NO_GCE_CHECK"] == "true"


def test_a_key_file_that_is_not_there_is_named(cloud, monkeypatch):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")
    said = refused("gs://bucket/run")
    assert said.startswith("gs://bucket/run: no credentials, or none that are valid; run `gcloud auth")
    assert "/nowhere/key.json" in said


def test_credentials_that_have_expired_are_named(cloud, monkeypatch):
    class Expired:
        def refresh(self, request):
            raise RefreshError("invalid_grant: Bad Request")

    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setattr(google.auth, "default", lambda **_: (Expired(), "project"))
    assert "none that are valid; run `gcloud" in (said := refused("gs://bucket/run"))
    assert "invalid_grant" in said


def test_a_refused_write_is_explained_whoever_writes(cloud):
    folder = epath.Path("gs://read-only/run")
    with pytest.raises(UserError, match="gs://read-only/run: no permission"), refusals_explained(folder):
        cloud_storage.write_whole(folder / "config.gin", "")
    store = tensorstore.KvStore.open({"driver": "gcs", "bucket": "read-only", "path": "run/"}).result()
    with pytest.raises(UserError, match="gs://read-only/run: no permission"), refusals_explained(folder):
        store.write("manifest.ocdbt", b"").result()
    description = {"format": 1, "method": "M", "seed": 0, "frozen_lms": {}, "trained": {}, "gin_config": ""}
    checkpointer = checkpoints.Checkpointer(folder, description)
    with pytest.raises(UserError, match="gs://read-only/run/checkpoints: no permission"), checkpointer:
        checkpointer.save(1, {"a": np.ones(3, np.float32)})


def test_what_tensorstore_writes_is_seen_in_a_folder_that_was_listed_before(cloud):
    folder = cloud_storage.open_path("gs://bucket/listed")
    (folder / "first").write_text("")
    assert [path.name for path in folder.iterdir()] == ["first"]
    store = tensorstore.KvStore.open({"driver": "gcs", "bucket": "bucket", "path": "listed/"}).result()
    store.write("second", b"2").result()
    assert [path.name for path in folder.iterdir()] == ["first", "second"]


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(cloud):
    with pytest.raises(UserError, match="gs://forbidden/run/checkpoints/1: no permission") as caught:
        checkpoints.read_description("gs://forbidden/run/checkpoints/1")
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("error", [ValueError("no zarr"), FileNotFoundError("x"), OSError("disk full"), KeyError("a")])
def test_other_errors_pass(error):
    with pytest.raises(type(error)), refusals_explained("gs://bucket/run"):
        raise error


@pytest.mark.parametrize("kind", ["legacy", "orbax"])
def test_an_lm_in_a_bucket_is_that_on_the_disk(cloud, kind):
    local = FIXTURES / f"t5_1_1_tiny_{kind}" / "checkpoint_7"
    cloud.upload(local, f"lm/{kind}/checkpoint_7")
    here, there = (load_lm(str(at), mlp_activations=("gelu", "linear")) for at in (local, f"gs://bucket/lm/{kind}"))
    assert here.fingerprint == there.fingerprint
    inputs = np.array([[5, 6, 7, 1]], np.int32)
    assert np.array_equal(here.logits(inputs, inputs), there.logits(inputs, inputs))


def test_a_hugging_face_folder_in_a_bucket_is_refused(cloud):
    cloud.put("hugging_face/config.json", b"{}")
    with pytest.raises(UserError, match="gs://bucket/hugging_face: Hugging Face folders are read from a local disk"):
        load_lm("gs://bucket/hugging_face")


def test_a_tokenizer_in_a_bucket_is_that_on_the_disk(cloud, tmp_path):
    path = tiny_tokenizer.write(tmp_path)
    cloud.upload(tmp_path, "tokenizer")
    for source in ("gs://bucket/tokenizer", "gs://bucket/tokenizer/tokenizer.json"):
        assert load_tokenizer(source).encode("one two") == load_tokenizer(path).encode("one two")


def test_a_step_without_its_last_file_is_not_found(cloud):
    state = {"a": np.arange(3, dtype=np.float32)}
    description = {"format": 1, "method": "M", "seed": 0, "frozen_lms": {}, "trained": {}, "gin_config": ""}
    with checkpoints.Checkpointer("gs://bucket/found", description) as checkpointer:
        checkpointer.save(1, state)
        checkpointer.save(2, state)
    assert checkpoints.find("gs://bucket/found").name == "2"
    cloud.storage.delete_file("bucket", "found/checkpoints/2/commit_success.txt")
    assert checkpoints.find("gs://bucket/found").name == "1"


def test_an_event_file_in_a_bucket_keeps_what_was_written_before(cloud, tmp_path):
    sizes = []
    for folder in (tmp_path, epath.Path("gs://bucket/board")):
        board = EventFile(folder)
        for step in (1, 2):
            board.add("loss", 0.5, step)
            board.flush()
        sizes.append(len(board.path.read_bytes()))
    assert sizes[0] == sizes[1] > 100


def test_what_is_written_locally_ends_in_the_bucket(cloud, tmp_path):
    for folder in (tmp_path / "trace", epath.Path("gs://bucket/trace")):
        with cloud_storage.written_locally(epath.Path(folder)) as scratch:
            (scratch / "plugins").mkdir(parents=True)
            (scratch / "plugins" / "trace.json").write_text("{}")
        assert (epath.Path(folder) / "plugins" / "trace.json").read_text() == "{}"


@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_a_whole_file_replaces_the_one_before(cloud, tmp_path, where):
    path = epath.Path(tmp_path if where == "disk" else "gs://bucket/whole") / "new" / "lines.jsonl"
    for text in ("longer than the next\n", "short\n"):
        cloud_storage.write_whole(path, text)
        assert path.read_text() == text
    assert [found.name for found in path.parent.iterdir()] == ["lines.jsonl"]


def test_what_a_killed_process_began_is_removed_by_the_next_that_writes_there(tmp_path):
    begun = [f".answers.jsonl.{platform.node()}.{{}}.unfinished", f".index.{platform.node()}.{{}}.ab_1.unfinished"]
    child = subprocess.Popen(["sleep", "60"])
    for pid in (child.pid, os.getpid()):
        (tmp_path / begun[0].format(pid)).write_text("half a li")
        (tmp_path / begun[1].format(pid)).mkdir()
        (tmp_path / begun[1].format(pid) / "segment").write_text("")
    (tmp_path / f".answers.jsonl.another-machine.{child.pid}.unfinished").write_text("")
    child.kill()
    child.wait()
    before = {path.name for path in tmp_path.iterdir()}
    with cloud_storage.scratch_beside(tmp_path / "index") as scratch:
        dead = {name.format(child.pid) for name in begun}
        assert {path.name for path in tmp_path.iterdir()} == before - dead | {Path(scratch).name}
    cloud_storage.write_whole(epath.Path(tmp_path / "answers.jsonl"), "a line\n")
    wanted = before - dead - {begun[0].format(os.getpid())} | {"answers.jsonl"}
    assert {path.name for path in tmp_path.iterdir()} == wanted
