"""Kills train, eval, infer and prepare at random moments, runs them again, and compares what they end with.

    python -m tests.end_to_end.survive --kills=30               minutes on two cores

Each mode is first run unbroken. Then it is started again and again in one and the same place, killed with SIGKILL up to
five times, and left to end. Of the moments every second is drawn between the start and the unbroken run's end. The
others are those at which a file is about to be written, renamed, made or removed, or some milliseconds later, when it
is half written. Everything that the runs leave is compared but for what a clock measured: arrays and predictions bit
for bit, and no file may be left that the unbroken run did not leave.

The LM is a tiny T5, the task a few JSON lines. Training has a validation and a report at its end; `prepare` trains a
re-ranker, scans and indexes passages, retrieves, re-ranks and packs. Processes begin with everything imported, so that
kills fall where something happens.
"""

import argparse
import collections
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from tests.end_to_end import forked, watched
from tests.end_to_end.test_kill_and_resume import TIMES, arrays

KILLS_A_RUN = 5
SECONDS = 600  # of one start, at most
HALF_WRITTEN = 0.05  # seconds within which a tiny file or checkpoint is written
SIZES = {"train": 48, "validation": 16, "test": 40}
PASSAGES = 24

GIN = """
import frozen_jax.text_files
include "tests/end_to_end/tiny.gin"
MIXTURE_OR_TASK_MODULE = "tasks.files"
MIXTURE_OR_TASK_NAME = "questions"
TASK_FEATURE_LENGTHS = {"inputs": 30, "targets": 4}
text_files.tasks = [@TextFiles(), @pairs/TextFiles()]
TextFiles.name = "questions"
TextFiles.files = {"train": "FOLDER/train.jsonl", "validation": "FOLDER/validation.jsonl", "test": "FOLDER/test.jsonl"}
TextFiles.metrics = ["squad"]
pairs/TextFiles.name = "pairs"
pairs/TextFiles.files = {"train": "FOLDER/pairs.jsonl"}
pairs/TextFiles.choices = ["no", "yes"]
pairs/TextFiles.metrics = ["accuracy"]
MODEL_DIR = "FOLDER/run/model"
TRAIN_STEPS = 12
EVAL_PERIOD = 6
evaluate.batch_size = 4
evaluate_module.split = "test"
infer.input_file = "FOLDER/test.jsonl"
infer.strategy = @Sample()
infer.batch_size = 1
infer.max_length = 4
"""
READER = """
import frozen_jax.methods.fine_tuning
include "FOLDER/tiny.gin"
include "gin/methods/frozen_reader.gin"
EVAL_PERIOD = 0
READER = @PromptTuning()
RERANKER = @reranker/train
CORPUS = "FOLDER/passages.jsonl"
EVIDENCE_DIR = "FOLDER/run/evidence"
FrozenReader.template = "{passages} w7 {question}"
FrozenReader.passage_template = "{title} {text}"
FrozenReader.separator = " "
FrozenReader.lengths = (14, 30)
Evidence.hits = 6
prepare.splits = ("validation", "test")
Reranker.tokenizer = %TOKENIZER
Reranker.template = "w40 {question} {passage} w6"
Reranker.words = ("yes", "no")
Reranker.max_length = 24
reranker/load_lm.source = %INITIAL_CHECKPOINT_PATH
reranker/FineTuning.lm = @reranker/load_lm()
reranker/Job.method = @reranker/FineTuning()
reranker/Job.model_dir = "FOLDER/run/reranker"
reranker/TaskData.mixture_or_task_name = "pairs"
reranker/TaskData.task_feature_lengths = {"inputs": 24, "targets": 2}
reranker/TaskData.token_cache = "FOLDER/pairs"
reranker/train.job = @reranker/Job()
reranker/train.optimizer = @optax.sgd()
optax.sgd.learning_rate = 0.1
reranker/train.train_steps = 4
reranker/train.report_split = None
"""
TINY, READS = "--gin_file=FOLDER/tiny.gin", "--gin.TOKEN_CACHE_DIR=FOLDER/questions"
CACHES = [
    [TINY, READS, "--run_mode=cache"],
    [
        TINY,
        "--gin.TOKEN_CACHE_DIR=FOLDER/pairs",
        "--run_mode=cache",
        "--gin.MIXTURE_OR_TASK_NAME=pairs",
        """--gin.TASK_FEATURE_LENGTHS={"inputs": 24, "targets": 2}""",
    ],
]
MODES = {  # `eval` and `infer` begin with what `train` has left
    "train": [TINY, READS],
    "eval": [TINY, READS, "--run_mode=eval"],
    "infer": [TINY, READS, "--run_mode=infer"],
    "prepare": ["--gin_file=FOLDER/reader.gin", READS, "--run_mode=prepare"],
}
CLOCKS = TIMES | {"seconds"}
COMMENTS = {"report.md": r"This run: [^\n]*", "config.gin": r"# What was called.*"}  # on the last process alone
OTHERS = "tensorboard", "tantivy"  # folders whose files are named by the time or by chance

