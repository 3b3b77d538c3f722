r"""T0's training mixtures, t0_train, t0+_train and t0++_train, from the very examples that T0 was trained on.

A record of the hub's data set bigscience/P3, in our own words:

    inputs_pretokenized     "The bridge opens for ships. Does it follow that the bridge can move? Yes or no?"
    targets_pretokenized    "\nYes"
    answer_choices          ["Yes", "No"]       where the template has any
    inputs, targets         the same as token ids of T5, which are not read: text serves every LM

and the example made of it:

    inputs     "The bridge opens for ships. Does it follow that the bridge can move? Yes or no?"
    targets    "Yes"
    choices    ["Yes", "No"]

A task is one template over one data set, under P3's own name: `super_glue_boolq_exam`. Results are summed up by data
set, `super_glue_boolq` (`frozen_jax.templates`). P3 holds a folder of each task,
as seqio_cache_tasks lays it out: info.SPLIT.json and SPLIT.tfrecord-00000-of-00001. They are looked for in the folders
of SEQIO_CACHE_DIRS, local or gs://; where that is empty, the hub is asked for the files of the tasks that are read.

t0.csv has the facts: 54 data sets, their training examples and the first mixture that holds them, from t0/datasets.csv
of bigscience-workshop/t-zero; their templates' names, from promptsource 0.2.3, made names of tasks as T0 does, and
compared with the list of P3's tasks in the Flan collection. All 464 are here: of those that T0 excludes because they
are too long or broken, none belongs to these data sets any more. Sanh et al. 2022, arXiv:2110.08207.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import pathlib
from typing import Any

import seqio
import tensorflow as tf

from frozen_jax import hub, templates
from frozen_jax.cloud_storage import open_path
from frozen_jax.errors import UserError
from frozen_jax.text_metrics import accuracy
from tasks.common import OUTPUT_FEATURES, tokenize

HUB_ID = "bigscience/P3"
MIXTURES = ("t0_train", "t0+_train", "t0++_train")  # each holds what the one before it holds
SPLITS = ("train", "validation")  # where a test split has no labels, P3's targets are wrong
MOST = 500_000  # examples of a data set that count for its mixing rate
TEXTS = ("inputs_pretokenized", "targets_pretokenized")


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A row of t0.csv.

    Attributes:
        mixture: the first of `MIXTURES` that holds it.
        name: with which the names of its tasks begin.
        examples: of its training split.
        templates: their names, as the names of tasks end.
    """

    mixture: str
    name: str
    examples: int
    templates: tuple[str, ...]

    @property
    def tasks(self) -> list[str]:
        """The name of the task of each template."""
        return [f"{self.name}_{template}" for template in self.templates]

    @property
    def rate(self) -> int:
        """The mixing rate of each of its tasks. As T0 has it, only what is larger than `MOST` is shared out."""
        return self.examples if self.examples <= MOST else MOST // len(self.templates)


class Source(seqio.FunctionDataSource):
    """The folder of one task of P3; nothing is read or fetched before its splits or examples are asked for."""

    def __init__(self, task: str, every: int, first: int) -> None:
        """Remembers what to read.

        Args:
            task: its name.
            every: of how many training records one is read.
            first: the place of the first of them.
        """
        super().__init__(self._examples, splits=())
        self._task, self._every, self._first = task, every, first

    @property
    def splits(self) -> tuple[str, ...]:
        """Those of `SPLITS` that the folder has.

        Raises:
            UserError: if there is no such folder; says where it was looked for.
        """
        found = self._files()
        return tuple(split for split in SPLITS if f"info.{split}.json" in found)

    def _files(self) -> dict[str, str]:
        """Where the files are, by name."""
        return files(self._task, tuple(seqio.get_global_cache_dirs()))

    def _examples(self, split: str, shuffle_files: bool) -> tf.data.Dataset:
        del shuffle_files  # the order of training is made behind seqio, see frozen_jax.data
        features, count = self._info(split)
        if missing := set(TEXTS) - features:
            raise UserError(f"task {self._task}: the records of {split} have no {', '.join(sorted(missing))}")
        shards = [self._local(f"{split}.tfrecord-{i:05d}-of-{count:05d}") for i in range(count)]
        for shard in shards:
            _check_is_whole(shard)
        records = tf.data.TFRecordDataset(shards)
        if split == "train":
            records = records.shard(self._every, self._first)
        fields: dict[str, Any] = {name: tf.io.FixedLenFeature([], tf.string) for name in TEXTS}
        if "answer_choices" in features:
            fields["answer_choices"] = tf.io.FixedLenSequenceFeature([], tf.string, allow_missing=True)
        return records.map(lambda record: _example(tf.io.parse_single_example(record, fields)))

    def _info(self, split: str) -> tuple[set[str], int]:
        """The features of the records of a split, and in how many files they are."""
        path = self._local(f"info.{split}.json")
        try:
            info = json.loads(open_path(path).read_text())
            return set(info["features"]), int(info["num_shards"])
        except (ValueError, KeyError, TypeError) as error:
            cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(f"task {self._task}: {path} is damaged ({cause}); copy it again") from error

    def _local(self, name: str) -> str:
        """A path that TensorFlow can open."""
        found = self._files()
        if name not in found:
            raise UserError(f"task {self._task}: {name} is missing beside {next(iter(found.values()))}; copy it again")
        path = found[name]
        return path if seqio.get_global_cache_dirs() else str(hub.fetch_data_file(HUB_ID, path))


