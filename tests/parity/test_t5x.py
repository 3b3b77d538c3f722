"""What T5X itself computed from checkpoints that T5X itself wrote (tests/fixtures/t5x/README.md)."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frozen_jax import freezing, load_lm
from frozen_jax.lm.decoding import Beam
from frozen_jax.methods.fine_tuning import FineTuning
from frozen_jax.training import loss_sum
from frozen_jax.types import Batch, Segments

FIXTURES = Path(__file__).parents[1] / "fixtures" / "t5x"
CASES = {
    "t5_1_1_tiny_legacy": ("gelu", "linear"),
    "t5_1_1_tiny_orbax": ("gelu", "linear"),
    "t5_1_0_tiny_legacy": ("relu",),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    folder = FIXTURES / request.param
    lm = load_lm(str(folder / "checkpoint_7"), mlp_activations=CASES[request.param])
    return lm, np.load(folder / "reference.npz"), np.load(folder / "train_reference.npz")


def test_logits_and_scores(case):
    lm, reference, _ = case
    inputs, targets = reference["encoder_input_tokens"], reference["decoder_target_tokens"]
    logits = np.asarray(lm.logits(inputs, targets))
    real = targets != 0
    assert np.abs(logits - reference["logits"])[real].max() < 1e-4 * np.abs(reference["logits"][real]).max()
    np.testing.assert_allclose(lm.score(inputs, targets), reference["sequence_scores"], rtol=1e-4)


def test_greedy_and_best_beam_token_for_token(case):
    lm, reference, _ = case
    inputs = reference["encoder_input_tokens"]
    greedy = lm.generate(inputs, max_length=8).tokens
    np.testing.assert_array_equal(greedy, reference["greedy_tokens"])
    np.testing.assert_allclose(lm.score(inputs, greedy), reference["greedy_log_probs"], rtol=1e-4)
    beams = lm.generate(inputs, max_length=8, strategy=Beam(4, length_penalty=0.6)).tokens
    np.testing.assert_array_equal(beams, reference["beam4_tokens"][:, -1])


def as_batch(inputs, targets, weights, segments=None):
    return jax.tree.map(jnp.asarray, Batch(inputs, inputs != 0, targets, weights.astype(np.float32), segments))


def test_packed_rows(case):
    lm, reference, _ = case
    named = {name.removeprefix("packed_"): reference[name] for name in reference.files if name.startswith("packed_")}
    segments = Segments(named["encoder_segment_ids"], named["decoder_segment_ids"])
    assert segments.inputs.max() == 2
    batch = as_batch(
        named["encoder_input_tokens"], named["decoder_target_tokens"], named["decoder_loss_weights"], segments
    )
    logits = lm.target_logits(batch.inputs, batch.inputs_mask, batch.targets, segments=batch.segments)
    real = named["decoder_segment_ids"] != 0
    assert np.abs(logits - named["logits"])[real].max() < 1e-4 * np.abs(named["logits"][real]).max()
    method = FineTuning(lm)
    graphdef, trained, frozen = freezing.split(method, freezing.trainable_mask(method, method.rules))
    loss, _ = loss_sum(trained, frozen, graphdef, batch, jax.random.key(0), 0.0)
    np.testing.assert_allclose(loss, named["loss"], rtol=1e-5)


def test_loss_and_gradients(case):
    lm, reference, train_reference = case
    method = FineTuning(lm)
    graphdef, trained, frozen = freezing.split(method, freezing.trainable_mask(method, method.rules))
    inputs, targets = reference["encoder_input_tokens"], reference["decoder_target_tokens"]
    batch = as_batch(inputs, targets, reference["decoder_loss_weights"])

    @functools.partial(jax.jit, static_argnums=1)
    def loss(trained, z_loss):
        return loss_sum(trained, frozen, graphdef, batch, jax.random.key(0), z_loss)[0]

    np.testing.assert_allclose(loss(trained, 0.0), reference["loss"], rtol=1e-5)
    np.testing.assert_allclose(loss(trained, 1e-4), reference["loss_z1e-4"], rtol=1e-5)
    names = [name for name in train_reference.files if name.startswith("gradient/")]
    gradients = jax.jit(jax.grad(loss), static_argnums=1)(trained, 0.0)
    for name in names:
        found = _canonical(gradients, name.removeprefix("gradient/"))
        wanted = train_reference[name]
        assert np.abs(found - wanted).max() < 1e-4 * max(1.0, np.abs(wanted).max()), name
    assert len(names) > 30


def _canonical(gradients, name):
    """The gradient of one T5X parameter among ours, whose layers are stacked."""
    parts = name.split("/")
    if parts[1].startswith("layers_"):
        layer = int(parts[1].removeprefix("layers_"))
        return np.asarray(gradients["/".join(["lm", parts[0], "layers", *parts[2:]])])[layer]
    return np.asarray(gradients[f"lm/{name}"])
