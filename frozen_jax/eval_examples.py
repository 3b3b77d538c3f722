"""The examples of a seqio task as `answering.EvalTask`: tokens, texts, answer choices, and what judges the answers.

Part of `data`, which reads them; here seqio itself is not needed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from frozen_jax.answering import EvalExample, EvalTask, unchanged
from frozen_jax.batching import ENCODER_INPUTS, FEATURES, Tokens
from frozen_jax.errors import UserError
from frozen_jax.ordering import sample
from frozen_jax.tokenizer import lm_tokenizer


def eval_task(
    task: Any,
    found: Sequence[Mapping[str, Any]],
    split: str,
    lengths: Mapping[str, int],
    max_examples: int | None,
    seed: int,
) -> EvalTask:
    """Makes a task ready for evaluation.

    Args:
        task: of seqio.
        found: its examples as seqio gives them, the whole split.
        split: which split they are.
        lengths: the most tokens of each feature.
        max_examples: keep no more than so many.
        seed: of that choice.

    Returns:
        The task.

    Raises:
        UserError: for an empty split, metrics that cannot be computed, answer choices that cannot be told apart.
    """
    if not found:
        raise UserError(f"task {task.name} has no examples in its split {split!r}")
    if task.predict_with_aux_metric_fns:
        raise UserError(
            f"task {task.name} has a metric of (targets, predictions, aux_values); there are no aux_values here"
        )
    choices = _Choices(task, lengths["targets"])
    chosen = sample(len(found), max_examples, seed, task.name)
    return EvalTask(
        name=task.name,
        split=split,
        split_size=len(found),
        examples=[_example(task, index, found[index], choices, lengths) for index in chosen],
        targets_length=lengths["targets"],
        decode=lambda ids: task.output_features["targets"].vocabulary.decode([int(token) for token in ids]),
        postprocess=task._postprocess_fn or unchanged,
        predict_metrics=task.predict_metric_fns,
        score_metrics=task.score_metric_fns,
    )


def _example(
    task: Any, index: int, raw: Mapping[str, Any], choices: _Choices, lengths: Mapping[str, int]
) -> EvalExample:
    texts = {feature: _text(task, raw, feature) for feature in FEATURES}
    return EvalExample(
        index=int(raw.get("record_number", index)),
        inputs=lm_tokenizer().framed(np.asarray(raw["inputs"], np.int32)),
        targets=np.asarray(raw["targets"], np.int32),
        inputs_text=texts["inputs"],
        targets_text=texts["targets"],
        choices=choices(raw["choices"]) if "choices" in raw else {},
        raw=raw,
        encoder_inputs=np.asarray(raw[ENCODER_INPUTS], np.int32) if ENCODER_INPUTS in lengths else None,
    )


def _text(task: Any, raw: Mapping[str, Any], feature: str) -> str:
    """The text before it became tokens, if the task kept it; seqio's metrics look at that as well."""
    if f"{feature}_pretokenized" in raw:
        return raw[f"{feature}_pretokenized"].decode()
    return task.output_features[feature].vocabulary.decode(raw[feature].tolist())


class _Choices:
    """Turns answer choices into tokens, each text once, in the way that targets are made."""

    def __init__(self, task: Any, length: int) -> None:
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
