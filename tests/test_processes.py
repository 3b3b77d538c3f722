"""Several processes give what one gives: answers, files written once, passages; and read an LM's weights once."""

from __future__ import annotations

import collections
import dataclasses
import json

import jax
import numpy as np
import pytest
from etils import epath

from frozen_jax import partitioning, processes
from frozen_jax.errors import UserError
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
from frozen_jax.runs import record
from frozen_jax.runs.evaluate import evaluate_module
from frozen_jax.runs.infer import _Answer, _answer_lines, _ask
from tests import fake_model, tiny_tokenizer
from tests.lm.pretrained.written import FIXTURES, GATED
from tests.processes import run
from tests.retrieval.corpora import Listed
from tests.runs import modules_of_tiny

STORED = str(FIXTURES / "t5_1_1_tiny_orbax")
QUESTIONS = ["one", "two three", "no", "nine nine", "yes yes four"]
TEXTS = [" ".join(tiny_tokenizer.WORDS[3 + (i * k + i // 12) % 12] for k in range(1, 2 + i % 6)) for i in range(50)]
CHOOSING = fake_model.task(
    [fake_model.example(i, f"{5 + i} 7", str(10 + i % 2 * 40), choices=("10", "50")) for i in range(7)],
    name="chosen",
)


def lm_on(mesh, **changes):
    return load.load_lm(STORED, mesh=mesh, mlp_activations=GATED, **changes)


def own(folder):
    """A folder of this process alone: what lies in any but the first one's was written twice, or read by others."""
    return folder / f"of-{jax.process_index()}"


def agreeing():
    def fail_in_second():
        if jax.process_index() == 1:
            raise UserError("of the second")
        return jax.process_index()

    found = [processes.from_each(jax.process_index), processes.from_first(jax.process_index)]
    found.append(sum(map(len, processes.from_each(lambda: list(processes.share(range(7)))))))
    with pytest.raises(UserError, match="of the second"):
        processes.from_each(fail_in_second)
    with pytest.raises(UserError, match="one process in a terminal"):
        _ask(None, None, None)
    processes.wait("here")
    return found


def choosing(folder, lm):
    (folder / "predictions").mkdir(parents=True)
    method = PromptTuning(lm, length=3)
    result = evaluate(method, [CHOOSING], batch_size=4, predictions_dir=folder / "predictions")["chosen"]
    return dataclasses.asdict(result), record.digest(method)


def writing(folder, lm, mesh):
    """Also as if killed before the second chunk: which one is missing is the first process's to say."""
    job = modules_of_tiny.job(folder / "job", lm, mesh=mesh)
    job = dataclasses.replace(job, data=dataclasses.replace(job.data, mixture_or_task_name="written", eval_examples=7))
    kept, tasks = Kept(folder / "answers", {}), job.data.eval_tasks("test")
    result = evaluate(lm, tasks, batch_size=3, kept=kept)["written"]
    for file in folder.glob("answers/*/00000006.npz"):
        file.unlink()
    assert evaluate(lm, tasks, batch_size=3, kept=kept, predictions_dir=folder)["written"] == result
    evaluate_module(job, checkpoint="none", modules=[], tasks="text")
    return dataclasses.asdict(result)


def sampling(lm):
    stop = Stop(strings=(" 3",), decode=lambda ids: " ".join(map(str, ids)))
    how = {"max_length": 5, "slots": 4, "strategy": Sample(n=2, temperature=1.0, seed=3), "stop": stop}
    inputs = [np.arange(2 + i, 6 + 2 * i, dtype=np.int32) for i in range(6)]
    return {number: found.tokens.tolist() for number, found in lm.generate_many(inputs, **how)}


def inferring(folder):
    """Goes on behind what the first process finds in its file."""
    lines, asked = [{"inputs": str(i)} for i in range(7)], []

    def answer(texts, first):
        asked.extend(texts)
        return (_Answer(number, f"{text} of {first}", 0.0, {}) for number, text in enumerate(texts))

    output = epath.Path(folder) / "answers.jsonl"
    if processes.is_first():
        output.write_text("".join(json.dumps({**line, "prediction": "before"}) + "\n" for line in lines[:3]))
    _answer_lines(lines, output, answer, 3, False)
    return asked


def searching(folder, mesh):
    """Each process has a tokenizer of its own, and an index at most; the vectors are everybody's."""
    tokenizer = tiny_tokenizer.write(own(folder))
    tower = Tower(DualEncoder(lm_on(mesh, num_decoder_layers=0), width=8), tokenizer, length=8, batch_size=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "_CHUNK", 16)
        found = Dense(Listed(TEXTS), tower, folder / "vectors", mesh=mesh).search(QUESTIONS, 5)
    scores = tower.encode(QUESTIONS) @ tower.encode(TEXTS).T
    return found, scores, BM25(Listed(TEXTS), own(folder) / "bm25", stemming=None).search(QUESTIONS, 5)


def loading(mesh):
    """How much is read of the LM, as a share of its bytes; once for its fingerprint, once to its places."""
    read, open_checkpoint = collections.Counter(), load.open_checkpoint

    def counted(stored):
        def counting(part):
            found = stored.read(part)
            read["bytes"] += found.nbytes
            return found

        read["whole"] += int(np.prod(stored.shape)) * stored.dtype.itemsize
        return dataclasses.replace(stored, read=counting)

    def opened(*args, **settings):
        checkpoint = open_checkpoint(*args, **settings)
        arrays = {name: counted(stored) for name, stored in checkpoint.arrays.items()}
        return dataclasses.replace(checkpoint, arrays=arrays)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "open_checkpoint", opened)
        lm = lm_on(mesh)
    return read["bytes"] / read["whole"], lm.fingerprint, record.digest(lm)


def some(folder):
    mesh = partitioning.make_mesh(-1, 2)
    own(folder).mkdir()
    whole, split = (loading(partitioning.make_mesh(-1, model)) for model in (1, jax.device_count()))
    agreed = agreeing() if processes.are_several() else None
    return {"agreed": agreed, "whole": whole, "split": split, "chosen": choosing(own(folder), lm_on(mesh))}


def everything(folder):
    mesh, found = partitioning.make_mesh(-1, 2), some(folder)
    lm = lm_on(mesh)
    found |= {"written": writing(own(folder), lm, mesh), "sampled": sampling(lm), "asked": inferring(own(folder))}
    return found | {"searched": searching(folder, mesh)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return folder / "of-0", everything(folder)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes") / "two"
    return folder, run("tests.test_processes:everything", 2, folder)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes") / "four"
    return folder, run("tests.test_processes:some", 4, folder)


def same_result(found, wanted):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert other == (other if isinstance(other, str) else pytest.approx(one, rel=1e-4))


def same_lines(one, other):
    lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in (one, other)]
    for pair in zip(*lines, strict=True):
        for line in pair:
            line.pop("seconds", None)
        same_result(*pair)


@pytest.mark.parametrize("count", ["two", "four"])
def test_all_choose_what_one_chooses_and_one_writes_it(request, alone, count):
    (folder, found), (whole, wanted) = request.getfixturevalue(count), alone
    for one in found:
        same_result(one["chosen"], wanted["chosen"])
    assert wanted["chosen"][0]["metrics"]["accuracy"] not in (0, 1)
    same_lines(folder / "of-0/predictions/chosen-test.jsonl", whole / "predictions/chosen-test.jsonl")
    assert [len(list(folder.glob(f"of-{i}/predictions/*"))) for i in range(len(found))] == [1] + [0] * (len(found) - 1)


@pytest.mark.parametrize("count", ["two", "four"])
def test_weights_are_read_once_between_all(request, alone, count):
    found = request.getfixturevalue(count)[1]
    for how in ("whole", "split"):
        shares, marks, digests = zip(*(one[how] for one in found), strict=True)
        assert 2 <= sum(shares) < 2.1  # norms that nothing divides, more than once
        assert max(shares) < 2.4 / len(found)  # arrays, of which each has a fingerprint, are of many sizes
        assert {*marks} == {alone[1][how][1]}
        assert {*digests} == {alone[1][how][2]}


@pytest.mark.parametrize("count", ["two", "four"])
def test_what_one_finds_and_what_one_cannot_is_everybodys(request, count):
    found = request.getfixturevalue(count)[1]
    assert [one["agreed"] for one in found] == [[list(range(len(found))), 0, 7]] * len(found)


def test_all_write_what_one_writes(alone, two):
    (folder, found), (whole, wanted) = two, alone
    for one in found:
        same_result(one["written"], wanted["written"])
        assert one["sampled"] == wanted["sampled"]
        assert one["asked"] == ["3", "4", "5", "6"]
    for name in ("written-test.jsonl", "answers.jsonl"):
        same_lines(folder / "of-0" / name, whole / name)
    assert (folder / "of-0/job/ledger.json").exists()
    assert sorted(path.name for path in (folder / "of-1").iterdir()) == ["predictions", "tokenizer.json"]


def test_all_find_the_passages_that_one_finds(alone, two):
    (dense_alone, scores, words_alone), found = alone[1]["searched"], two[1]
    for passages, nats, words in (one["searched"] for one in found):
        np.testing.assert_allclose(nats, scores, atol=1e-5)
        np.testing.assert_allclose(passages.scores, -np.sort(-scores, axis=1)[:, :5], atol=1e-5)
        np.testing.assert_allclose(np.take_along_axis(scores, passages.passages, axis=1), passages.scores, atol=1e-5)
        np.testing.assert_allclose(passages.scores, dense_alone.scores, atol=1e-5)
        np.testing.assert_array_equal(words.passages, words_alone.passages)
