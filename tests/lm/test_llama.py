"""The decoder-only LM behind the seam: padding, choices, packed rows, where a text begins, and every method on it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from frozen_jax import training
from frozen_jax.errors import UserError
from frozen_jax.lm import rotary_attention
from frozen_jax.lm.layers import Dropout
from frozen_jax.methods.fine_tuning import FineTuning
from frozen_jax.partitioning import put_batch
from frozen_jax.types import Segments
from tests import tiny

VARIANTS = {
    "llama": {},
    "tied": {"logits_via_embedding": True},
    "qwen2": {"qkv_bias": True},
    "one head of keys each": {"num_kv_heads": 4},
    "one head of keys for all": {"num_kv_heads": 1},
    "scaled rope": {"rope_factors": (1.0, 2.0, 4.0, 8.0)},
    "bos": {"bos_first": True, "bos_id": 9},
}
BATCH = tiny.batch(rows=4, targets=6)
LENGTHS = BATCH.inputs_mask.sum(1)


def lm(variant):
    return tiny.llama(2, **VARIANTS[variant])


@pytest.mark.parametrize("variant", VARIANTS)
def test_cached_steps_equal_the_uncached_forward(variant):
    model = lm(variant)
    whole = model.logits(BATCH.inputs, BATCH.targets, inputs_lengths=LENGTHS)
    embeddings, mask = model.read(jnp.asarray(BATCH.inputs), jnp.asarray(BATCH.inputs_mask))
    hidden, cache = model.prefill(embeddings, mask, max_length=6)
    for position in range(6):
        np.testing.assert_allclose(model.unembed(hidden), whole[:, position], atol=2e-5)
        hidden, cache = model.decode_step(model.embed(jnp.asarray(BATCH.targets[:, position])), cache)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_row_does_not_depend_on_padding_or_on_its_batch(variant):
    model = lm(variant)
    together = model.logits(BATCH.inputs, BATCH.targets, inputs_lengths=LENGTHS)
    for row, length in enumerate(LENGTHS):
        inputs, targets = BATCH.inputs[row : row + 1, :length], BATCH.targets[row : row + 1]
        alone = model.logits(inputs, targets, inputs_lengths=np.array([length]))
        np.testing.assert_allclose(together[row], alone[0], atol=2e-5)


def test_inputs_and_targets_are_one_text():
    """Wherever it is parted, the same token has the same logits."""
    model, text = lm("llama"), np.random.default_rng(0).integers(0, 90, (1, 12)).astype(np.int32)
    early, late = (model.logits(text[:, :n], text[:, n:], inputs_lengths=np.array([n])) for n in (3, 8))
    np.testing.assert_allclose(early[:, 5:], late, atol=2e-5)


def test_long_texts_are_read_in_blocks_that_change_nothing(monkeypatch):
    """12 inputs and 6 targets, of which the last is not read, and inputs behind a prompt of 6 that was read before."""
    model = lm("qwen2")
    inputs, mask, targets = map(jnp.asarray, (BATCH.inputs, BATCH.inputs_mask, BATCH.targets))
    seen, context = [], rotary_attention.RotaryAttention._context

    def noted(self, queries, keys, values, bias):
        seen.append((queries.shape[2], bias.shape[2]))
        return context(self, queries, keys, values, bias)

    def found():
        def written(vectors):
            return jnp.sum(jnp.sin(model.hidden_states(vectors, mask, model.embed(targets))))

        prompt = model.read_prompt(model.embed(targets[0]))
        hidden, cache = model.prefill(model.embed(inputs), mask, max_length=6, prompt=prompt)
        step = model.decode_step(model.embed(targets[:, 0]), cache)[0]
        return jax.value_and_grad(written)(model.embed(inputs)), hidden, step

    monkeypatch.setattr(rotary_attention.RotaryAttention, "_context", noted)
    whole = found()
    assert set(seen) == {(17, 17), (6, 6), (12, 18), (1, 24)}
    seen.clear()
    monkeypatch.setattr(rotary_attention, "_BLOCK", 5)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=2e-5), found(), whole)
    text, behind_prompt = {(5, 5), (5, 10), (5, 15), (2, 17)}, {(5, 11), (5, 16), (2, 18)}
    assert set(seen) == text | {(1, 6)} | behind_prompt | {(1, 24)}


def test_token_zero_is_a_token():
    model, zeros = lm("llama"), np.zeros((2, 5), np.int32)
    inputs = zeros + np.array([7, 0, 0, 0, 0], np.int32)
    lengths = {"inputs_lengths": np.array([5, 2]), "targets_lengths": np.array([3, 5])}
    score = model.score(inputs, zeros, **lengths)
    log_probs = jax.nn.log_softmax(model.logits(inputs, zeros, inputs_lengths=lengths["inputs_lengths"]))
    np.testing.assert_allclose(score, [log_probs[0, :3, 0].sum(), log_probs[1, :, 0].sum()], rtol=1e-5)
    assert abs(float(log_probs[0, 0, 0] - log_probs[1, 0, 0])) > 1e-6, "one zero is not four"
    written = model.generate(inputs, max_length=2, inputs_lengths=lengths["inputs_lengths"])
    best = np.asarray(log_probs).argmax(-1)
    np.testing.assert_array_equal(written.tokens[:, 0], best[:, 0])


@pytest.mark.parametrize("variant", ["llama", "bos"])
def test_targets_that_share_an_input_score_as_they_do_alone(variant):
    model = lm(variant)
    choices = np.random.default_rng(0).integers(2, 90, (12, 4)).astype(np.int32)
    lengths = np.random.default_rng(1).integers(1, 5, 12)
    shared = model.score(BATCH.inputs, choices, inputs_lengths=LENGTHS, targets_lengths=lengths)
    inputs, inputs_lengths = np.repeat(BATCH.inputs, 3, axis=0), np.repeat(LENGTHS, 3)
    alone = model.score(inputs, choices, inputs_lengths=inputs_lengths, targets_lengths=lengths)
    np.testing.assert_allclose(shared, alone, rtol=1e-5)


def test_an_input_that_choices_share_is_read_once():
    """12 choices of one token each cost 4 rows of inputs, and no token more than one a choice: the stack's length."""
    seen = []
    model = lm("llama")
    decoder = type(model.decoder)
    call = decoder.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "__call__", lambda self, x, *more: (seen.append(x.shape), call(self, x, *more))[1])
        model.score(BATCH.inputs, np.full((12, 3), 7, np.int32), inputs_lengths=LENGTHS)
    assert seen == [(4, BATCH.inputs.shape[1] + 3 * 2, 16)]


