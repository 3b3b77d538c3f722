"""Input-dependent prompt tuning at the paper's scale, counted from shapes: no array is ever made."""

from pathlib import Path

import gin
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from frozen_jax import freezing, gin_config
from frozen_jax.flops import count_flops
from frozen_jax.lm.t5 import T5, T5Config
from frozen_jax.methods.base import parameter_count
from frozen_jax.methods.input_dependent_prompt_tuning import InputDependentPromptTuning
from frozen_jax.methods.prompt_tuning import PromptTuning

FILE = "gin/models/t5_1_1_xxl_base_encoder.gin"
# Published shapes of T5 1.1 (Raffel et al. 2020 and the checkpoints' own configurations).
XXL = T5Config(32128, 4096, 64, 64, 10240, 24, 24, dtype="bfloat16")
BASE = T5Config(32128, 768, 12, 64, 2048, 12, 12, dtype="bfloat16")
INPUTS, TARGETS = 512, 32
SETTINGS = ("width", "heads", "head_dim", "mlp_dim", "blocks")


@pytest.fixture(scope="module")
def sizes():
    gin.clear_config()
    gin_config.parse([str(Path(__file__).parents[2] / FILE)], [])
    found = {name: gin.query_parameter(f"InputDependentPromptTuning.{name}") for name in SETTINGS}
    gin.clear_config()
    return found


def lm(config):
    return T5(config, rngs=nnx.Rngs(0))


def abstract(make):
    """The method without memory, its frozen weights as an accelerator would hold them."""
    method = nnx.eval_shape(make)
    mask = freezing.trainable_mask(method, method.rules)
    graphdef, state = nnx.split(method)
    shapes = {"/".join(map(str, path)): jax.tree.leaves(leaf)[0] for path, leaf in nnx.to_flat_state(state)}
    trained = {path: shape for path, shape in shapes.items() if mask[path]}
    frozen = {path: jax.ShapeDtypeStruct(shapes[path].shape, jnp.bfloat16) for path in shapes.keys() - trained}
    return graphdef, trained, frozen


@pytest.fixture(scope="module")
def with_generator(sizes):
    return abstract(lambda: InputDependentPromptTuning(lm(XXL), lm(BASE), **sizes))


@pytest.fixture(scope="module")
def with_prompt():
    return abstract(lambda: PromptTuning(lm(XXL), length=20))


def flops(method):
    """Of reading 512 tokens and writing 32: the loop over tokens has no fixed length, so a step is counted 32 times."""
    graphdef, trained, frozen = method

    def prefill(trained, frozen, tokens):
        model = freezing.merge(graphdef, trained, frozen)
        embeddings, mask = model.read(tokens, jnp.ones(tokens.shape, bool))
        hidden, cache = model.prefill(embeddings, mask, max_length=TARGETS)
        return model.unembed(hidden), cache

    def step(trained, frozen, token, cache):
        model = freezing.merge(graphdef, trained, frozen)
        hidden, cache = model.decode_step(model.embed(token), cache)
        return model.unembed(hidden), cache

    tokens = jax.ShapeDtypeStruct((1, INPUTS), jnp.int32)
    _, cache = jax.eval_shape(prefill, trained, frozen, tokens)
    token = jax.ShapeDtypeStruct((1,), jnp.int32)
    compiled = jax.jit(prefill).lower(trained, frozen, tokens), jax.jit(step).lower(trained, frozen, token, cache)
    first, each = (count_flops(lowered.compile()) for lowered in compiled)
    return first + (TARGETS - 1) * each


def test_about_25_million_parameters_are_trained_beside_11_billion(with_generator):
    _, trained, frozen = with_generator
    count = parameter_count(trained)
    of_lm = parameter_count({path: array for path, array in frozen.items() if path.startswith("lm/")})
    assert 11.0e9 < of_lm < 11.4e9
    assert 23e6 < count < 27e6
    assert count < 0.004 * of_lm


@pytest.mark.slow
def test_inference_costs_at_most_two_percent_more_than_a_static_prompt(with_generator, with_prompt):
    ours, static = flops(with_generator), flops(with_prompt)
    assert 1.0 < ours / static < 1.02
    assert static > 2 * 4.6e9 * INPUTS  # the 24 layers of the encoder are all counted
