"""Metrics of predicted texts, 1 at best. An empty prediction is a wrong one; no prediction at all is an error.

Here and not in `tasks/`, which imports seqio: hosts without it judge predictions all the same. They, and gin files,
find metrics by name in `METRICS`, and what makes texts ready for a metric in `POSTPROCESSORS`.
"""

from __future__ import annotations

import collections
import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float


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


def f1_of_yes(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """F1 of the answer "yes", which GLUE asks for where paraphrases are looked for (MRPC, QQP).

    Args:
        targets: the right answers.
        predictions: one for each.

    Returns:
        `{"f1_of_yes": ...}`, 0 where nobody says yes.
    """
    return {"f1_of_yes": _f1_of_class("yes", targets, predictions)}


def mean_class_f1(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """F1 of each class, averaged over the classes; SuperGLUE's metric of CB beside accuracy.

    Args:
        targets: the right answers; the classes are those among them.
        predictions: one for each.

    Returns:
        `{"mean_class_f1": ...}`.
    """
    classes = sorted({target.strip() for target in targets})
    return {"mean_class_f1": _mean([_f1_of_class(name, targets, predictions) for name in classes])}


def matthews_correlation(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Matthews' correlation coefficient, for any number of classes (Gorodkin 2004); GLUE's metric of CoLA.

    Args:
        targets: the right answers.
        predictions: one for each; what is none of the answers counts as a class of its own.

    Returns:
        `{"matthews_correlation": ...}`, between -1 and 1; 0 where all targets or all predictions are one text.
    """
    right = collections.Counter(target.strip() for target in targets)
    given = collections.Counter(prediction.strip() for prediction in predictions)
    total = len(targets)
    expected = sum(right[text] * given[text] for text in right)
    spread = [total**2 - sum(count**2 for count in counts.values()) for counts in (right, given)]
    covariance = _mean(_hits(targets, predictions)) * total**2 - expected
    return {"matthews_correlation": covariance / math.sqrt(spread[0] * spread[1]) if all(spread) else 0.0}


def correlations(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Correlations of numbers that are written out; GLUE's metrics of STS-B.

    Args:
        targets: the right numbers.
        predictions: one for each; what is no number counts as -1, as it did for T5 (Raffel et al. 2020).

    Returns:
        `{"pearson": ..., "spearman": ...}`, between -1 and 1; 0 where all targets or all predictions are one number.
    """
    _mean(_hits(targets, predictions))  # no prediction at all is an error here too
    numbers = [np.array([_number(text) for text in texts]) for texts in (targets, predictions)]
    return {"pearson": _pearson(*numbers), "spearman": _pearson(*map(_ranks, numbers))}


def multirc(targets: Sequence[tuple[str, str]], predictions: Sequence[str]) -> dict[str, float]:
    """SuperGLUE's metrics of MultiRC, where a question has many answers, each of them right or wrong.

    Args:
        targets: the question and whether the answer is right, "yes" or "no"; see `multirc_postprocessor`.
        predictions: "yes" or "no" for each.

    Returns:
        `{"exact_match": ..., "f1_of_yes": ...}`: the share of questions all of whose answers were judged rightly, and
        the F1 of "yes" over the answers of all questions.
    """
    answers = [answer for _, answer in targets]
    by_question: dict[str, list[float]] = collections.defaultdict(list)
    for (question, _), hit in zip(targets, _hits(answers, predictions), strict=True):
        by_question[question].append(hit)
    return {"exact_match": _mean([min(hits) for hits in by_question.values()]), **f1_of_yes(answers, predictions)}


def multirc_postprocessor(text: str, example: Mapping[str, Any], is_target: bool = False) -> str | tuple[str, str]:
    """A target is given its question; a prediction stays as it is.

    Args:
        text: a decoded target or prediction.
        example: as seqio gives it, its `question` as bytes.
        is_target: which of the two `text` is.

    Returns:
        What `multirc` takes.
    """
    return (example["question"].decode(), text) if is_target else text


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


def hotpotqa(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """Exact match and F1 of HotpotQA's official script, and of yes and no apart: half of these are right by chance.

    As `squad`, but that "yes", "no" and "noanswer" share no words with longer answers.

    Args:
        targets: for each question the right answers.
        predictions: one for each question.

    Returns:
        `exact_match` and `f1` of all questions, `exact_match_yes_no` of those whose answer is yes or no, `f1_others` of
        the others; what there are no questions for is left out.
    """
    pairs = list(zip(targets, predictions, strict=True))
    exact = [_best(_exact_match, answers, prediction) for answers, prediction in pairs]
    f1 = [_best(_hotpotqa_f1, answers, prediction) for answers, prediction in pairs]
    yes_no = [is_yes_or_no(answers) for answers in targets]
    apart = {
        "exact_match_yes_no": [value for value, apart in zip(exact, yes_no, strict=True) if apart],
        "f1_others": [value for value, apart in zip(f1, yes_no, strict=True) if not apart],
    }
    of_all = {"exact_match": _mean(exact), "f1": _mean(f1)}
    return of_all | {name: _mean(values) for name, values in apart.items() if values}


def is_yes_or_no(answers: Sequence[str]) -> bool:
    """Whether a question is answered by yes or no.

    Args:
        answers: all right ones.

    Returns:
        Whether there are some, and none says anything else.
    """
    return bool(answers) and all(normalize_answer(answer) in ("yes", "no") for answer in answers)


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


METRICS: dict[str, Callable[..., dict[str, float]]] = {
    metric.__name__: metric
    for metric in (
        accuracy,
        mean_class_recall,
        f1_of_yes,
        mean_class_f1,
        matthews_correlation,
        correlations,
        multirc,
        squad,
        hotpotqa,
    )
}
POSTPROCESSORS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (multirc_postprocessor, squad_postprocessor)
}


def _best(measure: Callable[[str, str], float], answers: Sequence[str], prediction: str) -> float:
    """Against the answers that say something: three in SQuAD are a lone full stop, which nothing at all would match."""
    normalized, given = filter(None, map(normalize_answer, answers)), normalize_answer(prediction)
    return max((measure(answer, given) for answer in normalized), default=0.0)


def _exact_match(answer: str, prediction: str) -> float:
    return float(answer == prediction)


def _f1(answer: str, prediction: str) -> float:
    expected, given = answer.split(), prediction.split()
    shared = sum((collections.Counter(expected) & collections.Counter(given)).values())
    return 2 * shared / (len(expected) + len(given)) if shared else 0.0


def _hotpotqa_f1(answer: str, prediction: str) -> float:
    whole = {answer, prediction} & {"yes", "no", "noanswer"}
    return 0.0 if whole and answer != prediction else _f1(answer, prediction)


def _f1_of_class(name: str, targets: Sequence[str], predictions: Sequence[str]) -> float:
    wanted, given = ([float(text.strip() == name) for text in texts] for texts in (targets, predictions))
    both = [want * give for want, give in zip(wanted, given, strict=True)]
    either = _mean(wanted) + _mean(given)
    return 2 * _mean(both) / either if either else 0.0


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return -1.0
    return number if math.isfinite(number) else -1.0


def _pearson(one: Float[np.ndarray, " N"], other: Float[np.ndarray, " N"]) -> float:
    one, other = one - one.mean(), other - other.mean()
    norm = math.sqrt((one @ one) * (other @ other))
    return float(one @ other / norm) if norm else 0.0


def _ranks(numbers: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """From the smallest up; equal numbers share the mean of their ranks."""
    _, place, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def _hits(targets: Sequence[str], predictions: Sequence[str]) -> list[float]:
    return [float(target.strip() == given.strip()) for target, given in zip(targets, predictions, strict=True)]


def _mean(values: Sequence[float]) -> float:
    if not values:
        raise ValueError("there are no predictions to measure")
    return sum(values) / len(values)
