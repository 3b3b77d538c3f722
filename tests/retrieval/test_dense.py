"""Dense retrieval: vectors made once, whatever is killed between, and never taken for others."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from frozen_jax.errors import UserError
from frozen_jax.retrieval import dense as module
from frozen_jax.retrieval.base import Passage
from frozen_jax.retrieval.dense import Dense
from tests import tiny


class Killed(Exception):
    pass


class Numbers(list):
    """A corpus."""

    def __init__(self, count: int, sha256: str = "of the numbers") -> None:
        super().__init__(Passage(str(number), "", f"{number % 97} {number}") for number in range(count))
        self.sha256 = sha256


class Letters:
    """An encoder: a text becomes how often it has each digit."""

    def __init__(self, killed_at: str | None = None, name: str = "letters") -> None:
        self.asked: list[str] = []
        self.killed_at, self.made = killed_at, {"encoder": name}

    def encode(self, texts: list[str]) -> np.ndarray:
        if self.killed_at in texts:
            raise Killed
        self.asked += texts
        return np.array([[text.count(digit) for digit in "0123456789"] for text in texts], np.float32)


def dense(directory: pathlib.Path, corpus: Numbers, encoder: Letters | None = None, **settings: object) -> Dense:
    return Dense(corpus, encoder or Letters(), directory, mesh=tiny.mesh(4, 2), **settings)


def by_hand(corpus: Numbers, questions: list[str], count: int) -> np.ndarray:
    scores = Letters().encode(questions) @ Letters().encode([passage.whole for passage in corpus]).T
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def test_killed_while_encoding_it_goes_on_behind_the_last_whole_chunk(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 512)
    corpus, questions = Numbers(1300), ["777", "1 2 3"]
    with pytest.raises(Killed):
        dense(tmp_path, corpus, Letters(killed_at=corpus[1100].whole)).search(questions, 6)
    encoder = Letters()
    found = dense(tmp_path, corpus, encoder).search(questions, 6)
    assert encoder.asked == [*questions, *(corpus[number].whole for number in range(1024, 1300))]
    np.testing.assert_array_equal(found.passages, by_hand(corpus, questions, 6))
    again = Letters()
    assert dense(tmp_path, corpus, again).search([], 6).passages.shape == (0, 6)
    dense(tmp_path, corpus, again).search(questions, 6)
    assert again.asked == questions


@pytest.mark.parametrize("other", [{"corpus": Numbers(20, "of others")}, {"encoder": Letters(name="others")}])
def test_vectors_of_another_corpus_or_encoder_are_not_taken(tmp_path: pathlib.Path, other: dict) -> None:
    corpus, encoder = Numbers(20), Letters()
    dense(tmp_path, corpus).search(["1"], 2)
    changed = {"corpus": corpus, "encoder": encoder} | other
    dense(tmp_path, **changed).search(["1"], 2)
    assert len(changed["encoder"].asked) == 1 + len(changed["corpus"])
    folders = list(tmp_path.iterdir())
    assert len(folders) == 2
    assert dense(tmp_path, **changed).made != dense(tmp_path, corpus).made


def test_given_vectors_are_searched_as_they_are(tmp_path: pathlib.Path) -> None:
    corpus, encoder = Numbers(20), Letters()
    file = tmp_path / "vectors.npy"
    np.save(file, Letters().encode([passage.whole for passage in corpus]).astype(np.float16))
    retriever = dense(tmp_path / "made", corpus, encoder, vectors=str(file))
    np.testing.assert_array_equal(retriever.search(["11 3"], 4).passages, by_hand(corpus, ["11 3"], 4))
    assert encoder.asked == ["11 3"]
    made = retriever.made
    np.save(file, np.ones((20, 10), np.float16))
    assert dense(tmp_path / "made", corpus, vectors=str(file)).made != made
    np.save(file, np.ones((20, 9), np.float32))
    with pytest.raises(UserError, match="the encoder makes vectors of 10 numbers, those of the passages have 9"):
        dense(tmp_path / "made", corpus, vectors=str(file)).search(["1"], 1)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((19, 10)), r"holds float64 of shape \(19, 10\); .* of shape \(20, D\) are wanted"),
        (np.ones((20, 10), np.int32), "holds int32"),
        (np.ones(20), r"of shape \(20,\)"),
        (np.where(np.arange(200).reshape(20, 10) == 75, np.nan, 1), "the vector of passage 7 holds what is no number"),
        (np.array([{}] * 20), r"is no \.npy file of vectors"),
    ],
)
def test_given_vectors_that_do_not_fit_are_refused(tmp_path: pathlib.Path, array: np.ndarray, message: str) -> None:
    file = tmp_path / "vectors.npy"
    np.save(file, array)
    with pytest.raises(UserError, match=message):
        dense(tmp_path, Numbers(20), vectors=str(file))


def test_a_file_that_is_not_there_and_an_empty_corpus_are_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.npy is no \.npy file of vectors"):
        dense(tmp_path, Numbers(20), vectors=str(tmp_path / "nothing.npy"))
    with pytest.raises(UserError, match="the corpus has no passages"):
        dense(tmp_path, Numbers(0))
