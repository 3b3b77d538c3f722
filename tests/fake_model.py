"""A model whose answers can be worked out by hand, and tasks for it. It notes the shapes that it is asked for."""

from __future__ import annotations

import numpy as np

from frozen_jax.answering import EvalExample, EvalTask
from frozen_jax.lm.generation import Generated

PAD, EOS = 0, 1


class FakeModel:
    """A target is the likelier, the nearer its first token is to the first input token; writes the first two inputs."""

    pad_id = PAD

    def __init__(self):
        self.scored, self.written = [], []

    def score(self, inputs, targets, *, inputs_lengths=None, targets_lengths=None):
        self.scored.append((inputs.shape, targets.shape))
        assert (inputs_lengths > 0).all()
        texts = len(targets) // len(inputs)  # consecutive rows of targets share an input
        assert (targets_lengths.reshape(-1, texts)[:, 0] > 0).all()
        real = np.arange(targets.shape[1]) < targets_lengths[:, None]
        assert (targets[~real] == PAD).all()
        return -np.abs(np.repeat(inputs[:, 0], texts) - targets[:, 0]).astype(np.float32) - 0.25 * targets_lengths

    def generate_many(self, inputs, *, max_length, slots, ids=None):
        self.written.append((len(inputs), slots))
        for number in reversed(range(len(inputs))):  # in any order
            words = [*inputs[number][:2], *[PAD] * 2][:2]
            tokens = np.full((1, max_length), PAD, np.int32)
            tokens[0, :2], tokens[0, 2] = words, EOS
            yield number, Generated(tokens, np.array([3], np.int32), np.zeros((1, max_length), np.float32))


def text(tokens):
    """Token 12 is the text "12"."""
    tokens = list(tokens)
    return " ".join(map(str, tokens[: tokens.index(EOS)] if EOS in tokens else tokens))


def tokens(words):
    return np.array([*map(int, words.split()), EOS], np.int32)


def accuracy(targets, predictions):
    return {"accuracy": float(np.mean([t == p for t, p in zip(targets, predictions, strict=True)]))}


def mean_score(targets, scores):
    return {"mean_score": float(np.mean(scores))}


def example(index, inputs, targets, choices=()):
    return EvalExample(
        index=index,
        inputs=tokens(inputs),
        targets=tokens(targets),
        inputs_text=inputs,
        targets_text=targets,
        choices={choice: tokens(choice) for choice in choices},
        raw={"index": index},
    )


def task(examples, **changes):
    settings = {
        "name": "fake",
        "split": "test",
        "split_size": len(examples),
        "examples": examples,
        "targets_length": 5,
        "decode": text,
        "postprocess": lambda text, example, is_target: text,
        "predict_metrics": [accuracy],
        "score_metrics": [],
    }
    return EvalTask(**(settings | changes))


def choosing(size=11):
    """Inputs 10, 11, ...; half of the targets are the nearer choice. Lengths differ."""
    return task(
        [
            example(i, " ".join([str(10 + i)] * (1 + 7 * (i % 5))), str(10 + i % 2 * 40), choices=("10", "50"))
            for i in range(size)
        ]
    )
