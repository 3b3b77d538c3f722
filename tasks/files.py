"""Tasks that gin files describe: JSON-lines, CSV and TSV files, see `frozen_jax.text_files`.

A line of such a file, here of JSON,

    {"question": "does the bridge open", "passage": "Its middle part can be raised for ships.", "answer": "yes"}

becomes what the gin file says of it (gin/tasks/csv_file.gin):

    inputs     "Question: does the bridge open Passage: Its middle part can be raised for ships."
    targets    "yes"
    choices    ["no", "yes"]

`data.load_task_module` calls `register_from_gin` of the module that it loads, if that has one: importing is too early,
since gin files may import task modules while gin is still being read.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import seqio
import tensorflow as tf

from frozen_jax.errors import UserError
from frozen_jax.text_files import Example, TextFiles, text_files
from frozen_jax.text_metrics import METRICS, POSTPROCESSORS
from tasks.common import OUTPUT_FEATURES, PREPROCESSORS, to_dataset
from tasks.splits import LARGE, SMALL, SPLITS, carve

THOUSANDS = 2000  # examples from which a tenth is enough for a test split


_ADDED: dict[str, TextFiles] = {}


def register_from_gin() -> None:
    """Registers what gin describes; what it has registered before is left as it is.

    Raises:
        UserError: if another task has one of the names, and whatever `TextFiles` raises.
    """
    for described in text_files():
        if described.name not in seqio.TaskRegistry.names() or _ADDED.get(described.name) != described:
            _ADDED[add(described).name] = described


def add(described: TextFiles) -> seqio.Task:
    """Registers one task.

    Args:
        described: what it is.

    Returns:
        The task.

    Raises:
        UserError: if a task or mixture of that name is there already.
    """
    if described.name in {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}:
        raise UserError(
            f"TextFiles.name: a task named {described.name!r} is registered already; give this one another name"
        )
    return seqio.TaskRegistry.add(
        described.name,
        source=_source(described),
        preprocessors=PREPROCESSORS,
        output_features=OUTPUT_FEATURES,
        postprocess_fn=POSTPROCESSORS["squad_postprocessor"] if "squad" in described.metrics else None,
        metric_fns=[METRICS[name] for name in described.metrics],
    )


def _source(described: TextFiles) -> seqio.DataSource:
    files = described.files

    @functools.cache
    def divided() -> dict[str, list[Example]]:
        examples = described.read(str(files))
        must_not_leak = [[str(example["inputs"])] for example in examples]
        return carve(examples, must_not_leak, LARGE if len(examples) >= THOUSANDS else SMALL)

    @functools.cache
    def examples(split: str) -> Sequence[Example]:
        found = divided()[split] if isinstance(files, str) else described.read(files[split])
        if not found:
            raise UserError(f"task {described.name}: {files} is too small to be divided, nothing is left for {split}")
        return found

    def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        del shuffle_files, seed  # the order of training is made behind seqio, see frozen_jax.data
        return to_dataset(examples(split))

    return seqio.FunctionDataSource(dataset, splits=SPLITS if isinstance(files, str) else list(files))
