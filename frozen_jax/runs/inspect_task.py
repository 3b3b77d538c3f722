"""`--run_mode=inspect`: what a task is made of, before anything is trained on it. Loads no LM."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np
from jaxtyping import Int

from frozen_jax import inspection, progress
from frozen_jax.answering import EvalTask
from frozen_jax.batching import ENCODER_INPUTS, features_of
from frozen_jax.errors import UserError
from frozen_jax.inspection import WIDTH, shortened
from frozen_jax.ordering import permutation
from frozen_jax.runs import report
from frozen_jax.runs.environment import import_data
from frozen_jax.runs.task_data import TaskData
from frozen_jax.tokenizer import Tokenizer, encoder_tokenizer, lm_tokenizer


@dataclasses.dataclass(frozen=True)
class _Split:
    """One split of one task.

    Attributes:
        task: all examples, cut at the task's lengths.
        every: of how many examples one is in the next two.
        cut: some examples as an LM would be given them.
        whole: the same ones with nothing cut; the same object as `cut` if they cannot be had.
        obstacle: why not, or empty.
    """

    task: EvalTask
    every: int
    cut: Sequence[Mapping[str, Any]]
    whole: Sequence[Mapping[str, Any]]
    obstacle: str

    def lengths(self, feature: str) -> Int[np.ndarray, " N"]:
        """Tokens before cutting."""
        return np.array([len(row[feature]) for row in self.whole])


@gin.configurable
def inspect_task(
    data: TaskData = gin.REQUIRED, *, examples: int = 1, split: str | None = None, most: int = 2000
) -> None:
    """Prints sizes, answers, lengths, what the metrics say at both ends, and examples as text and as tokens.

    Args:
        data: the task or mixture, its lengths and its seed, which also chooses the examples.
        examples: how many to show of every split.
        split: only this one; None is all.
        most: about how many examples of a split are tokenized whole, for their lengths, and given to the metrics.

    Raises:
        UserError: for an unknown task, mixture or split; at the end, for tasks that could not be read and metrics that
            failed.
    """
    seqio_data = import_data()
    seqio_data.load_task_module(data.module)
    rates = seqio_data.task_rates(data.mixture_or_task_name)
    total, failures = sum(rates.values()), []
    print(_title(data, len(rates)))
    for task, rate in rates.items():
        name = task.name if len(rates) == 1 else f"{task.name}, {100 * rate / total:.3g}% of what is drawn"
        print(f"\n\n{name}\n{'=' * len(name)}", flush=True)
        try:
            wanted = [found for found in task.splits if split in (None, found)]
            bar = progress.bar(wanted, desc="reading", unit="splits", leave=False)
            splits = [_read(seqio_data, data, task, found, most) for found in bar]
        except UserError as error:
            print(f"\n! {error}")
            failures.append(str(error))
            continue
        if splits:
            failures += _show(splits, data, examples, most)
    if split is not None and not any(split in task.splits for task in rates):
        seqio_data.find_tasks(data.mixture_or_task_name, split)  # says which splits there are
    report.raise_failures(failures)


def _title(data: TaskData, count: int) -> str:
    what = "a task" if count == 1 else f"a mixture of {count} tasks"
    features = features_of(data.task_feature_lengths)
    lengths = ", ".join(f"{feature} at {data.task_feature_lengths[feature]}" for feature in features)
    tokenizers = dict.fromkeys(_tokenizer(feature) for feature in features)
    pieces = "; ".join(f"{tokenizer.name}, {tokenizer.vocab_size:,} pieces" for tokenizer in tokenizers)
    return (
        f"{data.mixture_or_task_name}: {what}. Cut: {lengths} tokens (TASK_FEATURE_LENGTHS).\n"
        f"Tokenizer: {pieces}. Seed: {data.seed}.{_template()}"
    )


def _template() -> str:
    tokenizer = lm_tokenizer()
    if tokenizer.template is None:
        return ""
    more = f"up to {tokenizer.frame_length:,} tokens more than inputs have below"
    return f"\nTemplate: {shortened(tokenizer.template, 80)}, {more} (lm_tokenizer.template)."


def _tokenizer(feature: str) -> Tokenizer:
    return encoder_tokenizer() if feature == ENCODER_INPUTS else lm_tokenizer()


def _read(seqio_data: Any, data: TaskData, task: Any, split: str, most: int) -> _Split:
    settings = {"use_cached": data.use_cached, "seed": data.seed_of_examples}
    (found,) = seqio_data.eval_tasks(task.name, data.task_feature_lengths, split, **settings)
    every, obstacle = max(1, round(found.split_size / most)), ""
    cut = seqio_data.sampled(task, data.task_feature_lengths, split, every=every, **settings)
    uncut = {ENCODER_INPUTS: None} if ENCODER_INPUTS in data.task_feature_lengths else None
    try:
        whole = seqio_data.sampled(task, uncut, split, every=every, **settings)
    except Exception as error:  # of preprocessors that cannot do without lengths, in ways of their own
        whole, obstacle = cut, f"its preprocessors want lengths ({type(error).__name__})"
    if len(whole) != len(cut):
        whole, obstacle = cut, "the lengths say how its texts are divided into examples"
    return _Split(found, every, cut, whole, obstacle)


def _show(splits: Sequence[_Split], data: TaskData, examples: int, most: int) -> list[str]:
    """Prints all about one task; returns which metrics failed."""
    print()
    for split in splits:
        said = "; ".join(inspection.targets_in_words(split.task))
        _show_text(f"{split.task.split}: {split.task.split_size:,} examples, {said}", 0)
    _show_lengths(splits, data.task_feature_lengths)
    failures = _show_ends(splits, data.seed, most)
    for split in splits:
        _show_examples(split, data, examples)
    return failures


def _show_lengths(splits: Sequence[_Split], limits: Mapping[str, int]) -> None:
    titles = ["split", "tokens of", "50%", "90%", "95%: cuts 5%", "99%: cuts 1%", "longest", "cut at", "are cut"]
    rows = []
    for split in splits:
        for feature in features_of(limits):
            lengths, at = split.lengths(feature), limits[feature]
            figures = [*inspection.percentiles(lengths), at, inspection.share_cut(lengths, at)]
            rows.append([split.task.split, feature, *(f"{n:,}" if isinstance(n, int) else n for n in figures)])
    print()
    _show_text(f"Lengths in tokens before cutting, end-of-sequence token included{_of_how_many(splits)}:", 0)
    print(f"\n{report.markdown(titles, rows)}")
    for split in splits:
        if split.obstacle:
            print(f"! {split.task.split}: these are lengths after cutting, since {split.obstacle}")
    print(f"\nInputs of {splits[0].task.split} by the lengths to which batches are padded:\n")
    print("\n".join(inspection.histogram(splits[0].lengths("inputs"), limits["inputs"])))


def _of_how_many(splits: Sequence[_Split]) -> str:
    sampled = [f"{len(split.cut):,} of {split.task.split}" for split in splits if split.every > 1]
    return f" (not of all examples: {', '.join(sampled)})" if sampled else ""


def _show_ends(splits: Sequence[_Split], seed: int, most: int) -> list[str]:
    rows, failures = [], []
    for split in splits:
        task = split.task
        chosen = np.sort(permutation(len(task.examples), seed, task.name, "metrics")[:most]).tolist()
        found, failed = inspection.ends(dataclasses.replace(task, examples=[task.examples[row] for row in chosen]))
        failures += failed
        rows += [
            [task.split, e.metric, f"{e.perfect:.3f}", f"{e.empty:.3f}", f"{len(chosen):,}", e.remark] for e in found
        ]
    print("\nWhat the metrics say if every prediction is the target, and if every prediction is empty:\n")
    titles = ["split", "metric", "perfect", "empty", "examples", "remark"]
    print(report.markdown(titles, rows) if rows else "! there are no metrics of predictions")
    if others := [getattr(metric, "__name__", "?") for metric in splits[0].task.score_metrics]:
        print(f"Not tried, since they judge an LM's log-likelihoods: {', '.join(others)}")
    for line in failures:
        print(f"! {line}")
    return failures


def _show_examples(split: _Split, data: TaskData, count: int) -> None:
    chosen = permutation(len(split.cut), data.seed, split.task.name, split.task.split, "examples")[:count].tolist()
    for place, row in enumerate(chosen, 1):
        print(f"\nExample {place} of {split.task.split}, number {row * split.every:,}:")
        for feature in features_of(data.task_feature_lengths):
            _show_tokens(feature, split.cut[row], split.whole[row])
        choices = [choice.decode() for choice in split.cut[row].get("choices", ())]
        if choices:
            _show_text(f"choices: {', '.join(shortened(choice, 60) for choice in choices)}", 2)


def _show_tokens(feature: str, cut: Mapping[str, Any], whole: Mapping[str, Any]) -> None:
    tokenizer = _tokenizer(feature)
    before, after = (row[feature].tolist() for row in (whole, cut))
    text = cut.get(f"{feature}_pretokenized")
    _show_text(f"{feature}: {shortened(tokenizer.decode(before) if text is None else text.decode())}", 2)
    if before == after:
        _show_gloss(tokenizer, f"{len(after):,} tokens, nothing is cut", after, first=36)
    else:
        _show_gloss(tokenizer, f"{len(before):,} tokens before cutting", before, first=36)
        said = f"{len(after):,} tokens after cutting: {shortened(tokenizer.decode(after))}"
        _show_gloss(tokenizer, said, after, first=12, last=24)
    if feature == "inputs" and tokenizer.template is not None:
        framed = tokenizer.framed(cut[feature]).tolist()
        said = f"{len(framed):,} tokens in the template: {shortened(tokenizer.spelt(framed))}"
        _show_gloss(tokenizer, said, framed, first=36)


def _show_text(text: str, indent: int) -> None:
    """Wrapped: a terminal would break a long line anywhere."""
    spaces = " " * indent
    wrapped = textwrap.wrap(text, WIDTH, initial_indent=spaces, subsequent_indent=f"{spaces}  ", break_on_hyphens=False)
    print("\n".join(wrapped))


def _show_gloss(tokenizer: Tokenizer, title: str, ids: Sequence[int], *, first: int, last: int = 12) -> None:
    _show_text(title, 4)
    for line in inspection.gloss(tokenizer.pieces(ids), ids, first=first, last=last, width=WIDTH - 6):
        print(f"      {line}")
