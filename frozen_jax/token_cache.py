"""Token files: a task or a mixture, tokenized once, read on hosts that have neither TensorFlow nor seqio.

    CACHE/manifest.json                      what it was made with, and how large every file is; written last
    CACHE/TASK/train.inputs.tokens           int32, little-endian: all tokens of the training split, end to end
    CACHE/TASK/train.inputs.offsets          int64: sequence i is tokens[offsets[i] : offsets[i + 1]]
    CACHE/TASK/validation.jsonl, ...         one example a line: tokens, texts, answer choices, fields for the metrics
    CACHE/TASK/train.jsonl                   the same of the training split, with `cache.train_texts`: for methods that
                                             prepare texts, such as frozen readers, and for halves of the split

`--run_mode=cache` writes them, TOKEN_CACHE_DIR reads them. What is read is what `frozen_jax.data` would have made:
batches, order, mixing rates and evaluation examples are the same to the bit. Metrics are found by their names in
`frozen_jax.text_metrics`; nothing in the files is ever run or unpickled. A metric of a task's own is not in that table:
its task's predictions are written all the same, and judged where seqio is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from frozen_jax import cloud_storage, p3, templates
from frozen_jax.answering import EvalExample, EvalTask, unchanged
from frozen_jax.batching import ENCODER_INPUTS, Ragged, TaskTokens
from frozen_jax.errors import UserError
from frozen_jax.ordering import sample
from frozen_jax.text_metrics import METRICS, POSTPROCESSORS
from frozen_jax.tokenizer import encoder_tokenizer, lm_tokenizer

FORMAT = 1
_MANIFEST = "manifest.json"
_NAME = re.compile(r"\w[\w.:-]*")  # of a task, a split or a feature: what may become a file's name
_PARTS = {"tokens": np.dtype("<i4"), "offsets": np.dtype("<i8")}
_MEASURES = {"postprocess": POSTPROCESSORS, "predict_metrics": METRICS, "score_metrics": METRICS}


@dataclasses.dataclass(frozen=True)
class Made:
    """What a cache was made with; reading it with anything else is refused.

    Attributes:
        mixture_or_task_name: the tasks.
        task_feature_lengths: at which their features were cut.
        tokenizer: name of the LM's tokenizer.
        tokenizer_sha256: of its file.
        pack: whether several examples share a row of the training split.
        encoder_tokenizer: name of that of the feature `encoder_inputs`; empty without one.
        encoder_tokenizer_sha256: of its file.
        template: what stands around the inputs, see `frames`; empty where nothing does.
        p3_most_examples: see `frozen_jax.p3`; of tasks of P3 alone.
        p3_most_evaluated: the same.
    """

    mixture_or_task_name: str
    task_feature_lengths: Mapping[str, int]
    tokenizer: str
    tokenizer_sha256: str
    pack: bool
    encoder_tokenizer: str = ""
    encoder_tokenizer_sha256: str = ""
    template: str = ""
    p3_most_examples: int = 500_000
    p3_most_evaluated: int | None = 100


def made_now(mixture_or_task_name: str, task_feature_lengths: Mapping[str, int], pack: bool) -> Made:
    """What a run with these settings makes, or wants; the tokenizers are those that gin binds."""
    tokenizers = [lm_tokenizer(), *([encoder_tokenizer()] if ENCODER_INPUTS in task_feature_lengths else [])]
    (name, sha256), *encoder = [(tokenizer.name, tokenizer.sha256) for tokenizer in tokenizers]
    encoder, template = encoder[0] if encoder else ("", ""), lm_tokenizer().template or ""
    return Made(mixture_or_task_name, dict(task_feature_lengths), name, sha256, pack, *encoder, template, *p3.limits())


def is_complete(directory: epath.PathLike, made: Made, train_texts: bool = False) -> bool:
    """Whether the cache is there already.

    Args:
        directory: where it is, local or gs://.
        made: what it is to be made with.
        train_texts: whether the texts of the training split are wanted too.

    Returns:
        False if nothing is there, or only what a run that was killed has left.

    Raises:
        UserError: if a cache is there that was made with something else, or without those texts.
    """
    folder = cloud_storage.open_path(directory)
    if not (folder / _MANIFEST).exists():
        return False
    manifest = _manifest(folder, made)
    if train_texts:
        _check_train_texts(folder, manifest)
    return True


def write(directory: epath.PathLike, made: Made, train: Iterable[TaskTokens], evaluation: Iterable[EvalTask]) -> None:
    """Writes a cache. Until its manifest stands, which comes last, it counts as absent.

    Args:
        directory: where to, local or gs://; it is made.
        made: what it was made with.
        train: the training split of every task that has one.
        evaluation: the other splits, whole; also the training split where its texts are wanted.
    """
    folder = cloud_storage.open_path(directory)
    manifest: dict[str, Any] = {"format": FORMAT, "made": dataclasses.asdict(made), "train": [], "evaluation": []}
    for tokens in train:
        place = folder / _safe(tokens.name)
        files = {name: _write_ragged(place, name, ragged) for name, ragged in tokens.features.items()}
        manifest["train"].append({"task": tokens.name, "rate": tokens.rate, "features": files})
    for task in evaluation:
        lines = "".join(json.dumps(_line(example)) + "\n" for example in task.examples)
        file = _write(folder / _safe(task.name) / f"{_safe(task.split)}.jsonl", lines.encode())
        manifest["evaluation"].append(_description(task) | {"file": file})
    _write(folder / _MANIFEST, json.dumps(manifest, indent=1).encode())


def train_tokens(directory: epath.PathLike, made: Made) -> list[TaskTokens]:
    """The training split of every task, with the mixing rates.

    Args:
        directory: where the cache is.
        made: what it must have been made with.

    Returns:
        What `batching.Batches` takes.

    Raises:
        UserError: if there is no cache, it was made with something else, is damaged, or holds no training split.
    """
    folder = cloud_storage.open_path(directory)
    with _reading(folder):
        found = [_task_tokens(folder, task) for task in _manifest(folder, made)["train"]]
    if not found:
        raise UserError(f"{folder}: this token cache holds no split 'train'")
    return found


def train_texts(
    directory: epath.PathLike, made: Made, *, max_examples: int | None = None, seed: int = 0
) -> list[tuple[EvalTask, float]]:
    """The training split as text, of every task that is trained on, with its mixing rate.

    Args:
        directory: where the cache is.
        made: what it must have been made with.
        max_examples: no more than so many of a task.
        seed: of that choice.

    Returns:
        The tasks, as `eval_tasks` gives other splits.

    Raises:
        UserError: as `train_tokens`, or if the cache was made without the texts.
    """
    folder = cloud_storage.open_path(directory)
    with _reading(folder):
        manifest = _manifest(folder, made)
        _check_train_texts(folder, manifest)
        rates = {task["task"]: float(task["rate"]) for task in manifest["train"]}
    found = eval_tasks(directory, made, "train", max_examples=max_examples, seed=seed)
    return [(task, rates[task.name]) for task in found if task.name in rates]


def eval_tasks(
    directory: epath.PathLike, made: Made, split: str, *, max_examples: int | None = None, seed: int = 0
) -> list[EvalTask]:
    """The examples of a split; the same as `data.eval_tasks` gives.

    Args:
        directory: where the cache is.
        made: what it must have been made with.
        split: which split.
        max_examples: evaluate no more than so many of a task.
        seed: of that choice.

    Returns:
        The tasks that have the split.

    Raises:
        UserError: as `train_tokens`.
    """
    folder = cloud_storage.open_path(directory)
    with _reading(folder):
        described = _manifest(folder, made)["evaluation"]
        found = [_eval_task(folder, task, max_examples, seed) for task in described if task["split"] == split]
    if not found:
        there = ", ".join(sorted({task["split"] for task in described})) or "none"
        raise UserError(f"{folder}: this token cache holds no split {split!r} to evaluate on; it holds: {there}")
    return found


@contextlib.contextmanager
def _reading(folder: epath.Path) -> Iterator[None]:
    """Turns what a damaged file raises into one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{folder}: this token cache is damaged ({cause}); delete it and cache anew") from error


