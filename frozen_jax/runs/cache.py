"""`--run_mode=cache`: writes a task or a mixture once as token files, for hosts without TensorFlow and seqio."""

from __future__ import annotations

import time

import gin
from etils import epath

from frozen_jax import token_cache
from frozen_jax.errors import UserError
from frozen_jax.runs.task_data import TaskData


@gin.configurable
def cache(data: TaskData = gin.REQUIRED, directory: str | None = None, train_texts: bool = False) -> None:
    """Writes the token files that TOKEN_CACHE_DIR names; where they are whole already, it says so.

    Args:
        data: the task; its lengths, its packing and the LM's tokenizer go into the files.
        directory: where to, local or gs://.
        train_texts: also the training split as text, which methods that prepare texts need (frozen readers, textual
            recursion), and `TaskData.train_half`.

    Raises:
        UserError: if no directory is given, or one that holds a cache made with something else, or without these texts.
    """
    if directory is None:
        raise UserError("cache: where to? give --gin.TOKEN_CACHE_DIR=FOLDER")
    if token_cache.is_complete(directory, data.made(), train_texts):
        print(f"{directory}: the token files of {data.mixture_or_task_name} are there already")
        return
    began = time.perf_counter()
    data.write_token_cache(directory, train_texts)
    size = sum(path.stat().length for path in epath.Path(directory).glob("*/*"))
    print(f"{directory}: {data.mixture_or_task_name} as {size:,} bytes in {time.perf_counter() - began:.0f} s")
