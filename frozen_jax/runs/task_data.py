"""A run's data: a seqio task or mixture by its name, or the token files that were made of it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import gin
import jax
import numpy as np
from etils import epath

from frozen_jax import text_files, token_cache
from frozen_jax.answering import EvalTask
from frozen_jax.batching import LENGTH_WINDOW, Batches, Tokens, all_buckets
from frozen_jax.runs.environment import import_data
from frozen_jax.tokenizer import lm_tokenizer

__all__ = ["TaskData", "text_files"]  # importing this file makes TextFiles known to gin, before a run begins


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TaskData:
    """A seqio task or mixture, by name. seqio itself is imported when its examples are asked for.

    Attributes:
        mixture_or_task_name: registered by `module`.
        task_feature_lengths: the most tokens of "inputs" and "targets".
        batch_size: rows of a global training batch.
        seed: of the order of examples.
        module: Python module that registers tasks when it is imported; a collaborator's may stand anywhere.
        use_cached: read the task's seqio cache.
        buckets: feature → lengths that batches are padded to; None is `batching.default_buckets`.
        length_window: batches within which training examples are grouped by length; 1 groups nothing.
        pack: let several training examples share a row, for methods that allow it.
        token_cache: where `--run_mode=cache` has written token files; they are read instead of the task, without seqio.
        cache_dirs: where seqio_cache_tasks has left its folders, one a task; local or gs://.
        eval_examples: evaluate on so many examples of each task, chosen by the seed; None is the whole split.
    """

    mixture_or_task_name: str = gin.REQUIRED  # pyright: ignore[reportAssignmentType]
    task_feature_lengths: Mapping[str, int] = gin.REQUIRED  # pyright: ignore[reportAssignmentType]
    batch_size: int = 16
    seed: int = 0
    module: str = "tasks"
    use_cached: bool = False
    buckets: Mapping[str, Sequence[int]] | None = None
    length_window: int = LENGTH_WINDOW
    pack: bool = False
    token_cache: str | None = None
    cache_dirs: list[str] | tuple[str, ...] = ()
    eval_examples: int | None = None

    def train_batches(self) -> Batches:
        """Returns the training batches, see `data.train_batches`."""
        settings: dict[str, Any] = {
            "batch_size": self.batch_size,
            "seed": self.seed,
            "length_window": self.length_window,
            "process_index": jax.process_index(),
            "process_count": jax.process_count(),
        }
        if self.token_cache is None:
            settings |= {"use_cached": self.use_cached, "pack": self.pack, "buckets": self.buckets}
            return self._data().train_batches(self.mixture_or_task_name, self.task_feature_lengths, **settings)
        tokens = token_cache.train_tokens(self.token_cache, self.made())
        buckets = all_buckets(self.task_feature_lengths, self.buckets)
        return Batches(tokens, buckets=buckets, pad_id=lm_tokenizer().pad_id, **settings)

    def eval_tasks(self, split: str) -> list[EvalTask]:
        """Returns the examples of a split to evaluate on, see `data.eval_tasks`."""
        settings: dict[str, Any] = {"max_examples": self.eval_examples, "seed": self.seed}
        if self.token_cache is None:
            settings |= {"use_cached": self.use_cached}
            return self._data().eval_tasks(self.mixture_or_task_name, self.task_feature_lengths, split, **settings)
        tasks = token_cache.eval_tasks(self.token_cache, self.made(), split, **settings)
        for task in tasks:
            if task.unmeasured:
                print(f"{task.name}: {', '.join(task.unmeasured)} can only be measured where seqio is", file=sys.stderr)
        return tasks

    def input_tokens(self, text: str) -> Tokens:
        """Returns the tokens of a text as inputs, cut like the task's, with the end-of-sequence token."""
        tokenizer, length = lm_tokenizer(), self.task_feature_lengths["inputs"]
        return np.array([*tokenizer.encode(text)[: length - 1], tokenizer.eos_id], np.int32)

    def write_token_cache(self, directory: epath.PathLike) -> None:
        """Writes every split as token files, see `token_cache.write`."""
        data = self._data()
        what = (self.mixture_or_task_name, self.task_feature_lengths)
        settings: dict[str, Any] = {"seed": self.seed, "use_cached": self.use_cached}
        evaluation = data.cacheable(*what, **settings)
        token_cache.write(directory, self.made(), data.train_tokens(*what, pack=self.pack, **settings), evaluation)

    def made(self) -> token_cache.Made:
        """Returns what token files are made with."""
        return token_cache.made_now(self.mixture_or_task_name, self.task_feature_lengths, self.pack)

    def _data(self) -> ModuleType:
        """`frozen_jax.data`, the task module and the caches known to it."""
        data = import_data()
        data.seqio.add_global_cache_dirs(self.cache_dirs)
        data.load_task_module(self.module)
        return data
