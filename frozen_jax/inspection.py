"""Figures about a split and pictures of them as text: lengths, answers, what metrics say at both ends, tokens.

Everything here is made of token lengths, texts and metrics alone; what gives them is `data`.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from frozen_jax.answering import Answers, EvalExample, EvalTask
from frozen_jax.batching import default_buckets
from frozen_jax.evaluation import TaskResult, judge

PERCENTILES = (50, 90, 95, 99, 100)
WIDTH = 110  # columns of a terminal
_BEST = (1.0, 100.0)  # of metrics such as those in `text_metrics`, and of seqio's own, in percent


def percentiles(lengths: Int[np.ndarray, " N"]) -> list[int]:
    """The lengths that so many percent of the examples do not exceed.

    Args:
        lengths: in tokens.

    Returns:
        One for each of `PERCENTILES`.
    """
    return [length_that_cuts(lengths, 1 - percent / 100) for percent in PERCENTILES]


def length_that_cuts(lengths: Int[np.ndarray, " N"], share: float) -> int:
    """The smallest length at which at most a share of the examples is cut.

    Args:
        lengths: in tokens.
        share: between 0 and 1.

    Returns:
        One of the lengths.
    """
    allowed = math.floor(share * len(lengths) + 1e-9)  # 1 - 0.95 is a little more than a twentieth
    return int(np.sort(lengths)[max(0, len(lengths) - 1 - allowed)])


def share_cut(lengths: Int[np.ndarray, " N"], at: int) -> str:
    """How many examples are longer, for people to read.

    Args:
        lengths: in tokens.
        at: the most tokens that are kept.

    Returns:
        Their percentage, or "none".
    """
    share = float((lengths > at).mean())
    return f"{100 * share:.2g}%" if 0 < share < 0.1 else f"{100 * share:.0f}%" if share else "none"


def histogram(lengths: Int[np.ndarray, " N"], at: int, bar: int = 50) -> list[str]:
    """How many examples fall into each of the lengths to which batches are padded.

    Args:
        lengths: in tokens.
        at: the most tokens that are kept; what is longer is marked.
        bar: columns of the longest bar.

    Returns:
        Lines of text.
    """
    longest = int(lengths.max())
    highs = [n for n in sorted({*default_buckets(at), *default_buckets(longest)}) if n <= longest]
    lows = [0, *(high + 1 for high in highs[:-1])]
    counts = [int(((low <= lengths) & (lengths <= high)).sum()) for low, high in zip(lows, highs, strict=True)]
    bars = ["#" * math.ceil(bar * count / max(counts)) for count in counts]
    return [
        f"{low:>7,} -{high:>6,} {100 * count / len(lengths):>5.1f}% {drawn}{' cut' if low > at else ''}".rstrip()
        for low, high, count, drawn in zip(lows, highs, counts, bars, strict=True)
    ]


def targets_in_words(task: EvalTask) -> list[str]:
    """What is answered in a split, and how far one constant answer gets.

    Args:
        task: with all examples of the split.

    Returns:
        Sentences.
    """
    counts = collections.Counter(example.targets_text for example in task.examples)
    (answer, count), total = counts.most_common(1)[0], len(task.examples)
    said = [_choices(task.examples), f"most frequent: {shortened(answer, 40)}, {count / total:.3f}"]
    absent = sum(bool(e.choices) and e.targets_text not in e.choices for e in task.examples)
    if absent:
        said.append(f"! {absent:,} targets are not among their choices")
    if not all(counts):
        said.append(f"! {counts['']:,} targets are empty")
    return said


def _choices(examples: Sequence[EvalExample]) -> str:
    sets = {tuple(example.choices) for example in examples}
    if sets == {()}:
        return f"written, {len({e.targets_text for e in examples}):,} different targets"
    if () in sets:
        return f"! only {sum(bool(e.choices) for e in examples):,} of {len(examples):,} examples have choices"
    if len(sets) == 1:
        return f"chosen among {', '.join(shortened(choice, 40) for choice in sets.pop())}"
    sizes = sorted({len(choices) for choices in sets})
    how_many = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    found = [e for e in examples if e.targets_text in e.choices]
    places = collections.Counter(list(e.choices).index(e.targets_text) for e in found)
    shares = ", ".join(f"{100 * count / len(examples):.0f}%" for _, count in sorted(places.items()))
    return f"chosen among {how_many} of each example's own; the right one stands first, second, ... in {shares}"


@dataclasses.dataclass(frozen=True)
class Ends:
    """What a metric says of two made-up models.

    Attributes:
        metric: its name.
        perfect: what a model earns that always answers with the target.
        empty: what one earns that says nothing.
        remark: what is odd about it; empty if nothing is.
    """

    metric: str
    perfect: float
    empty: float
    remark: str


def ends(task: EvalTask) -> tuple[list[Ends], list[str]]:
    """What the metrics of predictions say of perfect and of empty ones.

    Args:
        task: with the examples to try them on.

    Returns:
        One for each metric, and the lines of `TaskResult.failures`.
    """
    perfect, empty = _judged(task, lambda example: example.targets_text), _judged(task, lambda example: "")
    names = dict.fromkeys([*perfect.metrics, *empty.metrics])
    rows = [(name, perfect.metrics.get(name, math.nan), empty.metrics.get(name, math.nan)) for name in names]
    return [Ends(*row, _remark(*row[1:])) for row in rows], list(dict.fromkeys(perfect.failures + empty.failures))


def _judged(task: EvalTask, predict: Callable[[EvalExample], str]) -> TaskResult:
    predictions = [predict(example) for example in task.examples]
    alone = dataclasses.replace(task, score_metrics=[])  # of log-likelihoods: there is no LM here that gives them
    return judge(alone, Answers(predictions, np.zeros(len(predictions)), [{} for _ in predictions]))


def _remark(perfect: float, empty: float) -> str:
    remarks = []
    if perfect not in _BEST:
        remarks.append("fails on perfect predictions" if math.isnan(perfect) else "perfect ones earn neither 1 nor 100")
    if empty != 0:
        remarks.append("fails on empty predictions" if math.isnan(empty) else "empty ones earn more than nothing")
    return f"! {'; '.join(remarks)}" if remarks else ""


def shortened(text: str, length: int = 320) -> str:
    """A text in quotation marks, on one line; of a long one the beginning and the end.

    Args:
        text: any text.
        length: of what is left, about.

    Returns:
        The text.
    """
    if len(text) <= length:
        return json.dumps(text, ensure_ascii=False)
    head, tail = text[: length * 3 // 4], text[-(length // 4) :]
    begin, end = (json.dumps(part, ensure_ascii=False) for part in (head, tail))
    return f"{begin} ... {len(text) - len(head) - len(tail):,} characters ... {end}"


def gloss(pieces: Sequence[str], ids: Sequence[int], *, first: int, last: int, width: int = WIDTH) -> list[str]:
    """Tokens with their ids underneath, as linguists gloss words; of many the first and the last.

    Args:
        pieces: as the vocabulary spells them.
        ids: of the same tokens.
        first: how many to show from the beginning.
        last: and from the end.
        width: columns of a line.

    Returns:
        Lines, two by two.
    """
    columns = [(piece, str(number)) for piece, number in zip(pieces, ids, strict=True)]
    if (left_out := len(columns) - first - last) > 0:
        columns = [*columns[:first], (f"... {left_out:,} tokens ...", ""), *columns[-last:]]
    lines = [["", ""]]
    for column in columns:
        wide = max(map(len, column)) + 1
        if lines[-1][0] and len(lines[-1][0]) + wide > width:
            lines.append(["", ""])
        lines[-1] = [line + cell.ljust(wide) for line, cell in zip(lines[-1], column, strict=True)]
    return [line.rstrip() for pair in lines for line in pair]
