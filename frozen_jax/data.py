"""seqio tasks and mixtures as batches of numpy arrays. Beside `lm_vocabulary` the only file that imports seqio: 15 s.

    seqio task ──▶ its split, tokenized once, in memory ──▶ training: `batching.Batches`, by batch number
                                                       ├──▶ evaluation: `eval_examples`, in the order of the file
                                                       └──▶ files of tokens, for hosts without seqio: `token_cache`

seqio does what it is good at: sources, preprocessors, vocabularies, mixing rates, packing, metrics, caches. The order
of training is made behind it (`frozen_jax.ordering`): tf.data can only be resumed by reading up to the place again.
Preprocessors that draw random numbers do so once, when the split is tokenized, and not anew in every epoch.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from frozen_jax.answering import EvalTask
from frozen_jax.batching import (
    ENCODER_INPUTS,
    FEATURES,
    NEGATIVES,
    OPTIONAL_FEATURES,
    SEGMENTS,
    Ragged,
    TaskTokens,
    features_of,
)
from frozen_jax.errors import UserError
from frozen_jax.eval_examples import eval_task
from frozen_jax.lm_vocabulary import EncoderVocabulary as EncoderVocabulary
from frozen_jax.lm_vocabulary import LMVocabulary as LMVocabulary
from frozen_jax.ordering import permutation, random_bits
from frozen_jax.task_modules import load_task_module as load_task_module
from frozen_jax.tokenizer import lm_tokenizer

_RaggedTensor: Any = tf.RaggedTensor  # TensorFlow's type stubs leave out how one is made
_ADVICE = {NEGATIVES: " of the examples' text of that name"}


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
        task_feature_lengths: the most tokens of `inputs` and `targets`, and of `encoder_inputs` or `negatives` where
            those are wanted; longer ones are cut by seqio. A frame around the inputs comes on top, see `frames`.
        seed: of random preprocessors, and of the order in which examples are packed.
        split: which split.
        use_cached: read the task's seqio cache instead of its source.
        pack: let several examples of a task share a row, as seqio does it; mixing rates still count examples.

    Returns:
        What `batching.Batches` takes. A task of a mixture without any example is left out, and named on stderr.

    Raises:
        UserError: for an unknown task or split, no examples at all, lengths that do not fit, a missing cache, packed
            rows with anything beside inputs and targets.
    """
    lengths = _checked_lengths(task_feature_lengths)
    if pack and (beside := features_of(lengths)[len(FEATURES) :]):
        raise UserError(
            "an encoder reads whole examples, not packed rows; set TaskData.pack = False, or leave "
            f"{beside[0]} out of TASK_FEATURE_LENGTHS"
        )
    rates = find_tasks(mixture_or_task_name, split).items()
    tokens = [_task_tokens(task, rate, lengths, split, use_cached, seed) for task, rate in rates if rate > 0]
    if not tokens:
        raise UserError(f"mixture {mixture_or_task_name} is empty in its split {split!r}: all mixing rates there are 0")
    tokens = _with_examples(tokens, mixture_or_task_name, split)
    return [_packed(task, lengths, seed) for task in tokens] if pack else tokens


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
        task_feature_lengths: see `train_tokens`.
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
    how: dict[str, Any] = {"use_cached": use_cached, "seed": seed}
    return [eval_task(task, sampled(task, lengths, split, **how), split, lengths, max_examples, seed) for task in tasks]


def cacheable(
    mixture_or_task_name: str,
    task_feature_lengths: Mapping[str, int],
    *,
    train: bool = False,
    seed: int = 0,
    use_cached: bool = False,
) -> Iterator[EvalTask]:
    """Every split of every task as text, for `token_cache.write`, read one after the other.

    Args:
        mixture_or_task_name: registered in a module that has been imported.
        task_feature_lengths: see `train_tokens`.
        train: also "train", which may be large.
        seed: of random preprocessors.
        use_cached: read the task's seqio cache instead of its source.

    Returns:
        The splits, whole.

    Raises:
        UserError: for a task in other vocabularies than the run's, before anything is read; then as `eval_tasks`.
    """
    tasks = task_rates(mixture_or_task_name)
    for task in tasks:
        _check_vocabularies(task, task_feature_lengths)
    splits = sorted({split for task in tasks for split in task.splits} - (set() if train else {"train"}))
    what = (mixture_or_task_name, task_feature_lengths)
    return (task for split in splits for task in eval_tasks(*what, split, seed=seed, use_cached=use_cached))


def _check_vocabularies(task: seqio.Task, lengths: Mapping[str, int]) -> None:
    """Tokens in files are read with the run's tokenizers, so they must be their own."""
    probe = "The 3 quick foxes, über 漢字: don't!"
    for name, feature in task.output_features.items():
        if name in OPTIONAL_FEATURES and name not in lengths:
            continue
        whose, ours = ("encoder's", EncoderVocabulary) if name == ENCODER_INPUTS else ("LM's", LMVocabulary)
        tokenizer, vocabulary = ours().tokenizer, feature.vocabulary
        if vocabulary.eos_id != tokenizer.eos_id or vocabulary.encode(probe) != tokenizer.encode(probe):
            raise UserError(
                f"the {name} of task {task.name} are in {vocabulary}, not in the {whose} vocabulary "
                f"({tokenizer.name}); register it with frozen_jax.data.{ours.__name__}"
            )