def _manifest(folder: epath.Path, made: Made) -> dict[str, Any]:
    file = folder / _MANIFEST
    if not file.exists():
        raise UserError(f"{folder} holds no token cache, or one that was not finished; make it with --run_mode=cache")
    with _reading(folder):
        manifest = json.loads(file.read_text())
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']}; this version reads {FORMAT}")
        of_p3 = any(task["task"].startswith(p3.PREFIX) for task in manifest["train"] + manifest["evaluation"])
        differences = list(_differences(manifest["made"], dataclasses.asdict(made), of_p3))
    for what, found, wanted in differences:
        raise UserError(
            f"{folder}: this token cache was made with {what} {found}, and {wanted} is wanted; "
            "name another TOKEN_CACHE_DIR and cache into it"
        )
    return manifest


def _check_train_texts(folder: epath.Path, manifest: Mapping[str, Any]) -> None:
    if not any(task["split"] == "train" for task in manifest["evaluation"]):
        raise UserError(
            f"{folder}: this token cache holds the training split as tokens alone; preparing or halving it needs its "
            "texts: name another TOKEN_CACHE_DIR and cache into it with --gin.cache.train_texts=True"
        )


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any], of_p3: bool) -> Iterator[tuple[str, str, str]]:
    """A tokenizer is known by its file's sum: its name may be a path, and differ from host to host."""
    for name in ("mixture_or_task_name", "task_feature_lengths", "pack"):
        if found[name] != wanted[name]:
            yield name, repr(found[name]), repr(wanted[name])
    if found.get("template", "") != wanted["template"]:  # files from before there were templates have none
        yield "lm_tokenizer.template", repr(found.get("template", "")), repr(wanted["template"])
    for name in p3.Limits._fields if of_p3 else ():
        was, now = (made.get(f"p3_{name}", getattr(Made, f"p3_{name}")) for made in (found, wanted))
        if was != now:
            yield f"p3.{name}", str(was), str(now)
    for which, what in (("tokenizer", "the vocabulary"), ("encoder_tokenizer", "the encoder's vocabulary")):
        (was, old), (now, new) = ((made.get(which, ""), made.get(f"{which}_sha256", "")) for made in (found, wanted))
        if old != new:
            yield what, f"{was} (sha256 {old[:12]})", f"{now} (sha256 {new[:12]})"


