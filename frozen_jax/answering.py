"""What a model says to the examples of a task: it chooses among answers, or writes one, and scores the target.

    examples with answer choices     every choice is scored; the most likely one is the prediction
    examples without                 the model writes the answer, greedily
    all                              the log-likelihood of the target, in nats

Rows go through the model in batches of few shapes, so that little is compiled: a task's batches have as many rows each,
the last is filled up, and lengths and numbers of choices are rounded up to what other tasks have as well.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float, Int

from frozen_jax import progress
from frozen_jax.batching import SMALLEST_BUCKET, Tokens, bucket_of, default_buckets, pad, rounded_up
from frozen_jax.errors import UserError
from frozen_jax.processes import whole
from frozen_jax.types import Array, EncoderInputs

_SHORTEST_TARGET = 4  # tokens; a program for two would cost more than the two save


@runtime_checkable
class Model(Protocol):
    """What is evaluated: a frozen LM, or a method around one. See `lm.base.LanguageModel`.

    Both calls are given `encoder_inputs=EncoderInputs(...)` where the examples have them, and only there.
    """

    pad_id: int

    def score(
        self,
        inputs: Int[Array, "B S"],
        targets: Int[Array, "R T"],
        *,
        inputs_lengths: Int[Array, " B"] | None = None,
        targets_lengths: Int[Array, " R"] | None = None,
    ) -> Float[Array, " R"]:
        """Returns the log-likelihood of each row's targets in nats; R / B consecutive rows share an input."""
        ...

    def generate_many(
        self, inputs: Sequence[Tokens], *, max_length: int, slots: int, ids: Sequence[int] | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Yields the number of an input and what was written for it, with `tokens` [1, T], in any order."""
        ...


@dataclasses.dataclass(frozen=True)
class EvalExample:
    """One example.

    Attributes:
        index: its place in the split, or the number of the record that it was made of (a task's field `record_number`):
            of two templates of a data set, equal numbers are the same record.
        inputs: token ids, as the LM reads them.
        targets: token ids, end-of-sequence token included.
        inputs_text: the same as text.
        targets_text: the same as text.
        choices: the tokens of each answer choice, by its text; empty where the answer is to be written.
        raw: the example as seqio gives it, for the task's postprocessor.
        encoder_inputs: token ids of the inputs in the vocabulary of an encoder that has its own.
    """

    index: int
    inputs: Tokens
    targets: Tokens
    inputs_text: str
    targets_text: str
    choices: Mapping[str, Tokens]
    raw: Mapping[str, Any]
    encoder_inputs: Tokens | None = None


@dataclasses.dataclass(frozen=True)
class EvalTask:
    """The examples of one split of one task, and how answers to them are judged.

    Attributes:
        name: of the task.
        split: of the task.
        split_size: how many examples the task makes of the split; `examples` may be a sample of them.
        examples: all of them, or a sample.
        targets_length: the most tokens of a target.
        decode: token ids to text.
        postprocess: the task's own `(text, example=..., is_target=...)`.
        predict_metrics: the task's functions of (targets, predictions).
        score_metrics: the task's functions of (targets, scores).
        unmeasured: names of metrics that the task has and this host cannot compute, see `token_cache`.
    """

    name: str
    split: str
    split_size: int
    examples: Sequence[EvalExample]
    targets_length: int
    decode: Callable[[Sequence[int]], str]
    postprocess: Callable[..., Any]
    predict_metrics: Sequence[Callable[..., Mapping[str, Any]]]
    score_metrics: Sequence[Callable[..., Mapping[str, Any]]]
    unmeasured: Sequence[str] = ()


def unchanged(text: str, **_: Any) -> str:
    """The postprocessor of a task that has none."""
    return text


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model said to the examples of a task.

    Attributes:
        predictions: a text for each example; None if the task only asks for scores.
        target_scores: the log-likelihood of each target in nats.
        choice_scores: for each example the figure by which each choice was judged; empty where there are no choices.
        seconds: what each example took, as a share of those that were answered with it; None where nobody looked.
    """

    predictions: list[str] | None
    target_scores: Float[np.ndarray, " N"]
    choice_scores: list[dict[str, float]]
    seconds: Float[np.ndarray, " N"] | None = None


class Rows:
    """Runs a model over rows of tokens in batches of few shapes, longest rows first."""

    def __init__(self, model: Model, batch_size: int, buckets: Sequence[int] | None, task: str) -> None:
        """Holds the model.

        Args:
            model: a frozen LM, or a method around one.
            batch_size: the most rows of a batch.
            buckets: the lengths to which inputs are padded; by default powers of two from 16 up, the last may
                be 3 / 4 of one.
            task: whose rows they are, for messages.
        """
        self._model, self._batch_size, self._buckets, self._task = model, batch_size, buckets, task

    def score(
        self, examples: Sequence[EvalExample], targets: Sequence[Sequence[Tokens]]
    ) -> list[Float[np.ndarray, " C"]]:
        """The log-likelihoods of the targets of each input, which is read once for all of them.

        Args:
            examples: whose inputs are read.
            targets: for each of them, token ids of one or more texts.

        Returns:
            For each of them the nats of its texts.
        """
        most, nothing = rounded_up(max(map(len, targets))), np.zeros(0, np.int32)
        longest = max(len(tokens) for texts in targets for tokens in texts)
        buckets = default_buckets(rounded_up(max(longest, _SHORTEST_TARGET)))

        def scores(rows: Sequence[int], tokens: Array, **read: Any) -> Array:
            texts = [text for row in rows for text in [*targets[row], *[nothing] * (most - len(targets[row]))]]
            answers, answers_lengths = self._padded(texts, bucket_of(max(map(len, texts)), buckets))
            found = self._model.score(tokens, answers, targets_lengths=answers_lengths, **read)
            return whole(found).astype(np.float64).reshape(len(rows), most)

        found = self.in_batches("score", scores, examples)
        if np.isnan(found).any():
            row = int(np.isnan(found).any(axis=1).argmax())
            raise FloatingPointError(f"task {self._task}: a score of row {row} is not a number")
        return [row[: len(texts)] for row, texts in zip(found, targets, strict=True)]

    def generate(self, examples: Sequence[EvalExample], max_length: int) -> list[Tokens]:
        """What the model writes, greedily.

        Args:
            examples: whose inputs are read.
            max_length: the most tokens to write.

        Returns:
            For each of them `max_length` token ids, padded after the end-of-sequence token.
        """
        found: list[Any] = [None] * len(examples)
        encoder_inputs = [example.encoder_inputs for example in examples]
        read = {} if any(row is None for row in encoder_inputs) else {"encoder_inputs": encoder_inputs}
        settings = {"max_length": max_length, "slots": self._batch_size, **read}
        inputs, ids = [example.inputs for example in examples], [example.index for example in examples]
        written = self._model.generate_many(inputs, ids=ids, **settings)
        for row, text in progress.bar(written, total=len(found), desc=f"write {self._task}", unit="rows"):
            found[row] = text.tokens[0]
        return found

    def in_batches(self, verb: str, call: Callable[..., Array], examples: Sequence[EvalExample]) -> list[Any]:
        """What `call` says of each of the examples.

        Args:
            verb: what is done, for the progress bar.
            call: gets the numbers of the examples in a batch, their tokens [B, S], `inputs_lengths` [B] and, where they
                have them, `encoder_inputs`; the last batch is filled up. Returns an array of a row for each.
            examples: whose inputs are read.

        Returns:
            The rows of the results, in the order of the examples.
        """
        inputs = [example.inputs for example in examples]
        encoder_inputs = [example.encoder_inputs for example in examples]
        found: list[Any] = [None] * len(inputs)
        buckets = self._checked_buckets(max(map(len, inputs)))
        with progress.bar(total=len(inputs), desc=f"{verb} {self._task}", unit="rows") as bar:
            size = self._rows_of_a_batch(len(inputs))
            for rows in self._batches(inputs, size):
                filled = [*rows, *rows[:1] * (size - len(rows))]  # what the repeated row says is dropped
                width = bucket_of(len(inputs[rows[0]]), buckets)
                tokens, lengths = self._padded([inputs[row] for row in filled], width)
                read = {"inputs_lengths": lengths, **_encoder_inputs([encoder_inputs[row] for row in filled])}
                results = whole(call(filled, tokens, **read))
                for row, result in zip(rows, results, strict=False):
                    found[row] = result
                bar.update(len(rows))
        return found

    def _rows_of_a_batch(self, count: int) -> int:
        """As few as make no more batches: 50 rows are two batches of 25, not one of 32 and one that is filled up.

        Where there are several devices, it stays something that they can share.
        """
        step = math.gcd(self._batch_size, jax.device_count())
        batches = math.ceil(count / self._batch_size)
        return math.ceil(count / (batches * step)) * step

    def _batches(self, inputs: Sequence[Tokens], size: int) -> Iterator[list[int]]:
        """Rows of like length together. The longest come first: if they do not fit into memory, that shows at once."""
        order = sorted(range(len(inputs)), key=lambda row: -len(inputs[row]))
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def _checked_buckets(self, longest: int) -> Sequence[int]:
        buckets = sorted(self._buckets or default_buckets(rounded_up(max(longest, SMALLEST_BUCKET))))
        if longest > buckets[-1]:
            raise UserError(
                f"the inputs of task {self._task} have up to {longest} tokens, but the longest bucket in "
                f"{tuple(buckets)} does not hold them; add one of {longest}"
            )
        return buckets

    def _padded(self, rows: Sequence[Tokens], width: int) -> tuple[Int[np.ndarray, "B L"], Int[np.ndarray, " B"]]:
        tokens, _ = pad(rows, width, self._model.pad_id)
        return tokens, np.array([len(row) for row in rows], np.int32)


def _encoder_inputs(rows: Sequence[Tokens | None]) -> dict[str, EncoderInputs]:
    """What a model is given beside the inputs: nothing where the examples have none."""
    found = [row for row in rows if row is not None]
    if not found:
        return {}
    width = max(SMALLEST_BUCKET, 1 << (max(map(len, found)) - 1).bit_length())
    return {"encoder_inputs": EncoderInputs(*pad(found, width, 0))}  # 0: see `batching`


def answer(rows: Rows, task: EvalTask, decode_length: int, normalize_by_length: bool, scored: bool = True) -> Answers:
    """Lets a model answer a task's examples, by choosing where they have choices, else by writing.

    Args:
        rows: runs the model.
        task: the task.
        decode_length: the most tokens to write.
        normalize_by_length: judge choices by log-likelihood per token instead of their whole.
        scored: whether the targets of tasks without choices are scored as well; without, their scores are nan.

    Returns:
        What the model said.

    Raises:
        UserError: if only some examples have choices, or the longest bucket does not hold an example.
        FloatingPointError: if the model gives a score that is not a number.
    """
    with_choices = [bool(example.choices) for example in task.examples]
    if all(with_choices):
        return _choose(rows, task.examples, normalize_by_length)
    if any(with_choices):
        raise UserError(f"task {task.name}: some examples have answer choices and some have none")
    scores = np.full(len(task.examples), np.nan)
    if scored or task.score_metrics:
        scores = np.concatenate(rows.score(task.examples, [[example.targets] for example in task.examples]))
    predictions = None
    if task.predict_metrics:
        predictions = [task.decode(tokens.tolist()) for tokens in rows.generate(task.examples, decode_length)]
    return Answers(predictions, scores, [{} for _ in task.examples])


def _choose(rows: Rows, examples: Sequence[EvalExample], normalize_by_length: bool) -> Answers:
    """Scores every choice of every example, and the target where it is not among them."""
    asked = [{example.targets_text: example.targets, **example.choices} for example in examples]
    scores = rows.score(examples, [list(texts.values()) for texts in asked])
    found = [dict(zip(texts, row.tolist(), strict=True)) for texts, row in zip(asked, scores, strict=True)]
    judged = [
        {text: score[text] / (len(tokens) if normalize_by_length else 1) for text, tokens in example.choices.items()}
        for example, score in zip(examples, found, strict=True)
    ]
    targets = [score[example.targets_text] for example, score in zip(examples, found, strict=True)]
    return Answers([max(choices, key=choices.__getitem__) for choices in judged], np.array(targets), judged)
