"""What a template of P3 makes of the records of a split: examples as text, no longer than the LM reads.

As T0 does (Sanh et al. 2022), a record is left out if its template says nothing about it: no targets, or no two parts.
The rest is our choice.

Instructions often stand at the end, where a cut would take them. So where inputs are too long, the record is shortened
and rendered anew: each of its texts keeps its first words, as many for all of them as fit, so that only the longest
lose any, and of two long answers neither gives itself away. Targets and answer choices come of the whole record.

A record whose targets are none of the answer choices is left out, and one whose choices are the same once they are cut
at the length of targets: they could not be ranked.
"""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from frozen_jax.ordering import permutation
from frozen_jax.p3 import most_examples
from frozen_jax.tokenizer import lm_tokenizer
from tasks.common import Example
from tasks.p3_records import SOURCES
from tasks.p3_templates import Template, map_texts, read
from tasks.splits import SPLITS

EVALUATED = 500  # examples of a template's validation and test split at the most; T0 takes whole splits


def source(task: str, dataset: str, sizes: Mapping[str, int], templates: int) -> seqio.DataSource:
    """The records of a data set as JSON in the field `record`, a fixed sample of each split for each task.

    Args:
        task: the name of the task, which the sample depends on.
        dataset: one of `SOURCES`.
        sizes: how many records there are of each split.
        templates: how many templates share them.

    Returns:
        The source. It reads when a split is asked for; what it gives is not to be cached, as `p3.most_examples` may
        change.
    """

    def dataset_fn(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        del shuffle_files, seed  # the order of training is made behind seqio, see frozen_jax.data
        records, fields = SOURCES[dataset].records()[split], SOURCES[dataset].fields
        most = most_examples() // templates if split == "train" else EVALUATED
        chosen = sorted(permutation(len(records), task, split)[: max(1, most)].tolist())
        return tf.data.Dataset.from_tensor_slices({"record": [json.dumps(fields(records[row])) for row in chosen]})

    return seqio.FunctionDataSource(dataset_fn, splits=SPLITS, num_input_examples=dict(sizes), caching_permitted=False)


def render(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int] | None = None,
    *,
    folder: str,
    name: str,
    choosing: bool,
) -> tf.data.Dataset:
    """A preprocessor of seqio: records become examples as text.

    Args:
        dataset: of `source`.
        sequence_length: from seqio; the most tokens of each feature. None cuts nothing.
        folder: of promptsource, such as `glue/sst2`.
        name: of the template.
        choosing: whether the examples have answer choices.

    Returns:
        The examples, with `inputs`, `targets` and, where there are, `choices`.
    """
    template, lengths = read(folder)[name], sequence_length or {}
    records = (json.loads(item["record"]) for item in dataset.as_numpy_iterator())
    found = [made for record in records for made in examples(template, record, lengths, choosing)]
    columns: dict[str, Any] = {
        feature: tf.constant([example[feature] for example in found], tf.string, (len(found),))
        for feature in ("inputs", "targets")
    }
    if choosing:
        choices = [example["choices"] for example in found]
        columns["choices"] = tf.ragged.constant(choices, tf.string, ragged_rank=1)
    return tf.data.Dataset.from_tensor_slices(columns)


def examples(
    template: Template, record: Mapping[str, Any], lengths: Mapping[str, int], choosing: bool
) -> Iterator[Example]:
    """The example made of a record, if there is one.

    Args:
        template: of its data set.
        record: in the fields of Hugging Face.
        lengths: the most tokens of `inputs` and `targets`; none where nothing is cut.
        choosing: whether it is to have answer choices.

    Yields:
        The example.
    """
    key = template.key(record)
    parts = template.render(record, key)
    if len(parts) != 2 or not all(parts):
        return
    made: dict[str, Any] = {"inputs": parts[0], "targets": parts[1]}
    if choosing:
        made["choices"] = list(dict.fromkeys(template.choices(record, key) or []))
        if made["targets"] not in made["choices"] or not _differ(made["choices"], lengths.get("targets")):
            return
    if "inputs" in lengths:
        made["inputs"] = _that_fits(template, record, key, parts[0], lengths["inputs"] - 1)
    yield made


def shortened(record: Any, most: int) -> Any:
    """A record with the first words of its texts.

    Args:
        record: or what is in one.
        most: how many words a text keeps.

    Returns:
        The same with nothing changed in what is left of its texts.
    """

    def beginning(text: str) -> str:
        ends = [word.end() for word in re.finditer(r"\S+", text)]
        return text[: ends[most - 1]] if len(ends) > most else text

    return map_texts(record, beginning)


def _that_fits(template: Template, record: Mapping[str, Any], key: str, inputs: str, room: int) -> str:
    """The inputs of the record, shortened as little as an estimate finds out, so that they take `room` tokens."""
    counts = _words({name: record[name] for name in template.fields if name in record})
    most, tokens = max(counts), len(lm_tokenizer().encode(inputs))
    while tokens > room and most > 1:
        left = _total(counts, most) - (tokens - room) * len(inputs.split()) / tokens
        most = max(1, min(most - 1, bisect.bisect_right(range(1, most), left, key=lambda n: _total(counts, n))))
        inputs = template.render(shortened(record, most), key)[0]
        tokens = len(lm_tokenizer().encode(inputs))
    return inputs


def _total(counts: Sequence[int], most: int) -> int:
    """The words of all texts if none has more than `most`."""
    return sum(min(count, most) for count in counts)


def _words(value: Any) -> list[int]:
    """How many words each text has; 1 for what is none."""
    if isinstance(value, Mapping):
        return [count for item in value.values() for count in _words(item)]
    if isinstance(value, list):
        return [count for item in value for count in _words(item)]
    return [len(value.split()) if isinstance(value, str) else 1]


def _differ(choices: Sequence[str], length: int | None) -> bool:
    """Whether answer choices can be told apart when they are cut."""
    tokens = {tuple(lm_tokenizer().encode(choice)[: length and length - 1]) for choice in choices}
    return len(tokens) == len(choices)
