"""The Hugging Face hub, as far as this project needs it: fetching a few files of a repository of a model or of data."""

from __future__ import annotations

import functools
import pathlib
import re
from collections.abc import Sequence

from frozen_jax.errors import UserError


def is_hub_id(source: str) -> bool:
    """Whether `source` looks like a model repository's id and not like a path.

    Args:
        source: what the user gave.

    Returns:
        True for `organisation/name`.
    """
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) is not None


def fetch_snapshot(hub_id: str, patterns: Sequence[str], revision: str | None = None) -> pathlib.Path:
    """Downloads the files of a model repository that match, or finds them in the hub's own cache.

    Args:
        hub_id: `organisation/name`.
        patterns: shell patterns of the files wanted; nothing else is downloaded.
        revision: branch, tag, commit or pull request (`refs/pr/1`); None is the main branch.

    Returns:
        The folder that holds them.

    Raises:
        UserError: if the hub cannot be reached, or has no such repository or revision.
    """
    from huggingface_hub import snapshot_download  # here, since its import is slow and most sources are local

    try:
        return pathlib.Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # of whichever HTTP library it has inside
        place = f"{hub_id!r} at revision {revision!r}" if revision else repr(hub_id)
        raise UserError(
            f"{place} is no folder here and could not be fetched from the hub: {_one_line(error)}"
        ) from error


@functools.cache
def data_commit(hub_id: str) -> str:
    """The state of a repository of data; the hub is asked once, so that no two states are mixed.

    Args:
        hub_id: `organisation/name`.

    Returns:
        The commit that the main branch is at.
    """
    from huggingface_hub import HfApi

    return str(HfApi().dataset_info(hub_id).sha)


@functools.cache
def data_files(hub_id: str) -> tuple[str, ...]:
    """Lists a repository of data at `data_commit`; the hub is asked once.

    Args:
        hub_id: `organisation/name`.

    Returns:
        The paths of its files in the repository.

    Raises:
        UserError: if the hub cannot be reached, or has no such repository.
    """
    from huggingface_hub import HfApi

    try:
        return tuple(HfApi().list_repo_files(hub_id, repo_type="dataset", revision=data_commit(hub_id)))
    except Exception as error:
        raise UserError(f"the hub could not be asked for the files of {hub_id!r}: {_one_line(error)}") from error


def fetch_data_file(hub_id: str, file: str) -> pathlib.Path:
    """Downloads one file of a repository of data at `data_commit`, or finds it in the hub's own cache.

    Args:
        hub_id: `organisation/name`.
        file: its path in the repository.

    Returns:
        Where it is now.

    Raises:
        UserError: if it cannot be had.
    """
    from huggingface_hub import hf_hub_download

    try:
        return pathlib.Path(hf_hub_download(hub_id, file, repo_type="dataset", revision=data_commit(hub_id)))
    except Exception as error:
        raise UserError(f"{file} of {hub_id!r} could not be fetched from the hub: {_one_line(error)}") from error


def find_revision(hub_id: str, files: Sequence[str], limit: int = 20) -> str | None:
    """Looks for a pull request of a model repository that holds one of the files.

    Many models have safetensors only there: the hub's converter opens a pull request, and nobody merges it.

    Args:
        hub_id: `organisation/name`.
        files: file names, of which one is enough.
        limit: how many pull requests are looked at, the newest first.

    Returns:
        The revision, such as `refs/pr/4`; None if there is none, or the hub does not say.
    """
    from huggingface_hub import HfApi

    try:
        references = HfApi().list_repo_refs(hub_id, include_pull_requests=True)
        for reference in (references.pull_requests or [])[-limit:][::-1]:
            if set(files) & set(HfApi().list_repo_files(hub_id, revision=reference.ref)):
                return reference.ref
    except Exception:  # the caller has a message to show; this only makes it more exact
        return None
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
