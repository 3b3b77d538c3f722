"""The seqio tasks of this tree: `import tasks` registers those of every file here, and fetches nothing.

One file a data set. A file is read when its examples are asked for; the archives are pinned in `frozen_jax.wheels`.
"""

import importlib
import pkgutil

from tasks.files import register_from_gin

__all__ = ["register_from_gin"]

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"tasks.{_file.name}")
