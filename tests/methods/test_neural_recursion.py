"""Neural recursion: passes of one LM with Connectors between them, on both families."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from frozen_jax import checkpoints, freezing, training
from frozen_jax.errors import UserError
from frozen_jax.lm.decoding import Beam, Sample
from frozen_jax.lm.layers import len_layers
from frozen_jax.methods.fusion_in_decoder import FusionInDecoder
from frozen_jax.methods.neural_recursion import NeuralRecursion
from frozen_jax.optimizers import clipped
from frozen_jax.types import Segments
from tests import tiny

FAMILIES = {"T5": tiny.t5, "Llama": tiny.llama}
VARIANTS = {
    "strict": {},
    "three passes": {"passes": 3},
    "a shared Connector": {"passes": 3, "share": True},
    "skip": {"skip": True},
    "one pass with layers on top": {"passes": 1, "on_top": True},
}
ROWS, LENGTHS = 3, np.array([7, 4, 5], np.int32)


@pytest.fixture(params=FAMILIES)
def lm(request):
    return FAMILIES[request.param]()


def opened(method):
    """The method with gates that let something through."""
    graphdef, state = nnx.split(method)
    flat = {path: jnp.full_like(leaf, 0.5) if "gate" in path else leaf for path, leaf in nnx.to_flat_state(state)}
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def tokens(rows=ROWS, length=7, seed=0):
    return np.random.default_rng(seed).integers(3, 90, (rows, length)).astype(np.int32)


def test_a_token_that_the_lm_puts_in_front_goes_through_all_passes():
    check_cached_decoding(NeuralRecursion(tiny.llama(bos_first=True, bos_id=2)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_cached_decoding_equals_the_uncached_forward(variant, lm):
    check_cached_decoding(opened(NeuralRecursion(lm, **VARIANTS[variant])))


def check_cached_decoding(method):
    inputs = tokens()
    written = method.generate(inputs, max_length=6, inputs_lengths=LENGTHS)
    logits = np.asarray(method.logits(inputs, written.tokens, inputs_lengths=LENGTHS))
    found = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), written.tokens[..., None], axis=-1)[..., 0]
    for row, length in enumerate(written.lengths):
        assert logits[row, :length].argmax(-1).tolist() == written.tokens[row, :length].tolist()
        np.testing.assert_allclose(written.log_probs[row, :length], found[row, :length], atol=1e-5)


def test_a_beam_takes_the_caches_of_all_passes_along():
    method, inputs = NeuralRecursion(tiny.llama()), tokens()
    found = method.generate(inputs, max_length=6, strategy=Beam(3))
    scores = method.score(inputs, found.tokens, targets_lengths=found.lengths)
    np.testing.assert_allclose(found.log_probs.sum(axis=1), scores, atol=1e-4)


def test_refilled_rows_and_samples_are_what_they_are_alone(lm):
    method, strategy = NeuralRecursion(lm), Sample(seed=3)
    inputs, lengths = tokens(rows=5), np.array([7, 2, 5, 3, 6])
    rows = [row[:length] for row, length in zip(inputs, lengths, strict=True)]
    alone = method.generate(inputs, max_length=5, strategy=strategy, inputs_lengths=lengths)
    for number, together in method.generate_many(rows, max_length=5, slots=2, strategy=strategy):
        assert together.tokens[0].tolist() == alone.tokens[number].tolist()


@pytest.mark.parametrize("variant", ["strict", "skip"])
def test_a_later_token_changes_no_earlier_logit(variant, lm):
    method = opened(NeuralRecursion(lm, **VARIANTS[variant]))
    inputs, targets = tokens(), tokens(length=6, seed=1)
    before = np.asarray(method.logits(inputs, targets, inputs_lengths=LENGTHS))
    for place in (0, 2, 4):
        others = targets.copy()
        others[:, place] = 3 + (others[:, place] + 1) % 80
        after = np.asarray(method.logits(inputs, others, inputs_lengths=LENGTHS))
        np.testing.assert_array_equal(after[:, : place + 1], before[:, : place + 1])
        assert np.abs(after[:, place + 1] - before[:, place + 1]).min(axis=0).max() > 1e-3


def test_padding_changes_nothing(lm):
    method = NeuralRecursion(lm)
    inputs, targets = tokens(length=5), tokens(length=4, seed=1)
    longer = np.concatenate([inputs, np.full((ROWS, 3), 9, np.int32)], axis=1)
    lengths = np.full(ROWS, 5, np.int32)
    np.testing.assert_allclose(
        method.logits(longer, targets, inputs_lengths=lengths),
        method.logits(inputs, targets, inputs_lengths=lengths),
        atol=1e-5,
    )


def test_choices_of_one_input_are_scored_as_alone(lm):
    method = NeuralRecursion(lm)
    inputs, choices = tokens(rows=2), tokens(rows=6, length=3, seed=1)
    alone = method.score(np.repeat(inputs, 3, axis=0), choices)
    np.testing.assert_allclose(method.score(inputs, choices), alone, atol=1e-5)


@pytest.mark.parametrize("family", ["T5", "Llama"])
def test_packed_rows_are_what_their_examples_are_alone(family):
    method = NeuralRecursion(FAMILIES[family]())
    assert method.packs
    inputs, targets = tokens(rows=2, length=4), tokens(rows=2, length=3, seed=1)
    segments = [np.repeat([[1, 2]], length, axis=1).astype(np.int32) for length in (4, 3)]
    alone = method.logits(inputs, targets)
    packed = method.target_logits(
        inputs.reshape(1, -1), np.ones((1, 8), bool), targets.reshape(1, -1), segments=Segments(*segments)
    )
    np.testing.assert_allclose(packed.reshape(alone.shape), alone, atol=1e-5)


def test_with_a_skip_it_starts_as_one_pass_to_the_last_bit(lm):
    inputs, targets = tokens(), tokens(length=4, seed=1)
    for variant in ({"skip": True}, {"skip": True, "passes": 1, "on_top": True}):
        method = NeuralRecursion(lm, **variant)
        np.testing.assert_array_equal(method.logits(inputs, targets), lm.logits(inputs, targets))


def test_no_path_leads_around_the_first_pass(lm):
    """Where the Connectors give the same whatever they read, the inputs make no difference."""
    method = NeuralRecursion(lm)
    graphdef, state = nnx.split(method)
    flat = {
        path: leaf * 0 if path[-2:] == ("decoder_norm", "scale") and path[0] != "lm" else leaf
        for path, leaf in nnx.to_flat_state(state)
    }
    deaf = nnx.merge(graphdef, nnx.from_flat_state(flat))
    logits = np.asarray(deaf.logits(tokens(), tokens(length=4, seed=1)))
    np.testing.assert_allclose(logits, np.broadcast_to(logits[:1, :1], logits.shape), atol=1e-4)


def test_the_lm_is_there_once_whatever_the_number_of_passes(lm):
    names = freezing.parameter_paths(NeuralRecursion(lm, passes=4))
    frozen = {name for name in names if name.startswith("lm/")}
    assert len(frozen) == len(freezing.parameter_paths(lm))
    kinds = {name.split("/")[0] for name in names} - {"lm"}
    assert kinds == ({"connectors"} if lm.reads_on else {"connectors", "encoder_connectors"})
    assert {name.split("/")[1] for name in names if name.startswith("connectors/")} == {"0", "1", "2"}


def test_a_connector_is_two_layers_of_the_lms_width():
    method = NeuralRecursion(tiny.llama())
    layers = method.connectors[0].decoder.layers
    assert len_layers(layers) == 2
    assert layers.mlp.wi_0.kernel.shape == (2, 16, 32)
    trained = freezing.split(method, freezing.trainable_mask(method, method.rules))[1]
    attention = 16 * 32 + 2 * 16 * 16 + 32 * 16
    assert sum(array.size for array in trained.values()) == 2 * (attention + 3 * 16 * 32 + 2 * 16) + 2 * 16


def test_what_the_second_pass_reads_is_as_large_as_embeddings():
    method = NeuralRecursion(tiny.llama())
    first = method.lm.begin(method.embed(tokens()), np.ones((ROWS, 7), bool), method.embed(tokens(length=4)))
    read = method.connectors[0](method.lm.run(first).decoder, first.decoder.vectors)
    embeddings = method.lm.token_embedder.embedding[...]
    assert float(jnp.sqrt(jnp.mean(read**2)) / jnp.sqrt(jnp.mean(embeddings**2))) == pytest.approx(1, rel=0.05)


def test_initializers():
    lm = tiny.llama()
    copied = NeuralRecursion(lm, initializer="last_layers", layers=1).connectors[0].decoder.layers
    np.testing.assert_array_equal(copied.mlp.wo.kernel[0], lm.decoder.layers.mlp.wo.kernel[1])
    method = NeuralRecursion(lm, initializer="identity")
    stream = lm.run(lm.begin(method.embed(tokens()), np.ones((ROWS, 7), bool), method.embed(tokens(length=4)))).decoder
    given, made = np.asarray(stream.vectors), np.asarray(method.connectors[0](stream, stream.vectors))
    np.testing.assert_allclose(made / given, np.broadcast_to((made / given)[..., :1], made.shape), rtol=1e-4)


def test_it_learns_a_batch_by_heart_and_leaves_the_lm_alone(lm):
    method = NeuralRecursion(lm)
    optimizer = clipped(tiny.optax.adamw(3e-3))
    state, split = training.start(method, optimizer, tiny.mesh(1, 1))
    before = freezing.digest(split.frozen)
    assert all(name.split("/")[0] in ("connectors", "encoder_connectors") for name in state.trained)
    step, batch = training.make_train_step(split, state, optimizer), tiny.batch()
    losses = []
    for _ in range(60):
        state, metrics = step(state, split.frozen, batch)
        losses.append(float(metrics["loss"] / metrics["weight"]))
    assert losses[-1] < 0.5 * losses[0]
    assert freezing.digest(split.frozen) == before


def test_a_prompt_may_stand_before_the_first_pass():
    lm = tiny.llama()
    prompt = tiny.prompt_tuning(lm, length=3)
    method = NeuralRecursion(prompt)
    assert method.lm is lm
    assert (method.prompt_length, method.packs) == (3, False)
    mask = freezing.trainable_mask(method, method.rules)
    assert {name for name, trained in mask.items() if trained and not name.startswith("connectors")} == {
        "before/prompt"
    }
    in_front = jnp.concatenate([jnp.broadcast_to(prompt.prompt[...], (ROWS, 3, 16)), lm.embed(tokens())], axis=1)
    targets = tokens(length=4, seed=1)
    wanted = method.unembed(method.hidden_states(in_front, np.ones((ROWS, 10), bool), lm.embed(targets)))
    np.testing.assert_allclose(method.logits(tokens(), targets), wanted, atol=1e-5)


def test_a_checkpoint_of_other_passes_is_refused(tmp_path):
    two, three = NeuralRecursion(tiny.llama()), NeuralRecursion(tiny.llama(), passes=3, share=True)
    optimizer = tiny.optax.sgd(0.1)
    state, _ = training.start(two, optimizer, tiny.mesh(1, 1))
    with checkpoints.Checkpointer(tmp_path, checkpoints.describe(two, state.trained, seed=0)) as checkpointer:
        checkpointer.save(1, state)
    assert checkpoints.load_trained(tmp_path, two).keys() == state.trained.keys()
    with pytest.raises(UserError, match="passes"):
        checkpoints.load_trained(tmp_path, three)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"passes": 0}, "0 passes and Connectors of 2 layers leave nothing to train"),
        ({"passes": 1}, "give 2 passes or more, or one with on_top = True"),
        ({"layers": 0}, "at least one layer"),
        ({"initializer": "zero"}, "NeuralRecursion.initializer is 'zero'; choose from random, identity, last_layers"),
        ({"initializer": "last_layers"}, "tiny-0 has no 2 last layers that a Connector could be a copy of"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        NeuralRecursion(tiny.t5(), **settings)


def test_a_method_that_changes_the_passes_cannot_stand_before_them():
    with pytest.raises(UserError, match=r"NeuralRecursion\.lm is a FusionInDecoder; give it an LM"):
        NeuralRecursion(FusionInDecoder(tiny.t5(), passages=1, passage_length=4))
