"""A task such as a collaborator keeps outside this tree: MIXTURE_OR_TASK_MODULE=tests.end_to_end.tiny_tasks."""

import functools
import random

import seqio
import tensorflow as tf

from frozen_jax.data import LMVocabulary
from frozen_jax.text_metrics import accuracy

SIZES = {"train": 64, "validation": 12, "test": 12}


def examples(split, shuffle_files=False, seed=None):
    """Three to nine words; the answer is whether the first has an even number."""
    del shuffle_files, seed
    rng = random.Random(split)
    rows = [[rng.randrange(5, 96) for _ in range(rng.randrange(3, 10))] for _ in range(SIZES[split])]
    return tf.data.Dataset.from_tensor_slices(
        {
            "inputs": [" ".join(f"w{number}" for number in row) for row in rows],
            "targets": ["no" if row[0] % 2 else "yes" for row in rows],
        }
    )


def with_choices(dataset):
    return dataset.map(lambda example: {**example, "choices": ["yes", "no"]})


def asked_first(dataset):
    return dataset.map(lambda example: {**example, "inputs": tf.strings.join(["w7 w8 ", example["inputs"]])})


TASKS = {
    "tiny_written": [],
    "tiny_chosen": [with_choices],
    "tiny.even.bare": [with_choices],  # two templates of one data set
    "tiny.even.asked": [with_choices, asked_first],
    "tiny.odd.written": [],
}
for _name, _steps in TASKS.items():
    seqio.TaskRegistry.add(
        _name,
        source=seqio.FunctionDataSource(functools.partial(examples), splits=list(SIZES), num_input_examples=SIZES),
        preprocessors=[*_steps, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={name: seqio.Feature(LMVocabulary()) for name in ("inputs", "targets")},
        metric_fns=[accuracy],
    )