# What a process was doing when it died, by the file that it touched last; what stands first counts.
PLACES = {
    r"^r .*(checkpoints|best)\b": "restoring",
    r"(checkpoints|best)/\d+$|metrics|tensorboard|config\.gin": "training",
    r"(checkpoints|best)\b": "saving",
    r"cache/passages": "scanning passages",
    r"tantivy|index\.json|\.lock": "indexing",
    r"answers|predictions|report": "answering",
    r"evidence": "retrieving to packing",
    r"": "loading and compiling",
}


class Place:
    """Where everything lies: what the runs are given, and `run/`, which is all that they write to."""

    def __init__(self, folder):
        """Writes what the runs are given, token files too: with those, run.py imports no TensorFlow."""
        self.folder, self.run = folder, folder / "run"
        self._streams = [folder / name for name in ("stdout", "stderr")]
        _write_inputs(folder)
        for arguments in CACHES:
            self.start(arguments)

    def fresh(self, before):
        """Lets `run/` be what an earlier run has left, or nothing."""
        shutil.rmtree(self.run, ignore_errors=True)
        if before is None:
            self.run.mkdir()
        else:
            shutil.copytree(before, self.run)

    def start(self, arguments, *, die_at=0, after=0.0, seconds=SECONDS):
        """Runs run.py until it ends, kills itself or is killed; returns where it was then, None at its end."""
        given = [argument.replace("FOLDER", str(self.folder)) for argument in arguments]
        call = [self.folder / "log", self.run, die_at, after, *given]
        (self.folder / "log").write_text("")
        process = forked.start(watched.main, call, self._environment(), self._streams)
        try:
            process.join(seconds)
        finally:  # also when someone ends this script
            if late := process.exitcode is None:
                kill(process.pid)
                process.join()
        assert not (late and seconds == SECONDS), f"run.py {' '.join(given)} did not end within {SECONDS} s"
        if process.exitcode == -signal.SIGKILL:
            return where(self.touched())
        told = self._streams[1].read_text()
        assert process.exitcode == 0, f"exit status {process.exitcode} of run.py {' '.join(given)}:\n{told}"
        return None

    def _environment(self):
        return {**os.environ, "XLA_FLAGS": forked.ONE_DEVICE, "FROZEN_JAX_CACHE": str(self.run / "cache")}

    def touched(self):
        """What the last process did to files, a line each; see `watched`."""
        return (self.folder / "log").read_text().splitlines()

    def results(self):
        """Name → contents of all that a run has left and printed, without what a clock measured."""
        tables = [line for line in self._streams[0].read_text().splitlines() if line.startswith("|")]
        return {"printed tables": "\n".join(tables), **dict(_contents(self.run))}


def kill(pid):
    """The whole group and, before there is one, the process; which may just have ended."""
    for kill_it in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill_it(pid, signal.SIGKILL)


def where(touched):
    """What a process was doing, by the file that it touched last."""
    last = touched[-1] if touched else ""
    return next(place for pattern, place in PLACES.items() if re.search(pattern, last))