def _safe(name: str) -> str:
    """The name as that of a file: nothing in a manifest leads out of its folder."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of a file")
    return name


def _write(path: epath.Path, content: bytes) -> dict[str, Any]:
    """Writes a file whole or not at all, and describes it."""
    cloud_storage.write_whole(path, content)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _read(path: epath.Path, described: Mapping[str, Any]) -> bytes:
    if path.stat().length != described["bytes"]:  # before memory is taken
        raise ValueError(f"{path.name} has {path.stat().length} bytes, not {described['bytes']}")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != described["sha256"]:
        raise ValueError(f"{path.name} has another sha256 than it was written with")
    return content


def _write_ragged(folder: epath.Path, feature: str, ragged: Ragged) -> dict[str, Any]:
    return {
        part: _write(folder / f"train.{_safe(feature)}.{part}", getattr(ragged, part).astype(kind).tobytes())
        for part, kind in _PARTS.items()
    }


def _task_tokens(folder: epath.Path, task: Mapping[str, Any]) -> TaskTokens:
    place, features = folder / _safe(task["task"]), task["features"]
    ragged = {name: _read_ragged(place, name, described) for name, described in features.items()}
    if len({len(rows) for rows in ragged.values()}) != 1:
        raise ValueError(f"the features of {task['task']} have different numbers of rows")
    return TaskTokens(task["task"], ragged, float(task["rate"]))


def _read_ragged(folder: epath.Path, feature: str, described: Mapping[str, Any]) -> Ragged:
    tokens, offsets = (
        np.frombuffer(_read(folder / f"train.{_safe(feature)}.{part}", described[part]), kind)
        for part, kind in _PARTS.items()
    )
    if offsets[0] != 0 or offsets[-1] != len(tokens) or (np.diff(offsets) < 0).any():
        raise ValueError(f"the offsets of {feature} do not fit its {len(tokens)} tokens")
    return Ragged(tokens.astype(np.int32, copy=False), offsets.astype(np.int64, copy=False))


def _description(task: EvalTask) -> dict[str, Any]:
    """What judges a task, by name. Metrics without one stay behind, and all if the postprocessor has none."""
    names = {key: _names(getattr(task, key), table) for key, table in _MEASURES.items()}
    if names["postprocess"] == [None] and task.postprocess is not unchanged:
        names["predict_metrics"] = [None] * len(task.predict_metrics)
    kept = {key: [name for name in found if name] for key, found in names.items()}
    metrics = [*zip(names["predict_metrics"], task.predict_metrics, strict=True)]
    metrics += zip(names["score_metrics"], task.score_metrics, strict=True)
    left = [getattr(metric, "__name__", str(metric)) for name, metric in metrics if name is None]
    facts = {"task": task.name, "data_set": templates.data_set_of(task.name), "split": task.split}
    return facts | kept | {"targets_length": task.targets_length, "unmeasured": left, "examples": len(task.examples)}


def _names(functions: Any, table: Mapping[str, Callable[..., Any]]) -> list[str | None]:
    listed = [functions] if callable(functions) else functions
    return [next((name for name, known in table.items() if known is function), None) for function in listed]


def _line(example: EvalExample) -> dict[str, Any]:
    choices = {text: tokens.tolist() for text, tokens in example.choices.items()}
    raw = {name: _encoded(name, value) for name, value in example.raw.items()}
    texts = {"inputs": example.inputs_text, "targets": example.targets_text}
    return {"index": example.index, "texts": texts, "choices": choices, "raw": raw}


def _encoded(name: str, value: Any) -> Any:
    """A field as seqio gives it: text or texts as they are, numbers with their type."""
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    array = np.asarray(value)
    if array.dtype == object and all(isinstance(item, bytes) for item in array.flat):
        return {"texts": [item.decode(errors="surrogateescape") for item in array.flat], "shape": array.shape}
    if array.dtype.kind in "biuf":
        return {"numbers": array.ravel().tolist(), "shape": array.shape, "dtype": array.dtype.str}
    raise UserError(f"field {name!r} of the examples is neither text nor numbers, and cannot be cached")


def _decoded(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="surrogateescape")
    if "texts" in value:
        items = [text.encode(errors="surrogateescape") for text in value["texts"]]
        array = np.empty(len(items), object)
        array[:] = items
        return array.reshape(value["shape"])
    dtype = np.dtype(value["dtype"])
    if dtype.kind not in "biuf":
        raise ValueError(f"numbers of type {dtype}")
    return np.array(value["numbers"], dtype).reshape(value["shape"])[()]


def _eval_task(folder: epath.Path, task: Mapping[str, Any], max_examples: int | None, seed: int) -> EvalTask:
    content = _read(folder / _safe(task["task"]) / f"{_safe(task['split'])}.jsonl", task["file"])
    lines = content.decode().split("\n")[:-1]
    measures = {key: [table[name] for name in task[key]] for key, table in _MEASURES.items()}
    data_set = task.get("data_set", templates.data_set_of(task["task"]))
    templates.register(_safe(data_set), [task["task"]])  # as its module would, which is not imported here
    return EvalTask(
        name=task["task"],
        split=task["split"],
        split_size=len(lines),
        examples=[_example(lines[row]) for row in sample(len(lines), max_examples, seed, task["task"])],
        targets_length=task["targets_length"],
        decode=lm_tokenizer().decode,
        postprocess=(measures["postprocess"] or [unchanged])[0],
        predict_metrics=measures["predict_metrics"],
        score_metrics=measures["score_metrics"],
        unmeasured=task["unmeasured"],
    )


def _example(line: str) -> EvalExample:
    found = json.loads(line)
    raw = {name: _decoded(value) for name, value in found["raw"].items()}
    return EvalExample(
        index=found["index"],
        inputs=lm_tokenizer().framed(np.asarray(raw["inputs"], np.int32)),
        targets=np.asarray(raw["targets"], np.int32),
        inputs_text=found["texts"]["inputs"],
        targets_text=found["texts"]["targets"],
        choices={text: np.array(tokens, np.int32) for text, tokens in found["choices"].items()},
        raw=raw,
        encoder_inputs=np.asarray(raw[ENCODER_INPUTS], np.int32) if ENCODER_INPUTS in raw else None,
    )