def sampled(
    task: seqio.Task,
    lengths: Mapping[str, int | None] | None,
    split: str,
    *,
    every: int = 1,
    use_cached: bool = False,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Some examples of a task as seqio gives them: every so-many-th, so that a large split need not be read as tokens.

    Args:
        task: of `task_rates`.
        lengths: the most tokens of each feature; None cuts nothing, as a whole or for a feature.
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
    if set(lengths) != set(features_of(lengths)) or not all(isinstance(n, int) and n > 0 for n in lengths.values()):
        raise UserError(
            f"TASK_FEATURE_LENGTHS is {dict(lengths)}; give a positive number for each of {FEATURES}, and for "
            f"{ENCODER_INPUTS!r} where an encoder has a vocabulary of its own, {NEGATIVES!r} where a retriever learns"
        )
    return dict(lengths)


def _examples(
    task: seqio.Task, lengths: Mapping[str, int | None] | None, split: str, use_cached: bool, seed: int, every: int = 1
) -> tf.data.Dataset:
    """The pipeline of seqio over one split or every so-many-th example of it, in the order of the file."""
    if set(task.output_features) != set(features_of(task.output_features)):
        raise UserError(f"task {task.name} has the features {sorted(task.output_features)}; {FEATURES} are needed")
    if use_cached and task.supports_caching and not task.cache_dir:
        folders = seqio.get_global_cache_dirs()
        raise UserError(f"task {task.name} has no seqio cache in {folders}; cache it, or set USE_CACHED_TASKS = False")
    # For preprocessors that draw random numbers. A seed handed to seqio would break sources that take none.
    tf.random.set_seed(int(random_bits(1, seed, task.name, split)[0] >> np.uint64(33)))
    dataset = task.get_dataset(
        sequence_length=lengths,
        split=split,
        use_cached=use_cached,
        shuffle=False,
        shard_info=seqio.ShardInfo(0, every) if every > 1 else None,
        num_epochs=1,
        try_in_mem_cache=False,
    )
    for name in OPTIONAL_FEATURES:
        if name in (lengths or {}) and name not in dataset.element_spec:
            raise UserError(
                f"task {task.name} makes no {name}, which TASK_FEATURE_LENGTHS asks for; register it with "
                f"OUTPUT_FEATURES and PREPROCESSORS of tasks.common, which do{_ADVICE.get(name, '')}"
            )
    return dataset


def _task_tokens(
    task: seqio.Task, rate: float, lengths: Mapping[str, int], split: str, use_cached: bool, seed: int
) -> TaskTokens:
    dataset = _examples(task, lengths, split, use_cached, seed)
    features = features_of(lengths)
    tokens = dataset.map(lambda example: {name: _RaggedTensor.from_tensor(example[name][None]) for name in features})
    batches: list[Any] = list(tokens.ragged_batch(1024))  # each crossing from TensorFlow to Python costs 0.2 ms
    found = {name: _ragged([batch[name] for batch in batches]) for name in features}
    return TaskTokens(task.name, found | {"inputs": _framed(found["inputs"])}, rate)


def _framed(inputs: Ragged) -> Ragged:
    tokenizer = lm_tokenizer()
    if tokenizer.template is None:
        return inputs
    return Ragged.from_sequences(tokenizer.framed(inputs[row]) for row in range(len(inputs)))


def _with_examples(tasks: Sequence[TaskTokens], name: str, split: str) -> list[TaskTokens]:
    """A template may have nothing to say of the few records of a small sample; that is no reason to end a run."""
    found = [task for task in tasks if len(task)]
    if not found:
        raise UserError(f"{name} has no examples in its split {split!r}")
    if empty := [task.name for task in tasks if not len(task)]:
        print(f"{name}: left out, as they have no examples in the split {split!r}: {', '.join(empty)}", file=sys.stderr)
    return found


def _packed(task: TaskTokens, lengths: Mapping[str, int], seed: int) -> TaskTokens:
    """Rows in which seqio's packer has put as many examples as fit, met in an order that depends on the seed alone."""
    order = permutation(len(task), seed, task.name, "packing")
    # One more than each token: the packer takes 0 for padding, and token 0 is a real token elsewhere.
    tensors = {name: _RaggedTensor.from_row_splits(r.tokens, r.offsets) for name, r in task.features.items()}
    columns: Any = {name: tf.gather(tensor + 1, order) for name, tensor in tensors.items()}
    lengths = {**lengths, "inputs": lengths["inputs"] + lm_tokenizer().frame_length}
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
