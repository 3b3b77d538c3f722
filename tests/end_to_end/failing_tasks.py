"""A task with a metric that raises, beside one that is well: MIXTURE_OR_TASK_MODULE=tests.end_to_end.failing_tasks."""

import functools

import seqio

from frozen_jax.data import LMVocabulary
from tests.end_to_end import tiny_tasks


def broken(targets, predictions):
    raise ValueError(f"{len(targets)} are too many")


seqio.TaskRegistry.add(
    "tiny_failing",
    source=seqio.FunctionDataSource(functools.partial(tiny_tasks.examples), splits=list(tiny_tasks.SIZES)),
    preprocessors=[tiny_tasks.with_choices, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features={name: seqio.Feature(LMVocabulary()) for name in ("inputs", "targets")},
    metric_fns=[broken, tiny_tasks.accuracy],
)
seqio.MixtureRegistry.add("tiny_half_failing", ["tiny_failing", "tiny_chosen"], default_rate=1.0)
