"""`--run_mode=infer`: answers JSON lines, or what is typed into a terminal. Needs neither seqio nor TensorFlow."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import gin
import numpy as np
from etils import epath
from jaxtyping import Bool, Int
from tqdm import tqdm

from frozen_jax import cloud_storage
from frozen_jax.batching import ENCODER_INPUTS, Tokens, bucket_of, default_buckets, pad
from frozen_jax.errors import UserError
from frozen_jax.lm.base import LanguageModel
from frozen_jax.runs.job import Job
from frozen_jax.runs.task_data import TaskData
from frozen_jax.tokenizer import lm_tokenizer
from frozen_jax.types import EncoderInputs

_WRITE_SECONDS = 10  # what a kill may cost


@gin.configurable
def infer(
    job: Job = gin.REQUIRED,
    input_file: str | None = None,
    output_file: str | None = None,
    checkpoint: str | None = None,
    *,
    batch_size: int = 16,
    max_length: int = 32,
    num_beams: int = 1,
) -> None:
    """Answers every line of `input_file`, going on where an earlier run stopped; without one, asks in the terminal.

    Args:
        job: the method and the run's folder.
        input_file: JSON lines with the field "inputs"; other fields are passed on.
        output_file: the same lines with "prediction"; None is MODEL_DIR/predictions/ and the input's name.
        checkpoint: a module checkpoint; None is the best, else the latest, of MODEL_DIR; "none" asks the LM alone.
        batch_size: lines at once.
        max_length: the most tokens of an answer.
        num_beams: 1 is greedy.

    Raises:
        UserError: for a missing or empty file, a line that is no JSON object with "inputs" (its number is named), or an
            output file that is not the beginning of the answers to this input.
    """
    lines = None if input_file is None else read_lines(input_file)
    model = job.method.lm if checkpoint == "none" else job.trained_method(checkpoint)
    answer = _Answerer(job.data, max_length, num_beams)
    if input_file is None or lines is None:
        _ask(job.method.lm, model, answer)
        return
    default = job.directory / "predictions" / epath.Path(input_file).name
    output = cloud_storage.open_path(output_file) if output_file else default
    _answer_lines(lines, output, functools.partial(answer, model), batch_size)
    print(f"{len(lines)} answers in {output}")


def _answer_lines(lines: list[dict], output: epath.Path, answer: Callable[..., list[str]], batch_size: int) -> None:
    done, written = _resume(output, lines), time.monotonic()
    if done:
        print(f"{len(done)} answers were there already; to have them anew, delete {output}")
    with tqdm(initial=len(done), total=len(lines), unit="line", disable=None) as bar:
        for start in range(len(done), len(lines), batch_size):
            batch = lines[start : start + batch_size]
            predictions = answer([line["inputs"] for line in batch], rows=batch_size)
            done += [{**line, "prediction": text} for line, text in zip(batch, predictions, strict=True)]
            if time.monotonic() - written > _WRITE_SECONDS or len(done) == len(lines):
                _write(output, done)
                written = time.monotonic()
            bar.update(len(batch))


class _Answerer:
    """Texts to texts, in batches of few shapes."""

    def __init__(self, data: TaskData, max_length: int, num_beams: int) -> None:
        self._data, self._max_length, self._num_beams = data, max_length, num_beams

    def __call__(self, model: LanguageModel, texts: list[str], rows: int = 1) -> list[str]:
        """Answers texts; the last batch is filled up to `rows`."""
        filled, lengths = [*texts, *[""] * (rows - len(texts))], self._data.task_feature_lengths
        longest = lengths["inputs"] + lm_tokenizer().frame_length
        padded, mask = _padded([self._data.input_tokens(text) for text in filled], longest, model.pad_id)
        settings: dict[str, Any] = {"max_length": self._max_length, "num_beams": self._num_beams}
        encoder_inputs = [tokens for text in filled if (tokens := self._data.encoder_tokens(text)) is not None]
        if encoder_inputs:
            length = lengths.get(ENCODER_INPUTS, len(encoder_inputs[0]))
            settings |= {"encoder_inputs": EncoderInputs(*_padded(encoder_inputs, length, 0))}
        written = model.generate(padded, inputs_lengths=mask.sum(1), **settings)
        return [lm_tokenizer().decode(row) for row in np.asarray(written)[: len(texts)].tolist()]


def _padded(rows: list[Tokens], longest: int, pad_id: int) -> tuple[Int[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
    return pad(rows, bucket_of(max(map(len, rows)), default_buckets(longest)), pad_id)


def read_lines(path: str) -> list[dict]:
    """Reads JSON lines, each of them an object with a text "inputs".

    Raises:
        UserError: for a missing or empty file, or another line; its number is named.
    """
    try:
        text = cloud_storage.open_path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    # Not splitlines(): JSON may hold U+2028 and others of which that makes new lines.
    lines = [_parsed(path, number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise UserError(f"{path} holds no lines")
    return lines


def _parsed(path: str, number: int, line: str) -> dict:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise UserError(f"{path}, line {number}: no JSON ({error})") from error
    if not isinstance(found, dict) or not isinstance(found.get("inputs"), str):
        raise UserError(f'{path}, line {number}: needs an object with a text "inputs", like {{"inputs": "..."}}')
    return found


def _resume(output: epath.Path, lines: list[dict]) -> list[dict]:
    """The answers that an earlier run wrote."""
    done = read_lines(str(output)) if output.exists() else []
    for number, (line, answered) in enumerate(zip(lines, done, strict=False), 1):
        if line["inputs"] != answered["inputs"] or "prediction" not in answered:
            raise UserError(f"{output}, line {number}: no answer to that input; name another output file or delete it")
    return done[: len(lines)]


def _write(output: epath.Path, done: list[dict]) -> None:
    """Writes all answers so far: whole or not at all, so that a kill leaves no half line."""
    with cloud_storage.refusals_explained(output):
        cloud_storage.write_whole(output, "".join(json.dumps(line) + "\n" for line in done))


def _ask(lm: LanguageModel, model: LanguageModel, answer: _Answerer) -> None:
    """Shows the frozen LM's answer alone and, if there is one, with the module, for each line typed."""
    if not sys.stdin.isatty():
        raise UserError("infer: no input file; give --gin.infer.input_file=FILE.jsonl, or run it in a terminal")
    print("Type a line of text; an empty one ends.")
    for text in _typed():
        print(f"  frozen LM alone: {answer(lm, [text])[0]}")
        if model is not lm:
            print(f"  with {type(model).__name__}: {answer(model, [text])[0]}")


def _typed() -> Iterator[str]:
    while True:
        try:
            text = input("> ")
        except EOFError:
            return
        if not text:
            return
        yield text
