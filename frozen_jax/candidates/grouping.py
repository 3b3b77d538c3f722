"""Samples that say the same become one candidate; and what is chosen among them without training.

    "Paris", "paris.", "Lyon", "", "Paris"  ──▶  Candidate("Paris", 3, ...), Candidate("Lyon", 1, ...)

Two texts say the same if they are equal after the official normalisation of answers: lower case, without punctuation,
articles and superfluous spaces. What is nothing then is no candidate.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from frozen_jax.text_metrics import normalize_answer, squad


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What some samples say.

    Attributes:
        text: as it is spelt most often; of several such spellings the one that was sampled first.
        count: how many samples say it.
        log_prob: the log of the probability that p1 gives to its spellings together, as far as they were sampled.
    """

    text: str
    count: int
    log_prob: float


def grouped(texts: Sequence[str], log_probs: Float[np.ndarray, " C"]) -> list[Candidate]:
    """Puts samples together.

    Args:
        texts: samples of one question.
        log_probs: of each, in nats.

    Returns:
        The candidates, those of most samples first, the likelier first among those of as many.
    """
    spellings: dict[str, collections.Counter[str]] = {}
    nats: dict[str, float] = {}
    for text, log_prob in zip(texts, log_probs.tolist(), strict=True):
        spellings.setdefault(normalize_answer(text), collections.Counter())[text] += 1
        nats[text] = max(log_prob, nats.get(text, -np.inf))  # one text may be written in other tokens
    spellings.pop("", None)
    found = [
        Candidate(
            max(counts, key=counts.__getitem__),
            counts.total(),
            float(np.logaddexp.reduce([nats[one] for one in counts])),
        )
        for counts in spellings.values()
    ]
    return sorted(found, key=lambda one: (-one.count, -one.log_prob))


def vote(candidates: Sequence[Candidate], answers: Sequence[str]) -> str:
    """Majority vote.

    Args:
        candidates: of one question, as `grouped` orders them.
        answers: not looked at.

    Returns:
        What most samples say, the likelier of as many; nothing where there is no candidate.
    """
    del answers
    return candidates[0].text if candidates else ""


def likeliest(candidates: Sequence[Candidate], answers: Sequence[str]) -> str:
    """The highest log-probability.

    Args:
        candidates: of one question.
        answers: not looked at.

    Returns:
        The candidate to which p1 gives most; nothing where there is none.
    """
    del answers
    return max(candidates, key=lambda one: one.log_prob).text if candidates else ""


def oracle(candidates: Sequence[Candidate], answers: Sequence[str]) -> str:
    """The upper bound of every choice.

    Args:
        candidates: of one question.
        answers: the right ones.

    Returns:
        The candidate of the best exact match, then F1; nothing where there is none.
    """
    return max((one.text for one in candidates), key=lambda text: judged(text, answers), default="")


def judged(text: str, answers: Sequence[str]) -> tuple[float, float]:
    """How right an answer is.

    Args:
        text: an answer.
        answers: the right ones.

    Returns:
        Exact match and F1, as SQuAD's official script has them.
    """
    found = squad([answers], [text])
    return found["exact_match"], found["f1"]


CHOOSERS: dict[str, Callable[[Sequence[Candidate], Sequence[str]], str]] = {
    "vote": vote,
    "likeliest": likeliest,
    "oracle": oracle,
}
