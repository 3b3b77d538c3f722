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
from frozen_jax.plans import Shapes

SIZES = {"vocab_size": 64, "emb_dim": 16, "num_heads": 4, "head_dim": 8, "mlp_dim": 32}
TINY = GENERATIONS["v5e"]._replace(hbm_bytes=1000)
SHAPES = Shapes(8, {"inputs": 16, "targets": 8}, 8)


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
    assert found.steps["write"].flops < found.steps["read"].flops / 4 < found.steps["score"].flops  # one token of 16


def test_twice_the_depth_is_twice_the_model_flops():
    two, four, six = (plan(abstract(layers=layers), chip=TINY).model_flops for layers in (2, 4, 6))
    assert four - two == six - four > 0  # all but the layers is the same


def test_model_flops_are_those_counted_by_hand():
    """Of a T5 of one layer a stack: attention H*K = 32 wide, MLP of three products, S = 16, T = 8, B = 8."""
    batch, source, target, width, joined, inner, vocabulary = 8, 16, 8, 16, 32, 32, 64
    maps = 4 * width * joined + 3 * width * inner
    encoder = source * (maps + 2 * source * joined)
    cross = width * joined * (2 * target + 2 * source) + 2 * target * source * joined
    decoder = target * (maps + 2 * target * joined + width * vocabulary) + cross
    found = plan(abstract(FineTuning, layers=1), chip=TINY).model_flops
    assert found == 3 * 2 * batch * (encoder + decoder)


def test_an_lm_on_a_mesh_that_is_not_here_is_made_of_shapes_or_not_at_all():
    with pytest.raises(AssertionError, match="arrays would be made"):
        load_lm("no such source", mesh=partitioning.make_mesh(), num_encoder_layers=1, num_decoder_layers=1, **SIZES)


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


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 24.50G of 15.75G hbm. Exceeded",
        "the total memory required for HLO temporaries (24.50G) exceeds available HBM (15.75G). HLO module: jit_step",
    ],
)
def test_what_the_compiler_would_have_needed_is_read_from_its_refusal(message):
    def refuses(options):
        raise jax.errors.JaxRuntimeError(message)

    step = planning.measure(refuses, GENERATIONS["v5e"])
    assert not step.fits
    assert step.peak_bytes == 24.5 * 2**30


def test_other_refusals_come_through():
    def refuses(options):
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
    shapes = Shapes(8, {"inputs": 16, "targets": 8, "encoder_inputs": 24}, 8, pack=True)
    batch = planning.train_batch(shapes, mesh)
    assert batch.encoder_inputs.tokens.shape == (8, 24)
    assert batch.segments.targets.shape == (8, 8)
