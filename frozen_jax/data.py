"""seqio tasks and mixtures as batches of numpy arrays. Beside `lm_vocabulary` the only file that imports seqio: 15 s.

    seqio task ──▶ its split, tokenized once, in memory ──▶ training: `batching.Batches`, by batch number
                                                       ├──▶ evaluation: `answering.EvalTask`, in the order of the file
                                                       └──▶ files of tokens, for hosts without seqio: `token_cache`

seqio does what it is good at: sources, preprocessors, vocabularies, mixing rates, packing, metrics, caches. The order
of training is made behind it (`frozen_jax.ordering`): tf.data can only be resumed by reading up to the place again.
Preprocessors that draw random numbers do so once, when the split is tokenized, and not anew in every epoch.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from frozen_jax.answering import EvalExample, EvalTask, unchanged
from frozen_jax.batching import FEATURES, SEGMENTS, Batches, Ragged, TaskTokens, Tokens, all_buckets
from frozen_jax.errors import UserError
from frozen_jax.lm_vocabulary import LMVocabulary as LMVocabulary
from frozen_jax.ordering import permutation, random_bits, sample
from frozen_jax.task_modules import load_task_module as load_task_module
from frozen_jax.tokenizer import lm_tokenizer

_RaggedTensor: Any = tf.RaggedTensor  # TensorFlow's type stubs leave out how one is made


def task_rates(name: str) -> dict[seqio.Task, float]:
    """The tasks behind a name, whatever splits they have.

    Args:
        name: of a task or a mixture.

    Returns:
        The tasks, with their mixing rates.

    Raises:
        UserError: if there is no such task or mixture (says what is close), if there are both, or if the mixture is
            empty.
    """
    tasks, mixtures = set(seqio.TaskRegistry.names()), set(seqio.MixtureRegistry.names())
    if name not in tasks | mixtures:
        names = sorted(tasks | mixtures)
        close = difflib.get_close_matches(name, names) or names or ["none: is MIXTURE_OR_TASK_MODULE set?"]
        raise UserError(f"no task or mixture is called {name!r}; registered and close: {', '.join(close)}")
    if name in tasks & mixtures:
        raise UserError(f"{name} is the name of a task and of a mixture; rename one of them")
    found = seqio.get_mixture_or_task(name)
    rates = _mixing_rates(found) if isinstance(found, seqio.Mixture) else {found: 1.0}
    if not any(rate > 0 for rate in rates.values()):
        names = ", ".join(sorted(task.name for task in rates))
        raise UserError(f"mixture {name} is empty: the mixing rates of {names} are all 0; give one of them more")
    return rates


def find_tasks(name: str, split: str) -> dict[seqio.Task, float]:
    """The tasks behind a name.

    Args:
        name: of a task or a mixture.
        split: tasks of a mixture that lack it are left out, as seqio does.

    Returns:
        The tasks that have the split, with their mixing rates.

    Raises:
        UserError: as `task_rates`, or if there is no such split; says which there are.
    """
    rates = task_rates(name)
    with_split = {task: rate for task, rate in rates.items() if split in task.splits}
    if not with_split:
        splits = {split for task in rates for split in task.splits}
        raise UserError(f"{name} has no split {split!r}; it has: {', '.join(sorted(splits))}")
    return with_split


def train_tokens(
    mixture_or_task_name: str,
    task_feature_lengths: Mapping[str, int],
    *,
    seed: int = 0,
    split: str = "train",
    use_cached: bool = False,
    pack: bool = False,
) -> list[TaskTokens]:
    """The training split of a task, or of every task of a mixture, as tokens.

    Args:
        mixture_or_task_name: registered in a module that has been imported.
        task_feature_lengths: the most tokens of `inputs` and `targets`; longer ones are cut by seqio.
        seed: of random preprocessors, and of the order in which examples are packed.
        split: which split.
        use_cached: read the task's seqio cache instead of its source.
        pack: let several examples of a task share a row, as seqio does it; mixing rates still count examples.

    Returns:
        What `batching.Batches` takes.

    Raises:
        UserError: for an unknown task or split, lengths that do not fit, a missing cache.
    """
    lengths = _checked_lengths(task_feature_lengths)
    rates = find_tasks(mixture_or_task_name, split).items()
    tokens = [_task_tokens(task, rate, lengths, split, use_cached, seed) for task, rate in rates if rate > 0]
    if not tokens:
        raise UserError(f"mixture {mixture_or_task_name} is empty in its split {split!r}: all mixing rates there are 0")
    return [_packed(task, lengths, seed) for task in tokens] if pack else tokens


def train_batches(
    mixture_or_task_name: str,
    task_feature_lengths: Mapping[str, int],
    batch_size: int,
    *,
    seed: int = 0,
    split: str = "train",
    use_cached: bool = False,
    pack: bool = False,
    buckets: Mapping[str, Sequence[int]] | None = None,
    length_window: int = 1,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """The training batches of a task or a mixture.

    Args:
        mixture_or_task_name: see `train_tokens`.
        task_feature_lengths: the most tokens of a row.
        batch_size: rows of a global batch.
        seed: of the order, the mixing, random preprocessors and packing.
        split: which split.
        use_cached: see `train_tokens`.
        pack: see `train_tokens`.
        buckets: for each feature the lengths to which batches are padded; see `batching.default_buckets`.
        length_window: batches within which examples are grouped by length.
        process_index: which process this is.
        process_count: of how many.

    Returns:
        The batches, by number.

    Raises:
        UserError: as `train_tokens`; for an empty split, and buckets that do not fit.
    """
    tokens = train_tokens(
        mixture_or_task_name, task_feature_lengths, seed=seed, split=split, use_cached=use_cached, pack=pack
    )
    return Batches(
        tokens,
        batch_size=batch_size,
        seed=seed,
        buckets=all_buckets(task_feature_lengths, buckets),
        length_window=length_window,
        pad_id=LMVocabulary().pad_id,
        process_index=process_index,
        process_count=process_count,
    )


def eval_tasks(
    mixture_or_task_name: str,
    task_feature_lengths: Mapping[str, int],
    split: str = "validation",
    *,
    max_examples: int | None = None,
    use_cached: bool = False,
    seed: int = 0,
) -> list[EvalTask]:
    """The examples on which a task, or every task of a mixture, is evaluated.

    Args:
        mixture_or_task_name: registered in a module that has been imported.
        task_feature_lengths: the most tokens of `inputs` and `targets`; longer ones are cut by seqio.
        split: which split.
        max_examples: evaluate no more than so many of a task: the first in a random order that depends on the seed.
        use_cached: read the task's seqio cache instead of its source.
        seed: of that choice, and of random preprocessors.

    Returns:
        The tasks, by name.

    Raises:
        UserError: for an unknown task or split, an empty split, answer choices that cannot be told apart, a missing
            cache.
    """
    lengths = _checked_lengths(task_feature_lengths)
    tasks = sorted(find_tasks(mixture_or_task_name, split), key=lambda task: task.name)
    return [_eval_task(task, lengths, split, max_examples, use_cached, seed) for task in tasks]


def cacheable(
    mixture_or_task_name: str, task_feature_lengths: Mapping[str, int], *, seed: int = 0, use_cached: bool = False
) -> Iterator[EvalTask]:
    """Every split but "train" of every task, for `token_cache.write`, read one after the other.

    Args:
        mixture_or_task_name: registered in a module that has been imported.
        task_feature_lengths: the most tokens of `inputs` and `targets`.
        seed: of random preprocessors.
        use_cached: read the task's seqio cache instead of its source.

    Returns:
        The splits, whole.

    Raises:
        UserError: for a task in another vocabulary than the LM's, before anything is read; then as `eval_tasks`.
    """
    tasks = task_rates(mixture_or_task_name)
    for task in tasks:
        _check_vocabulary(task)
    splits = sorted({split for task in tasks for split in task.splits} - {"train"})
    what = (mixture_or_task_name, task_feature_lengths)
    return (task for split in splits for task in eval_tasks(*what, split, seed=seed, use_cached=use_cached))


def _check_vocabulary(task: seqio.Task) -> None:
    """Tokens in files are read with the LM's tokenizer, so they must be its own."""
    probe, tokenizer = "The 3 quick foxes, über 漢字: don't!", lm_tokenizer()
    for name, feature in task.output_features.items():
        vocabulary = feature.vocabulary
        if vocabulary.eos_id != tokenizer.eos_id or vocabulary.encode(probe) != tokenizer.encode(probe):
            raise UserError(
                f"the {name} of task {task.name} are in {vocabulary}, not in the LM's vocabulary ({tokenizer.name}); "
                "register it with frozen_jax.data.LMVocabulary"
            )