def test_packed_rows_are_what_their_examples_are_alone():
    model, rng = lm("qwen2"), np.random.default_rng(3)
    examples = [(rng.integers(0, 90, n), rng.integers(0, 90, t)) for n, t in ((3, 2), (4, 3), (2, 4))]
    inputs, targets = np.zeros((1, 12), np.int32), np.zeros((1, 11), np.int32)
    of_inputs, of_targets = np.zeros((1, 12), np.int32), np.zeros((1, 11), np.int32)
    places, at, to = [], 0, 0
    for number, (x, y) in enumerate(examples, 1):
        inputs[0, at : at + len(x)], of_inputs[0, at : at + len(x)] = x, number
        targets[0, to : to + len(y)], of_targets[0, to : to + len(y)] = y, number
        places.append(slice(to, to + len(y)))
        at, to = at + len(x), to + len(y)
    packed = model.target_logits(
        jnp.asarray(inputs),
        jnp.asarray(of_inputs > 0),
        jnp.asarray(targets),
        segments=Segments(jnp.asarray(of_inputs), jnp.asarray(of_targets)),
    )
    for place, (x, y) in zip(places, examples, strict=True):
        alone = model.logits(x[None].astype(np.int32), y[None].astype(np.int32), inputs_lengths=np.array([len(x)]))
        np.testing.assert_allclose(packed[0, place], alone[0], atol=2e-5)


