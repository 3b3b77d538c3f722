"""LoRA: it starts as the frozen LM, is a sum of maps, trains them alone, and leaves the LM as it is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from frozen_jax import checkpoints, freezing, gin_config, partitioning, training
from frozen_jax.errors import UserError
from frozen_jax.flops import count_flops
from frozen_jax.lm.decoding import Beam
from frozen_jax.methods.base import parameter_count
from frozen_jax.methods.fine_tuning import FineTuning
from frozen_jax.methods.lora import LoRA
from tests import tiny

FAMILIES = {"t5": tiny.t5, "llama": functools.partial(tiny.llama, qkv_bias=True)}
BATCH = tiny.batch(rows=4)
LENGTHS = BATCH.inputs_mask.sum(1)
each_family = pytest.mark.parametrize("family", FAMILIES)


def made(family, rank=3, **options):
    return LoRA(FAMILIES[family](), rank=rank, **options)


def moved(method):
    """As if trained: b is zeros no more."""
    rng = np.random.default_rng(0)
    graphdef, trained, frozen = freezing.split(method, freezing.trainable_mask(method, method.rules))
    trained = {path: array + 0.2 * rng.normal(size=array.shape).astype(np.float32) for path, array in trained.items()}
    return freezing.merge(graphdef, trained, frozen)


def logits(model, targets=BATCH.targets):
    return np.asarray(model.logits(BATCH.inputs, targets, inputs_lengths=LENGTHS))


def started(method, optimizer, mesh=(1, 1)):
    state, split = training.start(method, optimizer, tiny.mesh(*mesh))
    return state, split, training.make_train_step(split, state, optimizer)


@each_family
def test_it_starts_as_the_frozen_lm_and_leaves_that_as_it_is(family):
    lm = FAMILIES[family]()
    structure, alone = nnx.graphdef(lm), logits(lm)
    method = LoRA(lm)
    np.testing.assert_array_equal(logits(method), alone)
    assert np.abs(logits(moved(method)) - alone).max() > 0.1
    np.testing.assert_array_equal(logits(method.lm), alone)
    assert method.lm is lm
    assert nnx.graphdef(lm) == structure
    held = {array.unsafe_buffer_pointer() for array in jax.tree.leaves(nnx.state(lm))}
    assert held <= {array.unsafe_buffer_pointer() for array in jax.tree.leaves(nnx.state(method.wrapped))}


@each_family
def test_it_is_the_lm_with_other_kernels(family):
    method = moved(made(family, alpha=6.0))
    merged = FAMILIES[family]()
    for path, low_rank in nnx.iter_modules(method.low_rank):
        if hasattr(low_rank, "a"):
            dense = functools.reduce(getattr, path, merged)
            dense.kernel[...] = dense.kernel[...] + low_rank.a[...] @ low_rank.b[...] * (6.0 / 3)
    assert np.abs(logits(merged) - logits(method.lm)).max() > 0.1
    np.testing.assert_allclose(logits(method), logits(merged), rtol=1e-5, atol=1e-5)
    embeddings = method.embed(BATCH.inputs), jnp.asarray(BATCH.inputs_mask)
    np.testing.assert_allclose(method.encode(*embeddings), merged.encode(*embeddings), rtol=1e-5, atol=1e-5)


# On CPU layers stand apart while texts are written.
@pytest.mark.parametrize(("family", "backend"), [("t5", "cpu"), ("llama", "cpu"), ("llama", "tpu")])
def test_what_it_writes_is_what_its_logits_say(family, backend, monkeypatch):
    method = moved(made(family))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    written = method.generate(BATCH.inputs, max_length=6, inputs_lengths=LENGTHS)
    assert (written.tokens != method.lm.generate(BATCH.inputs, max_length=6, inputs_lengths=LENGTHS).tokens).any()
    real = np.arange(6)[None] < written.lengths[:, None]
    said = jax.nn.log_softmax(logits(method, written.tokens))
    np.testing.assert_array_equal(said.argmax(-1)[real], written.tokens[real])
    np.testing.assert_allclose(said.max(-1)[real], written.log_probs[real], atol=1e-4)


def test_beams_are_scored_as_they_were_found():
    method = moved(made("llama"))
    written = method.generate(BATCH.inputs, max_length=4, strategy=Beam(2), inputs_lengths=LENGTHS)
    score = method.score(BATCH.inputs, written.tokens, inputs_lengths=LENGTHS, targets_lengths=written.lengths)
    np.testing.assert_allclose(score, written.log_probs.sum(1), atol=1e-4)


def test_what_is_trained():
    """By hand: T5's layers have 4 + 3 and 8 + 3 maps of 16 x 32; Llama's keys and values are 16 x 16."""
    trained = {}
    for family in FAMILIES:
        method = made(family)
        trained[family] = freezing.split(method, freezing.trainable_mask(method, method.rules))[1]
        assert all(path.startswith("low_rank/") for path in trained[family])
    assert parameter_count(trained["t5"]) == 3 * 2 * (4 + 3 + 8 + 3) * (16 + 32)
    assert parameter_count(trained["llama"]) == 3 * 2 * (2 * (16 + 16) + (2 + 3) * (16 + 32))
    assert trained["llama"]["low_rank/decoder/layers/self_attention/key/a"].shape == (2, 16, 3)
    assert trained["llama"]["low_rank/decoder/layers/mlp/wo/b"].shape == (2, 3, 16)


def test_maps_are_chosen_by_path():
    method = made("t5", maps=("encoder/.*/query", ".*/encoder_decoder_attention/(key|value)"))
    chosen = {"/".join(path) for path, node in nnx.iter_modules(method.low_rank) if hasattr(node, "a")}
    cross = "decoder/layers/encoder_decoder_attention"
    assert chosen == {"encoder/layers/attention/query", f"{cross}/key", f"{cross}/value"}
    encoder = moved(made("t5", maps=("encoder/.*",)))  # nothing in the decoder, which is taken apart all the same
    assert encoder.generate(BATCH.inputs, max_length=2).tokens.shape == (4, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"maps": (".*", "decoder/self_atention/.*")},
            r"'decoder/self_atention/\.\*' matches no linear map in the layers",
        ),
        ({"maps": ("decoder/self_atention/.*",)}, r"of tiny-llama-0; try decoder/layers/self_attention/\w+ or decoder"),
        ({"maps": ("decoder/logits_dense",)}, "matches no linear map"),
        ({"maps": ()}, "'' matches no linear map"),
        ({"rank": 0}, "LoRA.rank is 0; from 1 to 16 fit beside decoder/layers/.*, 16 x "),
        ({"rank": 17}, "LoRA.rank is 17; from 1 to 16"),
        ({"alpha": 0.0}, "LoRA.alpha is 0.0; it must be more than 0"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(UserError, match=message) as caught:
        made("llama", **options)
    assert "\n" not in gin_config.one_line(caught.value)


@each_family
def test_it_overfits_a_batch_and_nothing_frozen_changes(family):
    state, split, step = started(made(family), optax.adamw(1e-2))
    before = {path: np.array(array) for path, array in split.frozen.items()}
    batch = partitioning.put_batch(tiny.batch(rows=8), split.mesh)
    right = []
    for _ in range(40):
        state, metrics = step(state, split.frozen, batch)
        right.append(float(metrics["accuracy"]))
    assert right[0] == 0
    assert right[-1] == batch.targets_weights.sum()  # a frozen head of random weights leaves some loss
    after = freezing.split(split.model(state.trained), {path: path not in before for path in before | state.trained})[2]
    assert all(before[path].tobytes() == np.asarray(after[path]).tobytes() for path in before)
    held = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert held == 2 * parameter_count(state.trained), "AdamW's two moments, no more"


def test_no_gradient_of_a_kernel_is_formed():
    """Fine-tuning has three products a kernel and token; this has two, and what rank 1 adds."""
    lm = tiny.llama(emb_dim=64, mlp_dim=128)
    flops = []
    for method in (LoRA(lm, rank=1), FineTuning(lm)):
        state, split, step = started(method, optax.sgd(0.1))
        batch = partitioning.put_batch(tiny.batch(rows=8, inputs=24), split.mesh)
        flops.append(count_flops(step.lower(state, split.frozen, batch).compile()))
    assert 0.6 < flops[0] / flops[1] < 0.75


@each_family
def test_a_mesh_gives_the_losses_of_one_device(family):
    losses = []
    for shape in [(1, 1), (2, 4)]:
        state, split, step = started(made(family), optax.sgd(0.1), shape)
        for index in range(3):
            state, metrics = step(state, split.frozen, partitioning.put_batch(tiny.batch(seed=index), split.mesh))
            losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses[:3], losses[3:], rtol=1e-4)
    specs = {path.rpartition("/layers/")[2]: tuple(array.sharding.spec) for path, array in state.trained.items()}
    assert specs["mlp/wi_0/a"] == specs["mlp/wo/b"] == (None, None, None)
    assert specs["mlp/wi_0/b"] == (None, None, "model")
    assert specs["mlp/wo/a"] == (None, "model", None)


def test_a_checkpoint_holds_the_low_rank_maps_alone(tmp_path):
    method = made("llama")
    state, _, _ = started(method, optax.sgd(0.1))
    state = state._replace(trained={path: array + 0.1 for path, array in state.trained.items()})
    description = checkpoints.describe(method, state.trained, seed=0)
    assert description["frozen_lms"] == {"lm": {"name": "tiny-llama-0", "fingerprint": "fingerprint of tiny-llama-0"}}
    with checkpoints.Checkpointer(tmp_path, description) as checkpointer:
        checkpointer.save(1, state)
    loaded = checkpoints.load_trained(tmp_path, method)
    assert loaded.keys() == state.trained.keys()
    assert all(np.array_equal(loaded[path], state.trained[path]) for path in loaded)
    with pytest.raises(UserError, match=r"holds a module with alpha = 16\.0; the method has 8\.0"):
        checkpoints.load_trained(tmp_path, made("llama", alpha=8.0))
    with pytest.raises(UserError, match="trained beside the LM 'tiny-llama-0'"):
        checkpoints.load_trained(tmp_path, LoRA(tiny.llama(1), rank=3))


def test_bfloat16_weights_and_float32_maps():
    graphdef, state = nnx.split(tiny.llama(dtype="bfloat16"))
    lm = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state))
    state, split, step = started(LoRA(lm), optax.sgd(0.1))
    state, metrics = step(state, split.frozen, partitioning.put_batch(tiny.batch(), split.mesh))
    assert np.isfinite(metrics["loss"])
    assert {array.dtype for array in state.trained.values()} == {jnp.dtype("float32")}
