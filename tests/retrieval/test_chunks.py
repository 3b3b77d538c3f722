"""Rows that are made once, whatever is killed between."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from frozen_jax.errors import UserError
from frozen_jax.retrieval.chunks import Chunks


class Killed(Exception):
    pass


def squares(rows: range) -> dict[str, np.ndarray]:
    return {"square": np.array([row**2 for row in rows]), "twice": np.array([[row, row] for row in rows])}


def test_rows_come_back_in_order(tmp_path: pathlib.Path) -> None:
    chunks = Chunks(tmp_path, "squares", {"of": "numbers"}, total=10, size=4)
    chunks.fill(squares, "number")
    found = chunks.whole()
    assert found["square"].tolist() == [row**2 for row in range(10)]
    assert found["twice"].shape == (10, 2)
    assert [len(chunk["square"]) for chunk in chunks] == [4, 4, 2]


def test_a_killed_stage_goes_on_behind_its_last_whole_chunk(tmp_path: pathlib.Path) -> None:
    asked: list[range] = []

    def killed_at_8(rows: range) -> dict[str, np.ndarray]:
        asked.append(rows)
        if rows.start == 8 and len(asked) == 3:
            raise Killed
        return squares(rows)

    with pytest.raises(Killed):
        Chunks(tmp_path, "squares", {}, total=10, size=4).fill(killed_at_8, "number")
    again = Chunks(tmp_path, "squares", {}, total=10, size=4)
    again.fill(killed_at_8, "number")
    assert asked == [range(4), range(4, 8), range(8, 10), range(8, 10)]
    again.fill(killed_at_8, "number")
    assert len(asked) == 4
    assert again.whole()["square"][-1] == 81


@pytest.mark.parametrize("other", [{"total": 9}, {"made": {"of": "letters"}}, {"name": "cubes"}])
def test_what_is_made_otherwise_lies_elsewhere(tmp_path: pathlib.Path, other: dict) -> None:
    how = {"name": "squares", "made": {"of": "numbers"}, "total": 10}
    assert Chunks(tmp_path, **how).folder != Chunks(tmp_path, **(how | other)).folder
    assert Chunks(tmp_path, **how).folder == Chunks(tmp_path, **how).folder


def test_a_damaged_chunk_is_named(tmp_path: pathlib.Path) -> None:
    chunks = Chunks(tmp_path, "squares", {}, total=10, size=4)
    chunks.fill(squares, "number")
    (chunks.folder / "00000004.npz").write_bytes(b"PK half a file")
    with pytest.raises(UserError, match=r"00000004\.npz is missing or damaged .* delete it"):
        chunks.whole()


def test_no_pickle_is_written_or_read(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        Chunks(tmp_path, "objects", {}, total=1).fill(lambda rows: {"x": np.array([{}] * len(rows))}, "object")
    chunks = Chunks(tmp_path, "squares", {}, total=1)
    chunks.fill(squares, "number")
    np.savez(chunks.folder / "00000000.npz", x=np.array([{}]))
    with pytest.raises(UserError, match="missing or damaged"):
        chunks.whole()