def sampled(
    task: seqio.Task,
    lengths: Mapping[str, int] | None,
    split: str,
    *,
    every: int = 1,
    use_cached: bool = False,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Some examples of a task as seqio gives them: every so-many-th, so that a large split need not be read as tokens.

    Args:
        task: of `task_rates`.
        lengths: the most tokens of each feature; None cuts nothing.
        split: which split.
        every: of how many examples one is taken; the same ones whatever the lengths.
        use_cached: read the task's seqio cache instead of its source.
        seed: of random preprocessors.

    Returns:
        The examples, in the order of the file.
    """
    found: Any = _examples(task, lengths, split, use_cached, seed, every).as_numpy_iterator()
    return list(found)


def _mixing_rates(mixture: seqio.Mixture) -> dict[seqio.Task, float]:
    listed = [task.name for task in mixture._tasks]  # without those of mixtures inside, which add to a task's rate
    if twice := sorted({name for name in listed if listed.count(name) > 1}):
        raise UserError(f"mixture {mixture.name} lists {twice[0]} twice, and seqio drops one rate; list it once")
    try:
        return {task: mixture.get_rate(task) for task in mixture.tasks}
    except ZeroDivisionError as error:
        raise UserError(f"mixture {mixture.name} holds an empty mixture: one whose mixing rates are all 0") from error


def _checked_lengths(lengths: Mapping[str, int]) -> dict[str, int]:
    if set(lengths) != set(FEATURES) or not all(isinstance(n, int) and n > 0 for n in lengths.values()):
        raise UserError(f"TASK_FEATURE_LENGTHS is {dict(lengths)}; give a positive number for each of {FEATURES}")
    return dict(lengths)


def _examples(
    task: seqio.Task, lengths: Mapping[str, int] | None, split: str, use_cached: bool, seed: int, every: int = 1
) -> tf.data.Dataset:
    """The pipeline of seqio over one split or every so-many-th example of it, in the order of the file."""
    if set(task.output_features) != set(FEATURES):
        raise UserError(f"task {task.name} has the features {sorted(task.output_features)}; {FEATURES} are needed")
    if use_cached and task.supports_caching and not task.cache_dir:
        folders = seqio.get_global_cache_dirs()
        raise UserError(f"task {task.name} has no seqio cache in {folders}; cache it, or set USE_CACHED_TASKS = False")
    # For preprocessors that draw random numbers. A seed handed to seqio would break sources that take none.
    tf.random.set_seed(int(random_bits(1, seed, task.name, split)[0] >> np.uint64(33)))
    return task.get_dataset(
        sequence_length=lengths,
        split=split,
        use_cached=use_cached,
        shuffle=False,
        shard_info=seqio.ShardInfo(0, every) if every > 1 else None,
        num_epochs=1,
        try_in_mem_cache=False,
    )


def _task_tokens(
    task: seqio.Task, rate: float, lengths: Mapping[str, int], split: str, use_cached: bool, seed: int
) -> TaskTokens:
    dataset = _examples(task, lengths, split, use_cached, seed)
    tokens = dataset.map(lambda example: {name: _RaggedTensor.from_tensor(example[name][None]) for name in FEATURES})
    batches: list[Any] = list(tokens.ragged_batch(1024))  # each crossing from TensorFlow to Python costs 0.2 ms
    return TaskTokens(
        task.name, {feature: _ragged([batch[feature] for batch in batches]) for feature in FEATURES}, rate
    )


def _packed(task: TaskTokens, lengths: Mapping[str, int], seed: int) -> TaskTokens:
    """Rows in which seqio's packer has put as many examples as fit, met in an order that depends on the seed alone."""
    order = permutation(len(task), seed, task.name, "packing")
    # One more than each token: the packer takes 0 for padding, and token 0 is a real token elsewhere.
    tensors = {name: _RaggedTensor.from_row_splits(r.tokens, r.offsets) for name, r in task.features.items()}
    columns: Any = {name: tf.gather(tensor + 1, order) for name, tensor in tensors.items()}
    rows = seqio.trim_and_pack_dataset(tf.data.Dataset.from_tensor_slices(columns), lengths).batch(1024)
    batches: list[Any] = list(rows.as_numpy_iterator())
    features: dict[str, Ragged] = {}
    for name in FEATURES:
        tokens = [row[row > 0] - 1 for batch in batches for row in batch[name]]
        segments = [row[row > 0] for batch in batches for row in batch[f"{name}_segment_ids"]]
        features |= {name: Ragged.from_sequences(tokens), name + SEGMENTS: Ragged.from_sequences(segments)}
    rows_per_example = len(features["inputs"]) / max(1, len(task))
    return TaskTokens(task.name, features, task.rate * rows_per_example)


def _ragged(batches: Sequence[tf.RaggedTensor]) -> Ragged:
    """All rows of [rows, 1, (length)] batches."""
    lengths = [np.zeros(1, np.int64), *(batch.values.row_lengths().numpy() for batch in batches)]
    tokens = [np.zeros(0, np.int32), *(batch.flat_values.numpy() for batch in batches)]
    return Ragged(np.concatenate(tokens), np.cumsum(np.concatenate(lengths)))


def _eval_task(
    task: seqio.Task, lengths: Mapping[str, int], split: str, max_examples: int | None, use_cached: bool, seed: int
) -> EvalTask:
    found: list[Any] = list(_examples(task, lengths, split, use_cached, seed).as_numpy_iterator())
    if not found:
        raise UserError(f"task {task.name} has no examples in its split {split!r}")
    chosen = sample(len(found), max_examples, seed, task.name)
    if task.predict_with_aux_metric_fns:
        raise UserError(
            f"task {task.name} has a metric of (targets, predictions, aux_values); there are no aux_values here"
        )
    choices = _Choices(task, lengths["targets"])
    return EvalTask(
        name=task.name,
        split=split,
        split_size=len(found),
        examples=[_eval_example(task, index, found[index], choices) for index in chosen],
        targets_length=lengths["targets"],
        decode=lambda ids: task.output_features["targets"].vocabulary.decode([int(token) for token in ids]),
        postprocess=task._postprocess_fn or unchanged,
        predict_metrics=task.predict_metric_fns,
        score_metrics=task.score_metric_fns,
    )


def _eval_example(task: seqio.Task, index: int, raw: Mapping[str, Any], choices: _Choices) -> EvalExample:
    texts = {feature: _text(task, raw, feature) for feature in FEATURES}
    return EvalExample(
        index=index,
        inputs=np.asarray(raw["inputs"], np.int32),
        targets=np.asarray(raw["targets"], np.int32),
        inputs_text=texts["inputs"],
        targets_text=texts["targets"],
        choices=choices(raw["choices"]) if "choices" in raw else {},
        raw=raw,
    )


def _text(task: seqio.Task, raw: Mapping[str, Any], feature: str) -> str:
    """The text before it became tokens, if the task kept it; seqio's metrics look at that as well."""
    if f"{feature}_pretokenized" in raw:
        return raw[f"{feature}_pretokenized"].decode()
    return task.output_features[feature].vocabulary.decode(raw[feature].tolist())


class _Choices:
    """Turns answer choices into tokens, each text once, in the way that targets are made."""

    def __init__(self, task: seqio.Task, length: int) -> None:
        self._task, self._length = task, length
        self._encode = functools.cache(self._encode_one)

    def __call__(self, texts: Iterable[bytes]) -> dict[str, Tokens]:
        choices = {text.decode(): self._encode(text.decode()) for text in texts}
        if len({tokens.tobytes() for tokens in choices.values()}) < len(choices):
            raise UserError(
                f"task {self._task.name}: the answer choices {list(choices)} cannot be told apart when cut at "
                f"{self._length} tokens; allow more for targets"
            )
        return choices

    def _encode_one(self, text: str) -> Tokens:
        feature = self._task.output_features["targets"]
        ends = [feature.vocabulary.eos_id] if feature.add_eos else []
        tokens = feature.vocabulary.encode(text)[: self._length - len(ends)]
        return np.asarray([*tokens, *ends], np.int32)
