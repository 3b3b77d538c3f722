"""seqio tasks and mixtures as batches of numpy arrays. The only file that imports seqio, which takes 10 to 15 seconds.

    seqio task ──▶ its split, tokenized once, in memory ──▶ training: `batching.Batches`, by batch number
                                                       └──▶ evaluation: `answering.EvalTask`, in the order of the file

seqio does what it is good at: sources, preprocessors, vocabularies, mixing rates, metrics, caches. The order of
training is made behind it (`frozen_jax.ordering`), since tf.data can only be resumed by reading up to the place again.
Preprocessors that draw random numbers do so once, when the split is tokenized, and not anew in every epoch.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from jaxtyping import Int

from frozen_jax.answering import EvalExample, EvalTask
from frozen_jax.batching import FEATURES, Batches, Ragged, TaskTokens, Tokens, default_buckets
from frozen_jax.errors import UserError
from frozen_jax.ordering import permutation, random_bits
from frozen_jax.tokenizer import lm_tokenizer

_RaggedTensor: Any = tf.RaggedTensor  # TensorFlow's type stubs leave out how one is made


class LMVocabulary(seqio.Vocabulary):
    """The frozen LM's vocabulary, for the features of a task. Nothing is loaded before a text is tokenized.

    All of them are equal: which tokenizer stands behind them is said in one place, `lm_tokenizer`.
    """

    @property
    def eos_id(self) -> int:
        """The token that ends a text."""
        return lm_tokenizer().eos_id

    @property
    def pad_id(self) -> int:
        """The token that fills up rows."""
        return lm_tokenizer().pad_id

    @property
    def unk_id(self) -> None:
        """None: the tokenizer itself knows what to do with ids that it does not have."""
        return

    @property
    def _base_vocab_size(self) -> int:
        return lm_tokenizer().vocab_size

    def _encode(self, s: str) -> list[int]:
        return lm_tokenizer().encode(s)

    def _decode(self, ids: Iterable[int]) -> str:
        return lm_tokenizer().decode(list(ids))

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
        """Tokens of one text, [length], or of many, [N, (length)]."""
        tokens, lengths = tf.numpy_function(_encode_texts, [s], [tf.int32, tf.int64])
        tokens.set_shape([None])
        if not s.shape.rank:
            return tokens
        lengths.set_shape([None])
        return _RaggedTensor.from_row_lengths(tokens, lengths)

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        text = tf.numpy_function(lambda row: self._decode(row.tolist()).encode(), [ids], tf.string)
        text.set_shape([])
        return text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LMVocabulary)

    def __hash__(self) -> int:
        return hash(LMVocabulary)


def load_task_module(name: str) -> None:
    """Imports a module that registers tasks, of this tree or a collaborator's (MIXTURE_OR_TASK_MODULE).

    Args:
        name: of the module, such as `tasks`.

    Raises:
        UserError: if it does not import; says why, and for a name that is registered twice, where.
    """
    try:
        module = importlib.import_module(name)
        getattr(module, "register_from_gin", lambda: None)()  # tasks that gin describes, see frozen_jax.text_files
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"task module {name!r} does not import: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """In one line; of a name registered twice, with the file that did so."""
    cause = " ".join(f"{type(error).__name__}: {error}".split())
    twice = re.fullmatch("ValueError: Attempting to register duplicate provider: (.*)", cause)
    if not twice:
        return cause
    frames = traceback.extract_tb(error.__traceback__)
    *_, call = (frame for frame in frames if not frame.filename.startswith(seqio.__path__[0]))
    return f"{call.filename}, line {call.lineno}, registers {twice[1]!r}, and that name is taken; give it another one"


def find_tasks(name: str, split: str) -> dict[seqio.Task, float]:
    """The tasks behind a name.

    Args:
        name: of a task or a mixture.
        split: tasks of a mixture that lack it are left out, as seqio does.

    Returns:
        The tasks that have the split, with their mixing rates.

    Raises:
        UserError: if there is no such task or mixture, or no such split; says what is close.
    """
    names = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    if name not in names:
        close = difflib.get_close_matches(name, names) or sorted(names) or ["none: is MIXTURE_OR_TASK_MODULE set?"]
        raise UserError(f"no task or mixture is called {name!r}; registered and close: {', '.join(close)}")
    found = seqio.get_mixture_or_task(name)
    rates = _mixing_rates(found) if isinstance(found, seqio.Mixture) else {found: 1.0}
    with_split = {task: rate for task, rate in rates.items() if split in task.splits}
    if not with_split:
        raise UserError(f"{name} has no split {split!r}; it has: {', '.join(sorted(found.splits))}")
    return with_split


def train_batches(
    mixture_or_task_name: str,
    task_feature_lengths: Mapping[str, int],
    batch_size: int,
    *,
    seed: int = 0,
    split: str = "train",
    use_cached: bool = False,
    buckets: Mapping[str, Sequence[int]] | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """The training batches of a task or a mixture.

    Args:
        mixture_or_task_name: registered in a module that has been imported.
        task_feature_lengths: the most tokens of `inputs` and `targets`; longer ones are cut by seqio.
        batch_size: rows of a global batch.
        seed: of the order, the mixing and random preprocessors.
        split: which split.
        use_cached: read the task's seqio cache instead of its source.
        buckets: for each feature the lengths to which batches are padded; by default powers of two from 16 up.
        process_index: which process this is.
        process_count: of how many.

    Returns:
        The batches, by number.

    Raises:
        UserError: for an unknown task or split, an empty split, lengths or buckets that do not fit, a missing cache.
    """
    lengths = _checked_lengths(task_feature_lengths)
    tasks = [
        _task_tokens(task, rate, lengths, split, use_cached, seed)
        for task, rate in find_tasks(mixture_or_task_name, split).items()
        if rate > 0
    ]
    return Batches(
        tasks,
        batch_size=batch_size,
        seed=seed,
        buckets={feature: default_buckets(lengths[feature]) for feature in FEATURES} | dict(buckets or {}),
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


def _mixing_rates(mixture: seqio.Mixture) -> dict[seqio.Task, float]:
    return {task: mixture.get_rate(task) for task in mixture.tasks}


def _checked_lengths(lengths: Mapping[str, int]) -> dict[str, int]:
    if set(lengths) != set(FEATURES) or not all(isinstance(n, int) and n > 0 for n in lengths.values()):
        raise UserError(f"TASK_FEATURE_LENGTHS is {dict(lengths)}; give a positive number for each of {FEATURES}")
    return dict(lengths)


def _examples(task: seqio.Task, lengths: Mapping[str, int], split: str, use_cached: bool, seed: int) -> tf.data.Dataset:
    """The pipeline of seqio over one split, in the order of the file."""
    if set(task.output_features) != set(FEATURES):
        raise UserError(f"task {task.name} has the features {sorted(task.output_features)}; {FEATURES} are needed")
    if use_cached and task.supports_caching and not task.cache_dir:
        folders = seqio.get_global_cache_dirs()
        raise UserError(f"task {task.name} has no seqio cache in {folders}; cache it, or set USE_CACHED_TASKS = False")
    # For preprocessors that draw random numbers. A seed handed to seqio would break sources that take none.
    tf.random.set_seed(int(random_bits(1, seed, task.name, split)[0] >> np.uint64(33)))
    return task.get_dataset(
        sequence_length=lengths, split=split, use_cached=use_cached, shuffle=False, num_epochs=1, try_in_mem_cache=False
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


def _ragged(batches: Sequence[tf.RaggedTensor]) -> Ragged:
    """All rows of [rows, 1, (length)] batches."""
    lengths = [np.zeros(1, np.int64), *(batch.values.row_lengths().numpy() for batch in batches)]
    tokens = [np.zeros(0, np.int32), *(batch.flat_values.numpy() for batch in batches)]
    return Ragged(np.concatenate(tokens), np.cumsum(np.concatenate(lengths)))


def _eval_task(
    task: seqio.Task, lengths: Mapping[str, int], split: str, max_examples: int | None, use_cached: bool, seed: int
) -> EvalTask:
    found = list(_examples(task, lengths, split, use_cached, seed).as_numpy_iterator())
    if not found:
        raise UserError(f"task {task.name} has no examples in its split {split!r}")
    chosen = np.sort(permutation(len(found), seed, task.name, "evaluation")[:max_examples])
    if task.predict_with_aux_metric_fns:
        raise UserError(
            f"task {task.name} has a metric of (targets, predictions, aux_values); there are no aux_values here"
        )
    choices = _Choices(task, lengths["targets"])
    return EvalTask(
        name=task.name,
        split=split,
        split_size=len(found),
        examples=[_eval_example(task, index, found[index], choices) for index in chosen.tolist()],
        targets_length=lengths["targets"],
        decode=lambda ids: task.output_features["targets"].vocabulary.decode([int(token) for token in ids]),
        postprocess=task.postprocess_fn,
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


def _encode_texts(texts: bytes | np.ndarray) -> tuple[Tokens, Int[np.ndarray, " texts"]]:
    """Tokens of all texts end to end, and how many each has; called by TensorFlow."""
    tokenizer = lm_tokenizer()
    rows = [tokenizer.encode(text.decode()) for text in np.atleast_1d(np.asarray(texts, object))]
    return np.concatenate([np.zeros(0, np.int32), *rows]).astype(np.int32), np.array([len(r) for r in rows], np.int64)
