"""Planning with CPU devices in the place of TPUs; tests/test_planning_tpu.py has the compiler's own figures."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from frozen_jax import partitioning, planning
from frozen_jax.chips import GENERATIONS
from frozen_jax.errors import UserError
from frozen_jax.lm.pretrained.load import load_lm
from frozen_jax.methods.fine_tuning import FineTuning
from frozen_jax.methods.prompt_tuning import PromptTuning

SIZES = {"vocab_size": 64, "emb_dim": 16, "num_heads": 4, "head_dim": 8, "mlp_dim": 32}
TINY = GENERATIONS["v5e"]._replace(hbm_bytes=1000)
SHAPES = planning.Shapes(8, {"inputs": 16, "targets": 8}, 8)


def abstract(make=PromptTuning, layers=2, model=2, **sizes):
    mesh = partitioning.make_mesh(model=model)
    depth = {"num_encoder_layers": layers, "num_decoder_layers": layers}
    lm = {"mesh": mesh, "dtype": "bfloat16", **SIZES, **depth, **sizes}
    method = nnx.eval_shape(lambda: make(load_lm("no such source", **lm)))
    return planning.abstract(method, optax.adafactor(1.0), mesh)


@pytest.fixture(autouse=True)
def stand_ins():
    with partitioning.standing_in(jax.devices()):
        yield


def plan(found, shapes=SHAPES, chip=GENERATIONS["v5e"]):
    return planning.plan("v5e:2x4", chip, found, shapes)


def test_every_step_is_compiled_and_nothing_is_allocated():
    before = {id(array) for array in jax.live_arrays()}
    found = plan(abstract())
    assert sum(array.nbytes for array in jax.live_arrays() if id(array) not in before) < 1000  # no parameter
    assert list(found.steps) == ["train", "score", "read", "write"]
    assert found.fits
    assert found.mesh == {"data": 4, "model": 2}
    assert 0.9 < found.steps["train"].flops * found.chips / found.model_flops < 1.5  # recomputed, and not split
    assert 0.9 < 2 * found.steps["score"].flops / found.steps["train"].flops < 1.1  # forward, and no weight's gradient


def test_twice_the_depth_is_twice_the_model_flops():
    two, four, six = (plan(abstract(layers=layers), chip=TINY).model_flops for layers in (2, 4, 6))
    assert four - two == six - four > 0  # all but the layers is the same
    tuned = plan(abstract(FineTuning), chip=TINY).model_flops
    assert 1.3 < tuned / two < 1.5  # 6 N a token in place of 4 N, of a prompt's 20 tokens more


def test_bytes_are_those_of_one_chip():
    tuned, prompt = abstract(FineTuning), abstract()
    whole = sum(leaf.size for leaf in tuned.state.trained.values())
    held = planning.bytes_on_a_chip(tuned.state.trained)
    assert whole * 4 / 2 <= held < whole * 4  # nearly all is split two ways
    frozen = planning.bytes_on_a_chip(prompt.split.frozen)
    assert frozen == held / 2  # bfloat16
    assert planning.bytes_on_a_chip(prompt.state.trained) == 20 * 16 * 4
    assert all(leaf.dtype == jnp.float32 for leaf in tuned.state.trained.values())


def test_nothing_is_compiled_where_weights_alone_do_not_fit():
    found = plan(abstract(), chip=TINY)
    assert not found.fits
    assert list(found.steps) == ["train"]
    assert found.peak_bytes == found.frozen_bytes + found.trained_bytes + found.optimizer_bytes
    assert found.share_of_peak == found.compute_share == 0


def test_what_the_compiler_would_have_needed_is_read_from_its_refusal():
    message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 24.50G of 15.75G hbm. Exceeded"

    def refuses():
        raise jax.errors.JaxRuntimeError(message)

    step = planning.measure(refuses, GENERATIONS["v5e"])
    assert not step.fits
    assert step.peak_bytes == 24.5 * 2**30


def test_other_refusals_come_through():
    def refuses():
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        planning.measure(refuses, GENERATIONS["v5e"])


def test_a_mesh_that_does_not_divide_the_heads_names_those_that_would():
    with pytest.raises(UserError, match=r"make_mesh.model = 8 does not divide the 4 heads .* take one of 1, 2, 4"):
        abstract(model=8)


def test_a_mesh_that_does_not_divide_the_batch_names_sizes_that_it_would():
    with pytest.raises(UserError, match=r"batch size 10 is not divisible by 4 .* use 8 or 12"):
        plan(abstract(), SHAPES._replace(rows=10))


def test_an_encoders_inputs_and_packed_rows_are_in_the_batch():
    mesh = partitioning.make_mesh()
    shapes = planning.Shapes(8, {"inputs": 16, "targets": 8, "encoder_inputs": 24}, 8, pack=True)
    batch = planning.train_batch(shapes, mesh)
    assert batch.encoder_inputs.tokens.shape == (8, 24)
    assert batch.segments.targets.shape == (8, 8)
