"""The seqio tasks of this tree: `import tasks` registers them all, and fetches nothing.

One file a data set. A file is read when its examples are asked for; the archives are pinned in `frozen_jax.wheels`.
"""

from tasks import cb, copa, hotpotqa, imdb, mixtures, mrpc, rte, sciq, squad, squad_answerable, sst2, wikipedia

__all__ = [
    "cb",
    "copa",
    "hotpotqa",
    "imdb",
    "mixtures",
    "mrpc",
    "rte",
    "sciq",
    "squad",
    "squad_answerable",
    "sst2",
    "wikipedia",
]