def survive(place, name, kills, before, rng):
    """Kills one mode so often; returns a line of the table, the unbroken run's folder, and what differed."""
    began, arguments = time.perf_counter(), MODES[name]
    place.fresh(before)
    assert place.start(arguments) is None
    unbroken, seconds = place.results(), time.perf_counter() - began
    changes = sum(line.startswith("w") for line in place.touched())
    kept = place.folder / f"unbroken_{name}"
    shutil.copytree(place.run, kept)
    places, differing, runs = [], set(), 0
    while len(places) < kills:
        place.fresh(before)
        for number in range(min(KILLS_A_RUN, kills - len(places))):
            aimed = {"die_at": rng.randint(1, changes), "after": rng.choice((0, rng.uniform(0, HALF_WRITTEN)))}
            died = place.start(arguments, **({"seconds": rng.uniform(0, seconds)} if number % 2 else aimed))
            if died is None:
                break
            places.append(died)
        else:
            assert place.start(arguments) is None
        runs += 1
        found = place.results()
        differing |= {
            f"{name}: {file}" for file in unbroken.keys() | found.keys() if unbroken.get(file) != found.get(file)
        }
    fell = ", ".join(f"{place} {count}" for place, count in collections.Counter(places).most_common())
    same = f"{len(unbroken)} files, {runs} times" if not differing else f"{len(differing)} DIFFER"
    line = f"| {name} | {len(places)} | {fell} | {same} | {seconds:.0f} | {time.perf_counter() - began:.0f} |"
    return line, kept, differing


def _contents(run):
    for path in sorted(run.rglob("*")):
        parts = path.relative_to(run).parts
        steps = [
            place for place, part in enumerate(parts) if part.isdigit() and parts[place - 1] in ("checkpoints", "best")
        ]
        if any(part in OTHERS for part in parts[:-1]) or (steps and steps[0] < len(parts) - 1):
            continue
        if steps:
            yield "/".join(parts), _digest(arrays(path)) + (path / "description" / "metadata").read_text()
        else:
            yield "/".join(parts), _content(path)


def _content(path):
    if path.is_dir():
        return "a folder"
    if path.suffix == ".npz":
        with np.load(path) as found:
            return _digest({name: found[name] for name in found.files if name != "seconds"})
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return json.dumps([{key: value for key, value in line.items() if key not in CLOCKS} for line in lines])
    if path.name in COMMENTS:
        return re.sub(COMMENTS[path.name], "", path.read_text(), flags=re.DOTALL)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    told = [(str(path), str(leaf.dtype), leaf.shape, leaf.tobytes()) for path, leaf in leaves]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def _write_inputs(folder):
    """Gin files, the task, pairs for the re-ranker, and passages, each with two words of its own."""
    for name, text in (("tiny", GIN), ("reader", READER)):
        (folder / f"{name}.gin").write_text(text.replace("FOLDER", str(folder)))
    rng = random.Random(0)
    texts = [f"w{10 + n} w{40 + n} " + " ".join(f"w{rng.randrange(70, 95)}" for _ in range(4)) for n in range(PASSAGES)]
    _write_lines(
        folder / "passages.jsonl", [{"id": f"p{n}", "title": f"w{10 + n}", "text": t} for n, t in enumerate(texts)]
    )
    for split, size in SIZES.items():
        numbers = [rng.randrange(PASSAGES) for _ in range(size)]
        _write_lines(
            folder / f"{split}.jsonl",
            [{"inputs": f"w{40 + n} w{rng.randrange(5, 10)}", "targets": f"w{10 + n}"} for n in numbers],
        )
    pairs = [(n, good) for n in range(PASSAGES) for good in (True, False)]
    _write_lines(
        folder / "pairs.jsonl",
        [
            {
                "inputs": f"w40 w{40 + n} {texts[n if good else (n + 7) % PASSAGES]} w6",
                "targets": "yes" if good else "no",
            }
            for n, good in pairs
        ],
    )


def _write_lines(file, lines):
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def main(arguments):
    """Prints a table; returns 1 and names what differs, if anything does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="of all modes together")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", help="a new one, to look at afterwards; else a temporary one")
    flags = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        differing = _table(Path(flags.folder or scratch).resolve(), flags.kills, flags.seed)
    for file in sorted(differing):
        print(f"not as unbroken: {file}")
    return 1 if differing else 0


def _table(folder, kills, seed):
    folder.mkdir(parents=True, exist_ok=True)
    _set_jax(folder)
    place, trained, differing = Place(folder), None, set()
    print("| mode | kills | while | the same | seconds unbroken | in all |\n|---|---|---|---|---|---|")
    for number, name in enumerate(MODES):
        share = kills // len(MODES) + (number < kills % len(MODES))
        before = None if name == "prepare" else trained
        line, kept, found = survive(place, name, share, before, random.Random(f"{seed} {name}"))
        trained, differing = trained or kept, differing | found
        print(line, flush=True)
    return differing


def _set_jax(folder):
    """As in conftest.py, before the server of processes starts; compiled programs are shared by all runs."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**30))
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax.config.update("jax_platforms", "cpu")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
