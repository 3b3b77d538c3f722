"""One passage, or one document, a line: JSON, or the table of Wikipedia that DPR made usual.

    passages.jsonl    {"id": "Anna Dupont#0", "title": "Anna Dupont", "text": "Anna Dupont is a ..."}    title optional
    passages.tsv      id<tab>text<tab>title                                                     as psgs_w100.tsv of DPR
                      1<tab>"Anna ""Nan"" Dupont is a ..."<tab>Anna Dupont

A table quotes as csv does; a record never spans lines, so that any one can be read by itself.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from typing import Any

from etils import epath

from frozen_jax.errors import UserError
from frozen_jax.retrieval.base import Passage

HEADER = ["id", "text", "title"]  # of a table

csv.field_size_limit(2**31 - 1)  # an article in a cell is longer than Python's 131,072 characters


class PassageLines:
    """What a file's lines mean.

    Attributes:
        path: of the file.
        header_lines: how many lines stand before the first passage.
    """

    def __init__(self, path: epath.PathLike) -> None:
        """Looks at the file's name alone.

        Args:
            path: local or gs://, ending in `.jsonl` or `.tsv`.

        Raises:
            UserError: if it is of another kind.
        """
        self.path = epath.Path(path)
        if self.path.suffix == ".gz":
            raise UserError(f"{path} is compressed, and passages are read from its midst: gunzip it")
        readers: dict[str, Callable[[str], Passage]] = {".jsonl": _of_json, ".tsv": _of_table}
        if self.path.suffix not in readers:
            raise UserError(f"{path} is of an unknown kind; passages stand in .jsonl or .tsv files")
        self._reader = readers[self.path.suffix]
        self.header_lines = int(self.path.suffix == ".tsv")

    def check_header(self, line: bytes) -> None:
        """Looks at a table's first line.

        Args:
            line: as it stands in the file.

        Raises:
            UserError: if it does not name DPR's columns.
        """
        found = line.decode("utf-8", "replace").rstrip("\r\n").split("\t")
        if found != HEADER:
            raise UserError(f"{self.path}, line 1: the columns are {found}; they must be {HEADER}, with tabs between")

    def passage(self, line: bytes, number: int) -> Passage:
        """Reads a line.

        Args:
            line: as it stands in the file.
            number: of the passage, from 0 on.

        Returns:
            The passage.

        Raises:
            UserError: if there is none in it; names the line.
        """
        try:
            return _checked(self._reader(line.decode("utf-8").rstrip("\r\n")))
        except UnicodeError as error:
            problem = f"not in UTF-8 ({error.reason if isinstance(error, UnicodeDecodeError) else error})"
        except (ValueError, RecursionError) as error:
            problem = str(error)
        raise UserError(f"{self.path}, line {self.line_number(number)}: {problem}")

    def line_number(self, number: int) -> int:
        """The line, from 1 on, in which a passage stands.

        Args:
            number: of the passage.

        Returns:
            The number that an editor shows.
        """
        return number + 1 + self.header_lines


def _checked(passage: Passage) -> Passage:
    if not passage.id:
        raise ValueError("the id is empty")
    if not passage.text or passage.text.isspace():
        raise ValueError(f"passage {passage.id!r} holds nothing but white space")
    "".join(passage).encode()  # JSON may escape halves of characters, which are no text
    return passage


def _of_json(line: str) -> Passage:
    if not line.strip():
        raise ValueError("the line is empty; each must hold a passage")
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ValueError(f"no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError('no JSON object such as {"id": "...", "title": "...", "text": "..."}')
    if "title" not in found:
        found["title"] = ""
    return Passage(*(_field(found, name) for name in Passage._fields))


def _field(found: dict[str, Any], name: str) -> str:
    if name not in found:
        raise ValueError(f"there is no field {name!r}; there are: {', '.join(found)}")
    value = str(found[name]) if name == "id" and type(found[name]) is int else found[name]
    if not isinstance(value, str):
        raise ValueError(f"field {name!r} is no text but {json.dumps(value)[:40]}")
    return value


def _of_table(line: str) -> Passage:
    try:
        cells = next(csv.reader([line], delimiter="\t", strict=True), [])
    except csv.Error as error:
        raise ValueError(f"{error}; a quote must be closed in its line, those inside be doubled") from error
    if len(cells) != len(HEADER):
        raise ValueError(f"{len(cells)} columns; there must be {len(HEADER)}: {', '.join(HEADER)}")
    return Passage(id=cells[0], title=cells[2], text=cells[1])
