"""Mixtures of the tasks: one module trained on several of them at once."""

from __future__ import annotations

import seqio

from tasks import hotpotqa, imdb, mrpc, sst2

# An example is drawn from each task equally often, however small the task: 204 pairs of MRPC beside 40,000 reviews.
seqio.MixtureRegistry.add(
    "four_classifications",
    [imdb.TASK, hotpotqa.TASK, mrpc.TASK, sst2.TASK],
    default_rate=1.0,
)
