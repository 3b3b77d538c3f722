"""The seqio tasks of this tree: `import tasks` registers them all, and fetches nothing.

One file a data set. A file is read when its examples are asked for; the archives are pinned in `frozen_jax.wheels`.
"""

from tasks import files, hotpotqa, imdb, mixtures, mrpc, squad, sst2, tfds_glue, tfds_super_glue
from tasks.files import register_from_gin

__all__ = [
    "files",
    "hotpotqa",
    "imdb",
    "mixtures",
    "mrpc",
    "register_from_gin",
    "squad",
    "sst2",
    "tfds_glue",
    "tfds_super_glue",
]
