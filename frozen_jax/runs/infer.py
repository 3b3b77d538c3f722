"""`--run_mode=infer`: answers JSON lines, or what is typed into a terminal. Needs neither seqio nor TensorFlow."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gin
from etils import epath
from tqdm import tqdm

from frozen_jax import cloud_storage, progress
from frozen_jax.batching import Tokens
from frozen_jax.errors import UserError
from frozen_jax.lm.base import GREEDY, LanguageModel
from frozen_jax.lm.decoding import Strategy
from frozen_jax.lm.generation import Stop
from frozen_jax.prepared import SHOWN, shown
from frozen_jax.processes import are_several, from_first
from frozen_jax.runs.job import Job
from frozen_jax.runs.task_data import TaskData
from frozen_jax.tokenizer import lm_tokenizer

_WRITE_SECONDS = 10  # between two writes, at least
_LINES = 8  # a slot, between two looks at the clock: a kill costs no more of them; written in the order of the lines


@gin.configurable
def infer(
    job: Job = gin.REQUIRED,
    input_file: str | None = None,
    output_file: str | None = None,
    checkpoint: str | None = None,
    *,
    batch_size: int = 16,
    max_length: int = 32,
    strategy: Strategy = GREEDY,
    stop_strings: Sequence[str] = (),
    stop_ids: Sequence[int] = (),
    log_probs: bool = False,
) -> None:
    """Answers every line of `input_file`, going on where an earlier run stopped; without one, asks in the terminal.

    Args:
        job: the method and the run's folder.
        input_file: JSON lines with the field "inputs"; other fields are passed on.
        output_file: the same lines with "prediction"; None is MODEL_DIR/predictions/ and the input's name.
        checkpoint: a module checkpoint; None is the best, else the latest, of MODEL_DIR; "none" asks the LM alone.
        batch_size: lines that are answered at once; where one answer has ended, the next begins.
        max_length: the most tokens of an answer.
        strategy: @Greedy(), @Sample() or @Beam(); where it gives several texts, "prediction" is a list of them.
        stop_strings: texts at which an answer ends; they are left out.
        stop_ids: tokens that end an answer, besides the LM's own.
        log_probs: also write "log_probability", the log-likelihood of each answer's tokens in nats.

    Raises:
        UserError: for a missing or empty file, a line that is no JSON object with "inputs" (its number is named), or an
            output file that is not the beginning of the answers to this input.
    """
    lines = None if input_file is None else read_lines(input_file)
    model = job.method.lm if checkpoint == "none" else job.trained_method(checkpoint)
    decode = lm_tokenizer().decode if stop_strings else None
    stop = Stop(ids=tuple(stop_ids), strings=tuple(stop_strings), decode=decode)
    answer = _Answerer(job.data, max_length, strategy, stop)
    if input_file is None or lines is None:
        _ask(job.method.lm, model, answer)
        return
    default = job.directory / "predictions" / epath.Path(input_file).name
    output = cloud_storage.open_path(output_file) if output_file else default
    window = batch_size if job.data.prepare else _LINES * batch_size  # a minute of re-ranking is enough to lose
    _answer_lines(lines, output, functools.partial(answer, model, slots=batch_size), window, log_probs)
    print(f"{len(lines)} answers in {output}")


def _answer_lines(
    lines: list[dict], output: epath.Path, answer: Callable[..., Iterator[_Answer]], window: int, log_probs: bool
) -> None:
    """Answers windows of lines, and writes what is answered after each."""
    done, written = from_first(functools.partial(_resume, output, lines)), time.monotonic()
    if done:
        print(f"{len(done)} answers were there already; to have them anew, delete {output}")
    with progress.bar(initial=len(done), total=len(lines), desc="answer", unit="lines") as bar:
        for start in range(len(done), len(lines), window):
            asked = lines[start : start + window]
            found: list[dict] = [{}] * len(asked)
            for one in answer([line["inputs"] for line in asked], first=start):
                more = {"log_probability": one.log_probability} if log_probs else {}
                found[one.number] = {**asked[one.number], "prediction": one.text, **more, **one.evidence}
                bar.update()
            done += found
            if time.monotonic() - written > _WRITE_SECONDS or len(done) == len(lines):
                _write(output, done)
                written = time.monotonic()


class _Answer(NamedTuple):
    """An answer, or several.

    Attributes:
        number: of the line.
        text: one, or a list of several.
        log_probability: of each.
        evidence: {"passages": those that the method has put before the question} or its {"candidates": ...}.
    """

    number: int
    text: str | list[str]
    log_probability: float | list[float]
    evidence: Mapping[str, Any]


class _Answerer:
    """Texts to texts."""

    def __init__(self, data: TaskData, max_length: int, strategy: Strategy, stop: Stop) -> None:
        self._data, self._max_length, self._strategy, self._stop = data, max_length, strategy, stop
        self._asked = functools.lru_cache(1)(data.asked)  # in the terminal two models answer from the same passages

    def __call__(self, model: LanguageModel, texts: list[str], slots: int = 1, first: int = 0) -> Iterator[_Answer]:
        """Answers texts, in whatever order answers end; `first` of the file's lines stand before them."""
        examples = self._asked(tuple(texts))
        inputs = self._inputs(texts, examples)
        encoder_inputs = [
            tokens for one in examples if (tokens := self._data.encoder_tokens(shown(one["inputs"]))) is not None
        ]
        written = model.generate_many(
            inputs,
            max_length=self._max_length,
            slots=slots,
            strategy=self._strategy,
            stop=self._stop,
            encoder_inputs=encoder_inputs or None,
            ids=range(first + 1, first + 1 + len(texts)),
        )
        for number, found in written:
            rows = [row[:length] for row, length in zip(found.tokens.tolist(), found.lengths, strict=True)]
            answers = [self._stop.cut(lm_tokenizer().decode(row)) for row in rows]
            nats = [round(float(row), 4) for row in found.log_probs.sum(axis=1)]
            evidence = {name: value for name, value in examples[number].items() if name in SHOWN}
            one = len(answers) == 1
            yield _Answer(number, answers[0] if one else answers, nats[0] if one else nats, evidence)

    def _inputs(self, texts: Sequence[str], examples: Sequence[Mapping[str, Any]]) -> list[Tokens]:
        if self._data.prepare is not None:
            return [self._data.prepared_tokens(example) for example in examples]
        if cut := sum(self._data.is_cut(text) for text in texts):
            length = self._data.task_feature_lengths["inputs"]
            tqdm.write(f"{cut} of {len(texts)} inputs are cut at {length} tokens, see TASK_FEATURE_LENGTHS", sys.stderr)
        return [self._data.input_tokens(text) for text in texts]


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
    """Shows what is answered with the module, if there is one, and by the frozen LM alone, for each line typed."""
    if are_several() or not sys.stdin.isatty():
        raise UserError(
            "infer: no input file; give --gin.infer.input_file=FILE.jsonl, or run one process in a terminal"
        )
    print("Type a line of text; an empty one ends.")
    for text in _typed():
        [first] = answer(model, [text])
        for place, passage in enumerate(first.evidence.get("passages", ()), 1):
            ranks = ", ".join(f"{stage} {rank}" for stage, rank in passage["ranks"].items())
            print(f"  {place:3}. {passage['title']} ({ranks}; score {passage['score']:.3f})")
        for one in first.evidence.get("candidates", ()):
            print(f"  {one['count']:3} times {one['text']} (log-probability {one['log_probability']:.3f})")
        if model is not lm:  # comes first: the LM alone may go on and on
            print(f"  with {type(model).__name__}: {first.text}", flush=True)
            [first] = answer(lm, [text])
        print(f"  frozen LM alone: {first.text}")


def _typed() -> Iterator[str]:
    while True:
        try:
            text = input("> ")
        except EOFError:
            return
        if not text:
            return
        yield text