@functools.cache
def files(task: str, folders: tuple[str, ...]) -> dict[str, str]:
    """Finds the files of a task, once.

    Args:
        task: its name.
        folders: in which its folder is looked for; none of them for the hub.

    Returns:
        Paths by name, in the first folder that has the task, or in the hub's repository.

    Raises:
        UserError: if it is in none of the folders, or the hub cannot be reached.
    """
    for folder in folders:
        found = sorted(map(str, open_path(folder).glob(f"{task}/*")))
        if found:
            return {pathlib.PurePath(path).name: path for path in found}
    if folders:
        raise UserError(
            f"task {task}: no folder {task} in {list(folders)}; SEQIO_CACHE_DIRS has to name the folder data of a copy "
            f"of {HUB_ID}, or nothing, for the hub"
        )
    found = [path for path in hub.data_files(HUB_ID) if path.startswith(f"data/{task}/")]
    if not found:
        raise UserError(f"task {task}: {HUB_ID} on the hub has no folder data/{task}")
    return {pathlib.PurePath(path).name: path for path in found}


def _check_is_whole(path: str) -> None:
    """A clone made without git-lfs has three lines of text in place of each large file."""
    with tf.io.gfile.GFile(path, "rb") as file:
        if file.read(11) == b"version htt":
            raise UserError(f"{path} is only a pointer to the real file; run `git lfs pull` in that clone")


def _example(record: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    inputs, targets = (tf.strings.strip(record[name]) for name in TEXTS)
    choices = {"choices": record["answer_choices"]} if "answer_choices" in record else {}
    return {"inputs": inputs, "targets": targets, **choices}


def data_sets() -> list[DataSet]:
    """Reads t0.csv.

    Returns:
        The data sets.
    """
    with pathlib.Path(__file__).with_suffix(".csv").open(newline="") as file:
        return [
            DataSet(row["mixture"], row["data_set"], int(row["examples"]), tuple(row["templates"].split()))
            for row in csv.DictReader(file)
        ]


def add(data_set: DataSet) -> None:
    """Registers the tasks of a data set.

    Of the five sets larger than `MOST`, which would not fit into memory, every so-many-th training record is read, each
    template beginning at another: as many as an epoch of the mixture draws. This is our choice.

    Args:
        data_set: which.
    """
    every = data_set.examples // data_set.rate
    templates.register(data_set.name, data_set.tasks)
    for i, task in enumerate(data_set.tasks):
        seqio.TaskRegistry.add(
            task,
            source=Source(task, every, i % every),
            preprocessors=[tokenize, seqio.preprocessors.append_eos_after_trim],  # no cache: P3 is one
            output_features=OUTPUT_FEATURES,
            metric_fns=[accuracy],
        )


DATA_SETS = data_sets()
for _data_set in DATA_SETS:
    add(_data_set)
for _i, _mixture in enumerate(MIXTURES):
    _members = [member for member in DATA_SETS if member.mixture in MIXTURES[: _i + 1]]
    seqio.MixtureRegistry.add(_mixture, [(task, member.rate) for member in _members for task in member.tasks])
