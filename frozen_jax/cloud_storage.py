"""`gs://`: who reads and writes it, and what its refusals mean, in one line.

    arrays             TensorStore's own client
    all other files    gcsfs, through etils.epath

epath would take TensorFlow's client wherever TensorFlow is installed, and gcsfs elsewhere. Here it takes gcsfs
everywhere: a path behaves alike in training and in inference, which needs no TensorFlow. Credentials are found as
Google's libraries find them: GOOGLE_APPLICATION_CREDENTIALS, gcloud's, the machine's own. Public buckets need none.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pathlib
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from etils import epath

from frozen_jax import processes
from frozen_jax.errors import UserError

os.environ.setdefault("EPATH_USE_TF", "false")  # epath looks when the first path is used

_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_SECONDS = 60  # gcsfs tries a network that is down six times, for half a minute
_LOG_IN = (
    "run `gcloud auth application-default login`, or let GOOGLE_APPLICATION_CREDENTIALS name a service account's key"
)
_ADVICE = {
    401: f"no credentials, or none that are valid; {_LOG_IN}",
    403: "no permission; give the account the roles Storage Object User (to read only, Storage Object Viewer) and "
    "Storage Legacy Bucket Reader on the bucket",
}


def open_path(path: epath.PathLike) -> epath.Path:
    """Returns a path that a user gave, local or on `gs://`; its bucket is asked, once, whether it can be read.

    Args:
        path: of a file or folder, which need not be there.

    Raises:
        UserError: if there is no such bucket, it cannot be reached or may not be read, or gcsfs is not installed.
    """
    if is_cloud(path):
        _ask(os.fspath(path))
    return epath.Path(path)


def is_cloud(path: epath.PathLike) -> bool:
    """Returns whether a path is on `gs://`."""
    return os.fspath(path).startswith("gs://")


def write_whole(path: epath.Path, content: str | bytes) -> None:
    """Writes a file that is there whole or, after a kill, as it was before; its folder is made.

    Of several processes the first one writes: the file is shared by all.

    Args:
        path: of the file. On `gs://` an object appears at once; a renaming would add a dozen requests.
        content: what it holds from now on.
    """
    if processes.is_first():
        write_own(path, content)


def write_own(path: epath.Path, content: str | bytes) -> None:
    """As `write_whole`, in every process: for caches, of which each host has its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = path if is_cloud(path) else path.parent / f"{_begun(path)}.unfinished"
    if isinstance(content, bytes):
        place.write_bytes(content)
    else:
        place.write_text(content)
    if place is not path:
        place.replace(path)


def scratch_beside(path: epath.PathLike) -> tempfile.TemporaryDirectory[str]:
    """Gives a local folder in which a file or folder is made, before it is renamed: it is there whole or not at all.

    Args:
        path: of what is made; its own folder is there.

    Returns:
        For a `with` statement, at whose end it is removed.
    """
    path = pathlib.Path(path)
    return tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{_begun(path)}.", suffix=".unfinished")


def _begun(path: epath.Path | pathlib.Path) -> str:
    """How the name of something begins while it is made: it tells by whom."""
    _remove_leftovers(os.fspath(path.parent), os.getpid())
    return f".{path.name}.{platform.node()}.{os.getpid()}"


@functools.cache
def _remove_leftovers(folder: str, by: int) -> None:
    """Once a process and folder: what processes of this machine began to make there, and were killed."""
    del by
    names = re.compile(rf"\..+\.{re.escape(platform.node())}\.(\d+)(\.\w+)?\.unfinished")
    for path in pathlib.Path(folder).iterdir():
        if (found := names.fullmatch(path.name)) and not _is_running(int(found[1])):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        return True
    return True


