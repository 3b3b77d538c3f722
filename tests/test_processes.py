"""Two and four processes give what one gives: answers, files written once, passages, weights read once."""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from frozen_jax import partitioning, processes
from frozen_jax.evaluation import Kept, evaluate
from frozen_jax.lm.decoding import Sample
from frozen_jax.lm.generation import Stop
from frozen_jax.lm.pretrained import load
from frozen_jax.methods.dual_encoder import DualEncoder
from frozen_jax.methods.prompt_tuning import PromptTuning
from frozen_jax.retrieval import dense
from frozen_jax.retrieval.bm25 import BM25
from frozen_jax.retrieval.dense import Dense
from frozen_jax.retrieval.encoders import Tower
from frozen_jax.runs import evaluate as eval_mode
from frozen_jax.runs import infer, record
from tests import tiny_tokenizer
from tests.lm.pretrained.written import FIXTURES, GATED
from tests.processes import run
from tests.retrieval.corpora import Listed
from tests.runs import modules_of_tiny

STORED = str(FIXTURES / "t5_1_1_tiny_orbax")
QUESTIONS = ["one", "two three", "no", "nine nine", "yes yes four"]
TEXTS = [" ".join(tiny_tokenizer.WORDS[3 + (i * k) % 12] for k in range(1, 2 + i % 6)) for i in range(50)]


def lm_on(mesh, **changes):
    return load.load_lm(STORED, mesh=mesh, mlp_activations=GATED, **changes)


def own(folder):
    """A folder of this process alone: what lies in any but the first one's was written twice."""
    return folder / f"of-{jax.process_index()}"


def agreement(folder):
    """The few calls of `processes`."""

    def fail_in_second():
        if jax.process_index() == 1:
            raise ValueError("of the second")
        return jax.process_index()

    found = {"each": processes.from_each(jax.process_index), "first": processes.from_first(jax.process_index)}
    found["share"] = list(processes.share(range(5)))
    try:
        processes.from_each(fail_in_second)
    except ValueError as error:
        found["error"] = str(error)
    processes.wait("here")
    return found


def evaluation(folder):
    mesh = partitioning.make_mesh(-1, 2)
    lm = lm_on(mesh)
    job = modules_of_tiny.job(own(folder) / "job", lm, mesh=mesh)
    job = dataclasses.replace(job, data=dataclasses.replace(job.data, mixture_or_task_name="both", eval_examples=11))
    eval_mode.evaluate_module(job, checkpoint="none")
    eval_mode.evaluate_module(job, checkpoint="none", modules=[], tasks="text")
    method, tasks = PromptTuning(lm, length=3), job.data.eval_tasks("test")
    kept = Kept(own(folder) / "answers", {"model": "one"})
    results = evaluate(method, tasks, batch_size=4, predictions_dir=own(folder) / "predictions", kept=kept)
    # As if killed before the second chunk: what is missing is the first process's to say.
    for file in (own(folder) / "answers").glob("*/00000008.npz"):
        file.unlink()
    assert evaluate(method, tasks, batch_size=4, kept=kept) == results
    return {name: dataclasses.asdict(result) for name, result in results.items()}, record.digest(lm)


def inference(folder):
    lm = lm_on(partitioning.make_mesh(-1, 2))
    inputs = [np.arange(2 + i, 6 + 2 * i, dtype=np.int32) for i in range(7)]
    stop = Stop(strings=(" 3",), decode=lambda ids: " ".join(map(str, ids)))
    how = {"max_length": 5, "slots": 4, "strategy": Sample(n=2, temperature=1.0, seed=3), "stop": stop}
    written = {number: found.tokens.tolist() for number, found in lm.generate_many(inputs, **how)}
    lines = [{"inputs": str(i)} for i in range(7)]

    def answer(texts, first):
        greedy = lm.generate_many([inputs[int(text)] for text in texts], max_length=5, slots=4)
        return (infer._Answer(number, str(found.tokens[0]), 0.0, {}) for number, found in greedy)

    output = infer.cloud_storage.open_path(own(folder) / "answers.jsonl")
    if processes.is_first():
        output.parent.mkdir(parents=True, exist_ok=True)
        infer._answer_lines(lines[:3], output, answer, 3, False) if not processes.are_several() else output.touch()
    return written


def retrieval(folder, monkeypatch=pytest.MonkeyPatch):
    mesh = partitioning.make_mesh(-1, 2)
    (own(folder) / "tokens").mkdir(parents=True)
    tower = Tower(
        DualEncoder(lm_on(mesh, num_decoder_layers=0), width=8),
        tiny_tokenizer.write(own(folder) / "tokens"),
        length=8,
        batch_size=8,
    )
    corpus = Listed(TEXTS)
    with monkeypatch.context() as patch:
        patch.setattr(dense, "_CHUNK", 16)
        found = Dense(corpus, tower, folder / "vectors", mesh=mesh).search(QUESTIONS, 5)
    scores = tower.encode(QUESTIONS) @ tower.encode(TEXTS).T
    words = BM25(corpus, own(folder) / "bm25", stemming=None).search(QUESTIONS, 5)
    return found, scores, words


def loading(folder, monkeypatch=pytest.MonkeyPatch):
    """How many bytes are read of the LM for its fingerprint and its parameters, by how it is split."""
    read, open_checkpoint = collections.Counter(), load.open_checkpoint

    def counted(stored, how):
        def counting(part):
            found = stored.read(part)
            read[how] += found.nbytes
            return found

        return dataclasses.replace(stored, read=counting)

    found = {}
    for model in (1, jax.device_count()):

        def opened(*args, model=model, **settings):
            checkpoint = open_checkpoint(*args, **settings)
            read["whole"] = sum(np.prod(a.shape) * a.dtype.itemsize for a in checkpoint.arrays.values())
            arrays = {name: counted(stored, model) for name, stored in checkpoint.arrays.items()}
            return dataclasses.replace(checkpoint, arrays=arrays)

        with monkeypatch.context() as patch:
            patch.setattr(load, "open_checkpoint", opened)
            lm = lm_on(partitioning.make_mesh(-1, model))
        found[model] = (read[model] / read["whole"], lm.fingerprint, record.digest(lm))
    return found


def everything(folder):
    parts = (agreement, evaluation, inference, retrieval, loading)
    return {part.__name__: part(folder) for part in parts}
