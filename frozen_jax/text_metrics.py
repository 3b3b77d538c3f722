"""Metrics of predicted texts, between 0 and 1. An empty prediction is a wrong one; no prediction at all is an error.

Here and not in `tasks/`, which imports seqio: hosts without it judge predictions all the same.
"""

from __future__ import annotations

import collections
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """The share of predictions that are the target, but for spaces around them.

    Args:
        targets: the right answers.
        predictions: one for each.

    Returns:
        `{"accuracy": ...}`.
    """
    return {"accuracy": _mean(_hits(targets, predictions))}


def mean_class_recall(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Accuracy within each class, averaged over the classes, so that always giving one answer earns 1 / classes.

    Args:
        targets: the right answers; the classes are those among them.
        predictions: one for each.

    Returns:
        `{"mean_class_recall": ...}`.
    """
    by_class: dict[str, list[float]] = collections.defaultdict(list)
    for target, hit in zip(targets, _hits(targets, predictions), strict=True):
        by_class[target].append(hit)
    return {"mean_class_recall": _mean([_mean(hits) for hits in by_class.values()])}


def squad(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """Exact match and token F1 of SQuAD's official script, each against the answer that fits best.

    Args:
        targets: for each question the answers that people gave.
        predictions: one for each question.

    Returns:
        `{"exact_match": ..., "f1": ...}`, averaged over the questions.
    """
    pairs = list(zip(targets, predictions, strict=True))
    return {
        "exact_match": _mean([_best(_exact_match, answers, prediction) for answers, prediction in pairs]),
        "f1": _mean([_best(_f1, answers, prediction) for answers, prediction in pairs]),
    }


def squad_postprocessor(text: str, example: Mapping[str, Any], is_target: bool = False) -> str | list[str]:
    """A target becomes all the answers that people gave; a prediction stays as it is.

    Args:
        text: a decoded target or prediction.
        example: as seqio gives it, its `answers` as bytes.
        is_target: which of the two `text` is.

    Returns:
        What `squad` takes.
    """
    return [answer.decode() for answer in example["answers"]] if is_target else text


def normalize_answer(text: str) -> str:
    """SQuAD's official normalisation: lower case, without punctuation, articles and superfluous spaces.

    Args:
        text: an answer.

    Returns:
        The form in which answers are compared.
    """
    without_punctuation = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", without_punctuation).split())


def _best(measure: Callable[[str, str], float], answers: Sequence[str], prediction: str) -> float:
    """Against the answers that say something: three in SQuAD are a lone full stop, which nothing at all would match."""
    normalized = filter(None, map(normalize_answer, answers))
    return max((measure(answer, normalize_answer(prediction)) for answer in normalized), default=0.0)


def _exact_match(answer: str, prediction: str) -> float:
    return float(answer == prediction)


def _f1(answer: str, prediction: str) -> float:
    expected, given = answer.split(), prediction.split()
    shared = sum((collections.Counter(expected) & collections.Counter(given)).values())
    return 2 * shared / (len(expected) + len(given)) if shared else 0.0


def _hits(targets: Sequence[str], predictions: Sequence[str]) -> list[float]:
    return [float(target.strip() == given.strip()) for target, given in zip(targets, predictions, strict=True)]


def _mean(values: Sequence[float]) -> float:
    if not values:
        raise ValueError("there are no predictions to measure")
    return sum(values) / len(values)