@contextlib.contextmanager
def written_locally(folder: epath.Path) -> Iterator[epath.Path]:
    """Around libraries that write no `gs://`: gives them a folder, whose files are copied at the end.

    Args:
        folder: where the files shall be; if it is local, it is the folder given.
    """
    if not is_cloud(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield epath.Path(scratch)
        for path in pathlib.Path(scratch).rglob("*"):
            if path.is_file():
                (folder / path.relative_to(scratch)).write_bytes(path.read_bytes())


@functools.cache
def _ask(path: str) -> None:
    bucket, _, inside = path.removeprefix("gs://").partition("/")
    with refusals_explained(path):
        try:
            _client().call("GET", "b/{}/o", bucket, prefix=inside, maxResults=1, timeout=_SECONDS)
        except FileNotFoundError as error:
            raise UserError(f"{path}: there is no bucket {bucket!r}; make it, or mend its name") from error


@functools.cache
def _client() -> Any:
    """gcsfs, with the settings that epath will find as well."""
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # a second API, with permissions of its own
    for name in ("gcsfs", "google.auth"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they log what they raise
    try:
        import fsspec
        import gcsfs  # noqa: F401
    except ImportError as error:
        raise UserError(f"gs:// needs gcsfs, which does not import ({error}); pip install gcsfs") from error
    # Without a cache of listings: TensorStore writes into folders that gcsfs has listed.
    settings = {"use_listings_cache": False, "token": _way_to_log_in()}
    fsspec.config.conf["gcs"] = {**settings, **fsspec.config.conf.get("gcs", {})}
    return fsspec.filesystem("gcs", finalize_on_close=True)  # the arguments of epath: it is the same object


def _way_to_log_in() -> str:
    """What gcsfs shall try. Left alone it asks for one kind of credentials after the other, some for minutes."""
    if "STORAGE_EMULATOR_HOST" in os.environ:
        return "anon"
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError
    from google.auth.transport.requests import Request

    try:
        credentials, _ = google.auth.default(scopes=[_SCOPE])
    except DefaultCredentialsError:
        if "GOOGLE_APPLICATION_CREDENTIALS" in os.environ:
            raise
        os.environ["NO_GCE_CHECK"] = "true"  # this is no machine of Google's; others need not ask again
        return "anon"
    credentials.refresh(functools.partial(Request(), timeout=_SECONDS))  # what is refused is refused here, at once
    return "google_default"


@contextlib.contextmanager
def refusals_explained(where: epath.PathLike = "gs://") -> Iterator[None]:
    """Around what uses a bucket.

    Args:
        where: what the message begins with.

    Raises:
        UserError: in place of an error by which a bucket refused something; others pass.
    """
    try:
        yield
    except Exception as error:
        if (meaning := refusal(error)) is None:
            raise
        raise UserError(f"{os.fspath(where)}: {meaning}") from error


def refusal(error: BaseException) -> str | None:
    """Returns what a client's error means and what to do, if it is a refusal.

    Args:
        error: as gcsfs, TensorStore, or Google's own libraries, which orbax uses, raise it.

    Returns:
        None if it is anything else.
    """
    text = " ".join(str(error).split("\n  In call to configurable")[0].split())  # which gin adds
    library = type(error).__module__.partition(".")[0]
    if type(error).__module__.startswith("google.auth"):
        return f"{_ADVICE[401]} ({text[:200]})"
    if text.startswith("Project was not passed"):  # google.cloud
        return "no Google Cloud project; set GOOGLE_CLOUD_PROJECT"
    if library in {"aiohttp", "requests"} or type(error).__name__ == "FSTimeoutError":
        return f"Cloud Storage cannot be reached; look at the network ({text[:200] or type(error).__name__})"
    advice = _ADVICE.get(_status(library, error, text))
    return f"{advice} ({_what_was_said(text)})" if advice else None


def _status(library: str, error: BaseException, text: str) -> int:
    """The HTTP status in an error. Its type is not asked for: that would import what a local run does not need."""
    if library in {"gcsfs", "google"} and (code := getattr(error, "code", None)):
        return int(code)
    if isinstance(error, OSError) and text.startswith("Forbidden: "):  # gcsfs
        return 403
    found = re.search(r"http_response_code='(\d+)'", text) if isinstance(error, ValueError) else None  # TensorStore
    return int(found[1]) if found else 0


def _what_was_said(text: str) -> str:
    """Without addresses and codes: who may not do what."""
    text = re.sub(r"\[http_response.*|\b(GET|POST|PUT|DELETE|PATCH) https?://\S+|Forbidden: \S+|^\d+ |, \d+$", "", text)
    return " ".join(text.split())[:200]
