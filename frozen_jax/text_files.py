"""Tasks out of JSON-lines, CSV and TSV files, described in gin, without Python.

    text_files.tasks = [@TextFiles()]
    TextFiles.name = "passages"
    TextFiles.files = {"train": "train.jsonl", "validation": "validation.csv"}
    TextFiles.inputs = "Question: {question} Passage: {passage}"
    TextFiles.targets = "answer"
    TextFiles.choices = ["no", "yes"]
    TextFiles.metrics = ["accuracy"]

gin/tasks/csv_file.gin is an example to copy, docs/tasks.md explains it. Nothing here needs seqio: `tasks.files` makes
seqio tasks of the descriptions. Files, local or on gs://, are read when their examples are asked for.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import string
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gin
from etils import epath

from frozen_jax import cloud_storage
from frozen_jax.errors import UserError
from frozen_jax.text_metrics import METRICS

Example = dict[str, str | list[str]]

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
SEPARATOR = "|"  # of the texts in a cell that holds several
# The one needs to know which answers belong to one question; the other is squad, with figures that HotpotQA needs.
_PLAIN_METRICS = METRICS.keys() - {"multirc", "hotpotqa"}


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TextFiles:
    """A task whose examples stand in files.

    What is said of a text (`inputs`, `targets`, each of `choices`) is the name of a column, or a text with names of
    columns in braces: "Question: {question}". Braces that are meant as such are doubled.

    Attributes:
        name: of the task, for MIXTURE_OR_TASK_NAME.
        files: split → file; or one file alone, which is divided into train, validation and test (`tasks.splits`, keyed
            by the inputs). A file is `.jsonl` or `.json` with one object a line, or `.csv` or `.tsv` whose first line
            names the columns; each may have `.gz` behind.
        inputs: what the LM reads.
        targets: what it is to answer.
        labels: what `targets` says → the answer, such as {0: "negative", 1: "positive"}; None: `targets` is the answer.
        choices: the answers to choose from, here without braces as they stand; or a column with a list of them, whose
            texts stand between `|` in a CSV file; None: the LM writes.
        answers: a column with all right answers, a list like that of `choices`, for the metric squad.
        metrics: names out of `text_metrics.METRICS`.

    Raises:
        UserError: for a file of an unknown kind, an unknown metric, braces that do not match.
    """

    name: str = gin.REQUIRED  # pyright: ignore[reportAssignmentType]
    files: str | Mapping[str, str] = gin.REQUIRED  # pyright: ignore[reportAssignmentType]
    inputs: str = "inputs"
    targets: str = "targets"
    labels: Mapping[Any, str] | None = None
    choices: str | list[str] | None = None
    answers: str | None = None
    metrics: list[str] | tuple[str, ...] = ("accuracy",)

    def __post_init__(self) -> None:
        for file in [self.files] if isinstance(self.files, str) else self.files.values():
            if _suffix(file) not in SUFFIXES:
                raise UserError(f"task {self.name}: {file} is of an unknown kind; known: {', '.join(SUFFIXES)}, or .gz")
        if unknown := sorted(set(self.metrics) - _PLAIN_METRICS):
            known = ", ".join(sorted(_PLAIN_METRICS))
            raise UserError(f"task {self.name}: there is no metric {unknown[0]!r} for text files; known: {known}")
        if "squad" in self.metrics and len(self.metrics) > 1:
            raise UserError(f"task {self.name}: squad compares with lists of answers, the other metrics do not")
        for text in (self.inputs, self.targets, *([] if isinstance(self.choices, str) else self.choices or [])):
            _template(text, self.name)

    def read(self, file: str) -> list[Example]:
        """Reads the examples of one file.

        Args:
            file: one of `files`.

        Returns:
            The examples: `inputs`, `targets`, and `choices` and `answers` where the task has them.

        Raises:
            UserError: if there is no such file, nothing in it, or something that is no example; says where.
        """
        examples = [self._example(row) for row in rows(file)]
        if not examples:
            raise UserError(f"task {self.name}: {file} holds no examples")
        return examples

    def _example(self, row: Row) -> Example:
        target = row.fill(self._column(self.targets))
        if self.labels is not None:
            target = _labelled(row, {str(key): text for key, text in self.labels.items()}, target)
        example: Example = {"inputs": row.fill(self._column(self.inputs)), "targets": target}
        if self.choices is not None:
            example["choices"] = self._choices(row)
            if target not in example["choices"]:
                raise UserError(f"{row.where}: the answer {target!r} is none of the choices {example['choices']}")
        if "squad" in self.metrics:
            example["answers"] = row.texts(self.answers) if self.answers else [target]
        return example

    def _choices(self, row: Row) -> list[str]:
        if isinstance(self.choices, str):
            return row.texts(self.choices)
        return [row.fill(_template(choice, self.name)) for choice in self.choices or []]

    def _column(self, text: str) -> Template:
        template = _template(text, self.name)
        return template if any(field for _, field in template) else [("", text)]


Template = list[tuple[str, str | None]]  # texts, each with the column that follows it


@gin.configurable("text_files")
def text_files(tasks: Sequence[TextFiles] = ()) -> Sequence[TextFiles]:
    """The tasks that gin files describe.

    Args:
        tasks: bound in gin.

    Returns:
        The same.
    """
    return tasks


class Row(NamedTuple):
    """One line of a file.

    Attributes:
        where: the file and the line's number.
        columns: what stands in it.
    """

    where: str
    columns: Mapping[str, Any]

    def fill(self, template: Template) -> str:
        """Puts columns into a template.

        Args:
            template: texts and columns.

        Returns:
            The text, the columns without spaces around them.

        Raises:
            UserError: if a column is missing or holds no text.
        """
        return "".join(text + (self._text(field) if field else "") for text, field in template)

    def texts(self, column: str) -> list[str]:
        """The texts in a column that holds several.

        Args:
            column: its name.

        Returns:
            The texts, each once.

        Raises:
            UserError: if it is missing or holds none.
        """
        value = self._value(column)
        found = value.split(SEPARATOR) if isinstance(value, str) else value
        if not isinstance(found, list) or not found or not all(isinstance(text, str) for text in found):
            raise UserError(f"{self.where}: column {column!r} is {_shown(value)}; it must be a list of texts")
        return list(dict.fromkeys(text.strip() for text in found))

    def _text(self, column: str) -> str:
        value = self._value(column)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise UserError(f"{self.where}: column {column!r} is {_shown(value)}; it must be a text or a number")
        return str(value).strip()

    def _value(self, column: str) -> Any:
        if column not in self.columns:
            raise UserError(f"{self.where}: there is no column {column!r}; there are: {', '.join(self.columns)}")
        return self.columns[column]


def rows(file: str) -> Iterator[Row]:
    """The lines of a file.

    Args:
        file: local or gs://, see `TextFiles`.

    Yields:
        The lines that are not empty.

    Raises:
        UserError: if there is no such file, or it is not what its name says.
    """
    reader = _json_rows if _suffix(file) in (".jsonl", ".json") else _table_rows
    try:
        with cloud_storage.open_path(file).open("rb") as stream:
            unpacked: Any = gzip.GzipFile(fileobj=stream) if file.endswith(".gz") else stream
            # A spreadsheet may begin its CSV with a byte order mark.
            with io.TextIOWrapper(unpacked, encoding="utf-8-sig", newline="") as lines:
                yield from reader(file, lines)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {file}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not in UTF-8: {error.reason} at byte {error.start}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{file} is no gzip file: {error}") from error


def _json_rows(file: str, lines: io.TextIOWrapper) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            raise UserError(f"{file}, line {number}: no JSON: {error}") from error
        if not isinstance(found, dict):
            raise UserError(f'{file}, line {number}: {_shown(found)} is no JSON object such as {{"inputs": "..."}}')
        yield Row(f"{file}, line {number}", found)


def _table_rows(file: str, lines: io.TextIOWrapper) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # an article in a cell is longer than Python's 131,072 characters
    reader = csv.reader(lines, delimiter="\t" if _suffix(file) == ".tsv" else ",")
    try:
        header = next(reader, [])
        for cells in reader:
            where = f"{file}, line {reader.line_num}"
            if cells and len(cells) != len(header):
                raise UserError(f"{where}: {len(cells)} cells; the first line names {len(header)} columns")
            if cells:
                yield Row(where, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise UserError(f"{file}, line {reader.line_num}: {error}") from error


def _suffix(file: str) -> str:
    return epath.Path(file.removesuffix(".gz")).suffix.lower()


def _template(text: str, task: str) -> Template:
    try:
        return [(literal, field) for literal, field, _, _ in string.Formatter().parse(text)]
    except ValueError as error:
        raise UserError(f"task {task}: {text!r}: {error}; braces that are meant as such are doubled") from error


def _labelled(row: Row, labels: Mapping[str, str], target: str) -> str:
    if target not in labels:
        raise UserError(f"{row.where}: the label {target!r} is none of {', '.join(labels)}")
    return labels[target]


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