def test_bos_stands_before_the_prompt_or_where_the_tokens_have_it():
    """First is [bos; p; x]; a bos that comes among the tokens gives [p; bos; x]."""
    first, plain = tiny.prompt_tuning(lm("bos")), tiny.prompt_tuning(lm("llama"))
    targets, prompt = BATCH.targets, plain.prompt[...]
    with_bos = np.pad(BATCH.inputs, ((0, 0), (1, 0)), constant_values=9)
    asked = {"inputs_lengths": LENGTHS + 1}

    def by_hand(front):
        embeddings = jnp.concatenate([*front, plain.lm.embed(jnp.asarray(BATCH.inputs))], axis=1)
        mask = jnp.pad(jnp.asarray(BATCH.inputs_mask), ((0, 0), (6, 0)), constant_values=True)
        hidden = plain.lm.hidden_states(embeddings, mask, plain.lm.embed(jnp.asarray(targets)))
        return plain.lm.unembed(hidden)

    bos = plain.lm.embed(jnp.full((4, 1), 9, jnp.int32))
    prompts = jnp.broadcast_to(prompt[None], (4, *prompt.shape))
    np.testing.assert_allclose(
        first.logits(BATCH.inputs, targets, inputs_lengths=LENGTHS), by_hand([bos, prompts]), atol=2e-5
    )
    np.testing.assert_allclose(plain.logits(with_bos, targets, **asked), by_hand([prompts, bos]), atol=2e-5)
    assert not np.allclose(by_hand([bos, prompts]), by_hand([prompts, bos]), atol=1e-3)


def test_packed_rows_have_no_one_beginning():
    segments = Segments(*(jnp.ones((1, n), jnp.int32) for n in (3, 2)))
    tokens = jnp.ones((1, 3), jnp.int32)
    with pytest.raises(UserError, match=r"set load_lm\.bos_first = False"):
        lm("bos").target_logits(tokens, tokens > 0, tokens[:, :2], segments=segments)


def test_what_it_encodes_of_a_token_depends_on_what_stands_before_it():
    model = lm("bos")
    embeddings = model.embed(jnp.asarray(BATCH.inputs))
    encoded = model.encode(embeddings, jnp.asarray(BATCH.inputs_mask))
    assert encoded.shape == embeddings.shape
    changed = model.encode(embeddings.at[:, 1].add(1.0), jnp.asarray(BATCH.inputs_mask))
    np.testing.assert_allclose(encoded[:, 0], changed[:, 0], atol=1e-6)
    assert not np.allclose(encoded[:, 1], changed[:, 1], atol=1e-3)


METHODS = {
    "prompt tuning": (tiny.prompt_tuning, optax.adam(0.3)),
    "ID-PT": (lambda lm: tiny.input_dependent_prompt_tuning(lm, add_static=True), optax.adam(0.03)),
    "ID-PT with a T5 for an encoder": (
        lambda lm: tiny.input_dependent_prompt_tuning(lm, encoder=tiny.t5(4, emb_dim=24)),
        optax.adam(0.03),
    ),
    "fine-tuning": (FineTuning, optax.adam(0.003)),
}


@pytest.mark.loose_promotion
@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_around_it_and_leaves_what_is_frozen(name):
    make, optimizer = METHODS[name]
    method = make(lm("tied"))
    state, split = training.start(method, optimizer, tiny.mesh(2, 1))
    frozen = jax.tree.map(np.array, split.frozen)
    step = training.make_train_step(split, state, optimizer)
    batch = put_batch(tiny.batch(rows=16), split.mesh)
    losses = []
    for _ in range(40):
        state, metrics = step(state, split.frozen, batch)
        losses.append(float(metrics["loss"]) / float(metrics["weight"]))
    assert losses[-1] < 0.75 * losses[0]
    for before, after in zip(jax.tree.leaves(frozen), jax.tree.leaves(split.frozen), strict=True):
        np.testing.assert_array_equal(before, after)


def test_dropout_reaches_every_layer():
    model = tiny.llama(0)
    batch = jax.tree.map(jnp.asarray, BATCH)
    calls = [
        model.target_logits(batch.inputs, batch.inputs_mask, batch.targets, dropout)
        for dropout in (None, Dropout(jax.random.key(0), 0.5), Dropout(jax.random.key(1), 0.5))
    ]
    assert not np.allclose(calls[0], calls[1])
    assert not np.allclose(calls[1], calls[2])
