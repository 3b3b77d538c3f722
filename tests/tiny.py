"""A tiny T5 and tiny batches for the tests of everything that stands around a frozen LM."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import optax
from flax import nnx

from frozen_jax.lm.llama import Llama, LlamaConfig
from frozen_jax.lm.t5 import T5, T5Config
from frozen_jax.methods.base import Method
from frozen_jax.methods.fine_tuning import FineTuning
from frozen_jax.methods.input_dependent_prompt_tuning import InputDependentPromptTuning
from frozen_jax.methods.neural_recursion import NeuralRecursion
from frozen_jax.methods.prompt_tuning import PromptTuning
from frozen_jax.optimizers import by_path, clipped
from frozen_jax.prompts import sampled_vocabulary
from frozen_jax.types import Batch

CONFIG = T5Config(
    vocab_size=96,
    emb_dim=16,
    num_heads=4,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=2,
    num_decoder_layers=2,
)


LLAMA_CONFIG = LlamaConfig(
    vocab_size=96, emb_dim=16, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=32, num_layers=2, eos_id=1
)


def llama(seed: int = 0, **changes: object) -> Llama:
    config = dataclasses.replace(LLAMA_CONFIG, **changes)
    return Llama(
        config, rngs=nnx.Rngs(seed), name=f"tiny-llama-{seed}", fingerprint=f"fingerprint of tiny-llama-{seed}"
    )


def t5(seed: int = 0, **changes: object) -> T5:
    config = dataclasses.replace(CONFIG, **changes)
    return T5(config, rngs=nnx.Rngs(seed), name=f"tiny-{seed}", fingerprint=f"fingerprint of tiny-{seed}")


def prompt_tuning(lm: T5 | None = None, length: int = 5, seed: int = 0) -> PromptTuning:
    initializer = functools.partial(sampled_vocabulary, most_common=90)
    return PromptTuning(lm or t5(), length=length, initializer=initializer, seed=seed)


def input_dependent_prompt_tuning(lm: T5 | None = None, **changes: object) -> InputDependentPromptTuning:
    sizes = {"length": 3, "encoder_prompt_length": 2, "width": 8, "heads": 2, "head_dim": 4, "mlp_dim": 16}
    plain = {"initial_scale": 1.0, "add_static": False}
    return InputDependentPromptTuning(lm or t5(), **{**sizes, **plain, **changes})


def neural_recursion(lm: T5 | Llama | None = None, **changes: object) -> NeuralRecursion:
    return NeuralRecursion(lm or t5(), **changes)


METHODS = {
    "neural_recursion": neural_recursion,
    "prompt_tuning": prompt_tuning,
    "input_dependent_prompt_tuning": input_dependent_prompt_tuning,
    "fine_tuning": lambda: FineTuning(t5()),
}


OPTIMIZERS = {  # as in gin/methods
    "neural_recursion": lambda: clipped(optax.adamw(1e-3)),
    "prompt_tuning": lambda: optax.adafactor(0.1),
    "input_dependent_prompt_tuning": lambda: clipped(
        by_path([("(encoder_)?prompt", optax.adafactor(0.1)), (".*", optax.adamw(1e-3))])
    ),
    "fine_tuning": lambda: optax.adamw(1e-3),
}


def method(name: str) -> Method:
    return METHODS[name]()


def mesh(data: int, model: int) -> jax.sharding.Mesh:
    """A mesh of the first devices, however many there are."""
    devices = np.array(jax.devices()[: data * model]).reshape(data, model)
    return jax.sharding.Mesh(devices, ("data", "model"))


def batch(rows: int = 16, inputs: int = 12, targets: int = 3, seed: int = 0) -> Batch:
    """Random rows of random lengths; what is to be predicted is the first input token, so that it can be learnt."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, inputs + 1, rows)
    mask = np.arange(inputs)[None] < lengths[:, None]
    tokens = np.where(mask, rng.integers(2, 90, (rows, inputs)), 0).astype(np.int32)
    answers = np.ones((rows, targets), np.int32)
    answers[:, 0] = 2 + tokens[:, 0] % 4
    weights = np.ones((rows, targets), np.float32)
    weights[:, 2:] = 0
    return Batch(tokens, mask, answers, weights)
