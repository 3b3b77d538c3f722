"""The seqio tasks of this tree: `import tasks` registers them all, and fetches nothing.

One file a data set. A file is read when its examples are asked for; the archives are pinned in `frozen_jax.wheels`.
"""

from tasks import (
    arc,
    boolq,
    cb,
    commonsenseqa,
    copa,
    files,
    hellaswag,
    hotpotqa,
    imdb,
    mixtures,
    mrpc,
    openbookqa,
    piqa,
    rte,
    sciq,
    socialiqa,
    squad,
    squad_answerable,
    sst2,
    tfds_glue,
    tfds_super_glue,
    wikipedia,
    winogrande,
)
from tasks.files import register_from_gin

__all__ = [
    "arc",
    "boolq",
    "cb",
    "commonsenseqa",
    "copa",
    "files",
    "hellaswag",
    "hotpotqa",
    "imdb",
    "mixtures",
    "mrpc",
    "openbookqa",
    "piqa",
    "register_from_gin",
    "rte",
    "sciq",
    "socialiqa",
    "squad",
    "squad_answerable",
    "sst2",
    "tfds_glue",
    "tfds_super_glue",
    "wikipedia",
    "winogrande",
]
