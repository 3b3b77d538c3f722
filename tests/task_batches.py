"""Training batches of a registered task, as a run makes them."""

from collections.abc import Mapping, Sequence
from typing import Any

from frozen_jax import data
from frozen_jax.batching import Batches, all_buckets
from frozen_jax.tokenizer import lm_tokenizer


def train_batches(
    mixture_or_task_name: str,
    task_feature_lengths: Mapping[str, int],
    batch_size: int,
    *,
    seed: int = 0,
    buckets: Mapping[str, Sequence[int]] | None = None,
    length_window: int = 1,
    **read: Any,
) -> Batches:
    """`read` is of `data.train_tokens`."""
    return Batches(
        data.train_tokens(mixture_or_task_name, task_feature_lengths, seed=seed, **read),
        batch_size=batch_size,
        seed=seed,
        buckets=all_buckets(task_feature_lengths, buckets, lm_tokenizer().frame_length),
        length_window=length_window,
        pad_id=lm_tokenizer().pad_id,
    )
