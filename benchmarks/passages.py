"""Measures what a corpus of many passages costs: memory and time of scanning, opening again, reading, BM25.

    python benchmarks/passages.py                          a million passages, 640 MB and the index in a scratch folder
    python benchmarks/passages.py --passages 10000

The passages are made up: 100 words each, as DPR's table has them, drawn from 200,000 by Zipf's law. Each stage runs in
a process of its own, so that its peak memory is its own; `import` imports what the others import, and no more.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

STAGES = ("import", "scan", "open", "read", "build", "search")
READS, QUESTIONS, WORDS, VOCABULARY = 1000, 100, 100, 200_000


def main() -> None:
    """Runs each stage and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.stage:
        print(json.dumps(measure(flags.stage, flags.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write(pathlib.Path(folder, "passages.tsv"), flags.passages)
        print("| stage | seconds | of CPU | peak memory, MiB | on disk, MiB |\n|---|---|---|---|---|")
        for stage in STAGES:
            found = in_process(stage, folder)
            print("| {stage} | {seconds:.2f} | {cpu:.2f} | {peak:.0f} | {disk:.0f} |".format(stage=stage, **found))


def write(path: pathlib.Path, count: int) -> None:
    """Writes the table."""
    generator = np.random.default_rng(0)
    words = np.array([f"w{n:x}" for n in range(VOCABULARY)])
    with open(path, "w") as stream:
        stream.write("id\ttext\ttitle\n")
        for start in range(0, count, 1000):
            drawn = words[_drawn(generator, (min(1000, count - start), WORDS))]
            stream.writelines(f"{start + n}\t{' '.join(row)}\t{row[0]} {row[1]}\n" for n, row in enumerate(drawn, 1))


def _drawn(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Zipf's law with exponent 1: the logarithm of the rank is uniform."""
    return (VOCABULARY ** generator.random(shape)).astype(np.int64) - 1


def measure(stage: str, folder: pathlib.Path) -> dict[str, Any]:
    """Returns the seconds, wall and CPU, of a stage, and the peak memory of this process and what lies on disk."""
    from frozen_jax.retrieval.bm25 import BM25
    from frozen_jax.retrieval.passages import Passages

    path, generator = folder / "passages.tsv", np.random.default_rng(1)
    corpus = Passages(path) if stage in ("read", "build", "search") else None
    bm25 = BM25(corpus, folder / "bm25") if corpus and stage == "search" else None
    began, cpu = time.perf_counter(), time.process_time()
    if stage in ("scan", "open"):
        Passages(path)
    elif stage == "read" and corpus:
        for number in generator.integers(len(corpus), size=READS):
            corpus[number]
    elif stage == "build" and corpus:
        BM25(corpus, folder / "bm25")
    elif bm25:
        numbers = _drawn(generator, (QUESTIONS, 12))
        bm25.search([" ".join(f"w{n:x}" for n in row) for row in numbers], 100)
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    place = folder / {"scan": "cache", "build": "bm25", "import": "passages.tsv"}.get(stage, "nothing")
    return {"seconds": seconds, "cpu": cpu, "peak": peak, "disk": _size(place) / 2**20}


def _size(place: pathlib.Path) -> int:
    return sum(file.stat().st_size for file in [place, *place.rglob("*")] if file.is_file())


def in_process(stage: str, folder: str) -> dict[str, Any]:
    """Measures in a process of its own."""
    command = [sys.executable, __file__, "--stage", stage, "--folder", folder]
    environment = os.environ | {"FROZEN_JAX_CACHE": os.path.join(folder, "cache")}
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
