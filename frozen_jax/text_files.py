"""Tasks out of JSON-lines, CSV and TSV files, described in gin, without Python.

    text_files.tasks = [@TextFiles()]
    TextFiles.name = "passages"
    TextFiles.files = {"train": "train.jsonl", "validation": "validation.csv"}
    TextFiles.inputs = "Question: {question} Passage: {passage}"
    TextFiles.targets = "answer"
    TextFiles.choices = ["no", "yes"]
    TextFiles.metrics = ["accuracy"]

Several tasks in one gin file stand in gin's scopes: `[@first/TextFiles(), @second/TextFiles()]`, `first/TextFiles.name`.
gin/tasks/csv_file.gin is an example to copy. Nothing here needs seqio; `tasks.files` makes seqio tasks of the
descriptions. Files, local or on gs://, are read when their examples are asked for.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gin
from etils import epath

from frozen_jax.errors import UserError
from frozen_jax.text_metrics import METRICS

Row = Mapping[str, Any]  # by column


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TextFiles:
    """A task whose examples stand in files, one a split.

    Attributes:
        name: of the task, for MIXTURE_OR_TASK_NAME.
        files: split → file, local or gs://: `.jsonl` or `.json` with one JSON object a line, `.csv` or `.tsv` whose
            first line names the columns, each also with `.gz` behind. The splits are train, validation and test. A
            lone train file is divided among all three, see `tasks.splits`.
        inputs: text with names of columns in braces, "Question: {question}", or the name of a column. Braces that are
            meant as such are doubled.
        targets: the same for the answer.
        choices: the answers to choose from, or the name of a column that holds a list of them; None: the LM writes.
        metrics: names out of `text_metrics.METRICS`.
    """

    name: str = gin.REQUIRED  # pyright: ignore[reportAssignmentType]
    files: Mapping[str, str] = gin.REQUIRED  # pyright: ignore[reportAssignmentType]
    inputs: str = "inputs"
    targets: str = "targets"
    choices: Sequence[str] | str | None = None
    metrics: Sequence[str] = ("accuracy",)

