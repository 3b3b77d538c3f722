"""The one file that both launchers read; launch/example.toml is one to copy.

Top-level fields say what is run, `[tpu_vm]` and `[kubernetes]` where; a launcher needs only its own table.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from launch.errors import LaunchError

# With it run.py calls jax.distributed.initialize(), which asks a Cloud TPU VM's metadata server, or GKE's TPU_WORKER_ID
# and TPU_WORKER_HOSTNAMES, who the other processes are (jax/_src/clusters/cloud_tpu_cluster.py).
DISTRIBUTED = "--distributed"
RETRY = 75  # EX_TEMPFAIL: run.py has saved what it had and wants to be started again
MISTAKE = 2  # run.py's status for a user's mistake: starting again would not help


@dataclasses.dataclass(frozen=True)
class TpuVm:
    """A slice of Cloud TPU VMs, in the words of `gcloud compute tpus tpu-vm create`.

    Attributes:
        project: in Google Cloud.
        zone: such as us-east5-a.
        accelerator_type: such as v5p-128, which counts cores: 64 chips.
        runtime_version: such as v2-alpha-tpuv5.
        queued: whether to wait in line for capacity (queued resources) rather than to fail where there is none.
    """

    project: str
    zone: str
    accelerator_type: str
    runtime_version: str
    queued: bool = False


@dataclasses.dataclass(frozen=True)
class Kubernetes:
    """A slice of TPUs in a cluster of GKE, in the words of its node labels.

    Attributes:
        image: where images are pushed to, without a tag: the commit is the tag.
        accelerator: cloud.google.com/gke-tpu-accelerator, such as tpu-v5p-slice.
        topology: cloud.google.com/gke-tpu-topology, such as 4x4x4.
        hosts: machines of the slice.
        chips_per_host: of TPU.
        namespace: in the cluster.
    """

    image: str
    accelerator: str
    topology: str
    hosts: int
    chips_per_host: int
    namespace: str = "default"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d+(x\d+){1,2}", self.topology):
            raise LaunchError(f"kubernetes.topology is {self.topology!r}; write it like 4x4x4, or 4x4")
        chips = math.prod(int(size) for size in self.topology.split("x"))
        if chips != self.hosts * self.chips_per_host:
            raise LaunchError(
                f"kubernetes.topology {self.topology} has {chips} chips, "
                f"but hosts x chips_per_host is {self.hosts} x {self.chips_per_host}"
            )


@dataclasses.dataclass(frozen=True)
class Config:
    """What is run, and where.

    Attributes:
        name: of the node or job; MODEL_DIR is bucket/name.
        bucket: on gs://, or a folder in one.
        gin_files: of the run, as at the commit.
        bindings: what would stand behind --gin.
        run_mode: of run.py.
        commit: whose code runs; anything that git knows.
        spot: whether capacity that may be taken away will do.
        retries: starts after the first.
        wait_seconds: before a retry, and between two looks at what is waited for.
        tpu_vm: where launch.tpu_vm runs it.
        kubernetes: where launch.kubernetes runs it.
    """

    name: str
    bucket: str
    gin_files: list[str]
    bindings: list[str] = dataclasses.field(default_factory=list)
    run_mode: str = "train"
    commit: str = "HEAD"
    spot: bool = False
    retries: int = 5
    wait_seconds: int = 60
    tpu_vm: TpuVm | None = None
    kubernetes: Kubernetes | None = None

    def __post_init__(self) -> None:
        # 40: JobSet makes names of pods from it, which may have 63.
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", self.name):
            raise LaunchError(
                f"name is {self.name!r}; write at most 40 of a-z, 0-9 and -, beginning with a letter, not ending with -"
            )
        if not self.bucket.startswith("gs://"):
            raise LaunchError(f"bucket is {self.bucket!r}; every host writes there, so it begins with gs://")
        if any(binding.partition("=")[0].strip() == "MODEL_DIR" for binding in self.bindings):
            raise LaunchError(f"bindings set MODEL_DIR, which is {self.model_dir}; change bucket or name instead")

    @property
    def model_dir(self) -> str:
        """MODEL_DIR of the run."""
        return f"{self.bucket.rstrip('/')}/{self.name}"

    @property
    def results(self) -> Path:
        """The local folder for everything that comes back."""
        return Path("runs") / self.name

    def arguments(self) -> list[str]:
        """Returns the arguments of run.py."""
        bindings = [*self.bindings, f"MODEL_DIR={self.model_dir}"]
        return [
            DISTRIBUTED,
            f"--run_mode={self.run_mode}",
            *(f"--gin_file={file}" for file in self.gin_files),
            *(f"--gin.{binding}" for binding in bindings),
        ]


def load(path: str, place: str) -> Config:
    """Reads a config.

    Args:
        path: of a TOML file.
        place: the table that is needed, tpu_vm or kubernetes.

    Raises:
        LaunchError: if there is no such file, it is no TOML, or a field is missing, unknown or of another type.
    """
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise LaunchError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LaunchError(f"{path}: no TOML: {error}") from error
    if place not in found:
        raise LaunchError(f"{path}: there is no [{place}]; launch/example.toml has one")
    try:
        return _read(Config, found, "")
    except LaunchError as error:
        raise LaunchError(f"{path}: {error}") from error


_Table = TypeVar("_Table", bound=TpuVm | Kubernetes | Config)


def _read(kind: type[_Table], found: Mapping[str, Any], where: str) -> _Table:
    """Makes a dataclass of a table; `where` stands before the names of its fields in messages."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in found:
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=1, cutoff=0.4) or list(fields)
            raise LaunchError(f"unknown field {where}{name}; did you mean {' or '.join(close)}?")
    for name, field in fields.items():
        if name not in found and field.default is field.default_factory is dataclasses.MISSING:
            raise LaunchError(f"the field {where}{name} is missing")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _value(value, hints[name], where + name) for name, value in found.items()})


def _value(value: Any, hint: Any, name: str) -> Any:
    for kind in (TpuVm, Kubernetes):
        if kind in typing.get_args(hint):
            return _read(kind, _typed(value, dict, name, "a table"), f"{name}.")
    if hint == list[str]:
        return [_typed(item, str, name, "a list of texts") for item in _typed(value, list, name, "a list of texts")]
    if hint is int and _typed(value, int, name, "a whole number") < 0:
        raise LaunchError(f"{name} is {value}; it should not be negative")
    return _typed(value, hint, name, {str: "a text", int: "a whole number", bool: "true or false"}[hint])


def _typed(value: Any, kind: type, name: str, words: str) -> Any:
    if type(value) is not kind:  # bool is an int to isinstance
        raise LaunchError(f"{name} is {value!r}; it should be {words}")
    return value
