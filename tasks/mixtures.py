"""Mixtures of the tasks: one module trained on several of them at once."""

from __future__ import annotations

import seqio

from tasks import (
    arc,
    boolq,
    cb,
    commonsenseqa,
    copa,
    hellaswag,
    hotpotqa,
    imdb,
    mrpc,
    openbookqa,
    piqa,
    rte,
    sciq,
    socialiqa,
    squad_answerable,
    sst2,
    winogrande,
)

# An example is drawn from each task equally often, however small the task: 204 pairs of MRPC beside 40,000 reviews.
seqio.MixtureRegistry.add(
    "four_classifications",
    [imdb.TASK, hotpotqa.TASK, mrpc.TASK, sst2.TASK],
    default_rate=1.0,
)

# Questions about a text or two which end in "yes or no?". A task named here is in all_choices as well.
YES_OR_NO = [
    mrpc.TASK,
    rte.TASK,
    squad_answerable.TASK,
]
seqio.MixtureRegistry.add("yes_no_questions", YES_OR_NO, default_rate=1.0)

# Every task with answers to choose from. A task is drawn in proportion to its training examples, of which no more than
# `MOST` count: T5's examples-proportional mixing with a limit (Raffel et al. 2020, section 3.5.2). The limit is our
# choice; theirs are for sets a hundred times as large.
MOST = 4096
ALL_CHOICES = [
    *YES_OR_NO,
    arc.CHALLENGE,
    arc.EASY,
    boolq.TASK,
    cb.TASK,
    commonsenseqa.TASK,
    copa.TASK,
    hellaswag.TASK,
    hotpotqa.TASK,
    imdb.TASK,
    openbookqa.TASK,
    piqa.TASK,
    sciq.TASK,
    socialiqa.TASK,
    sst2.TASK,
    winogrande.TASK,
]


def limited_size(task: seqio.Task) -> float:
    """The mixing rate of a task, as `seqio.mixing_rate_num_examples`, which warns of every task that has no cache.

    Args:
        task: whose source knows its sizes.

    Returns:
        The number of its training examples, at most `MOST`.
    """
    return min(task.num_input_examples("train") or 0, MOST)


seqio.MixtureRegistry.add("all_choices", ALL_CHOICES, default_rate=limited_size)
