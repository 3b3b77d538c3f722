"""The seqio tasks of this tree: `import tasks` registers them all, and fetches nothing.

One file a data set. A file is read when its examples are asked for; the archives are pinned in `frozen_jax.wheels`.
"""

from tasks import (
    arc,
    boolq,
    commonsenseqa,
    hellaswag,
    hotpotqa,
    imdb,
    mixtures,
    mrpc,
    openbookqa,
    piqa,
    socialiqa,
    squad,
    sst2,
    winogrande,
)

__all__ = [
    "arc",
    "boolq",
    "commonsenseqa",
    "hellaswag",
    "hotpotqa",
    "imdb",
    "mixtures",
    "mrpc",
    "openbookqa",
    "piqa",
    "socialiqa",
    "squad",
    "sst2",
    "winogrande",
]
