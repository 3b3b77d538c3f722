"""Input-dependent prompt tuning: where prompts stand, what they depend on, what is trained and what is held once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from frozen_jax import freezing
from frozen_jax.errors import UserError
from frozen_jax.methods.base import parameter_count
from frozen_jax.training import loss_sum
from frozen_jax.types import EncoderInputs
from tests import tiny

made = tiny.input_dependent_prompt_tuning


@pytest.fixture
def inputs():
    batch = tiny.batch(rows=4)
    return jnp.asarray(batch.inputs), jnp.asarray(batch.inputs_mask)


def test_the_prompts_stand_before_the_inputs(inputs):
    method = made()
    embeddings, mask = method.read(*inputs)
    np.testing.assert_allclose(embeddings[:, :3], method.prompts(*inputs), atol=1e-6)
    np.testing.assert_array_equal(embeddings[:, 3:], method.lm.embed(inputs[0]))
    np.testing.assert_array_equal(mask[:, :3], np.ones((4, 3)))
    np.testing.assert_array_equal(mask[:, 3:], inputs[1])


def test_every_input_has_a_prompt_of_its_own(inputs):
    prompts = made().prompts(*inputs)
    assert all(float(jnp.abs(prompts[0] - other).max()) > 1e-3 for other in prompts[1:])


def test_padding_changes_nothing(inputs):
    method, (tokens, mask) = made(), inputs
    rubbish = jnp.where(mask, tokens, 7)
    np.testing.assert_array_equal(method.prompts(rubbish, mask), method.prompts(tokens, mask))
    longer = [jnp.pad(array, ((0, 0), (0, 5))) for array in inputs]
    np.testing.assert_allclose(method.prompts(*longer), method.prompts(tokens, mask), atol=1e-5)


def test_the_generator_reads_the_encoder_of_p_and_x(inputs):
    """Figure 2, step by step, with nothing of the method's own `read`."""
    method, (tokens, mask) = made(), inputs
    rows = jnp.broadcast_to(method.encoder_prompt[...][None], (4, 2, 16))
    both = jnp.concatenate([rows, method.lm.embed(tokens)], axis=1)
    both_mask = jnp.concatenate([jnp.ones((4, 2), bool), mask], axis=1)
    encoded = method.lm.encode(both, both_mask)
    np.testing.assert_allclose(method.prompts(tokens, mask), method.generator(encoded, both_mask), atol=1e-6)


def test_an_encoder_with_a_vocabulary_of_its_own(inputs):
    """Another width, another vocabulary, another length of the same texts."""
    encoder = tiny.t5(1, emb_dim=24, vocab_size=50)
    method = made(encoder=encoder)
    tokens = jnp.asarray(np.random.default_rng(0).integers(2, 50, (4, 9)), jnp.int32)
    other = EncoderInputs(tokens, jnp.ones((4, 9), bool))
    embeddings, mask = method.read(*inputs, other)
    assert embeddings.shape == (4, 3 + 12, 16)
    assert mask.shape == (4, 3 + 12)
    np.testing.assert_allclose(embeddings[:, :3], method.prompts(*other), atol=1e-6)
    np.testing.assert_array_equal(embeddings[:, 3:], method.lm.embed(inputs[0]))


def test_what_is_trained():
    method = made(encoder=tiny.t5(1), blocks=2, add_static=True)
    mask = freezing.trainable_mask(method, method.rules)
    trained = {path for path, is_trained in mask.items() if is_trained}
    assert {path.split("/")[0] for path in trained} == {"generator", "encoder_prompt", "prompt"}
    assert {path.split("/")[0] for path in mask.keys() - trained} == {"lm", "encoder"}


def test_one_source_is_held_once():
    lm = tiny.t5()
    size = parameter_count(freezing.split(made(lm), freezing.trainable_mask(made(lm), made(lm).rules))[2])
    assert size == sum(array.size for array in jax.tree.leaves(nnx.state(lm)))
    assert made(lm, encoder=lm).encoder is lm
    assert made(lm, encoder=tiny.t5()).encoder is lm  # read again from the same source
    assert made(lm, encoder=tiny.t5(1)).encoder is not lm
    assert made(lm, encoder=tiny.t5(), share_weights=False).encoder is not lm
    assert made(lm, encoder=tiny.t5(dtype="bfloat16")).encoder is not lm
    nameless = made(tiny.t5()).lm
    nameless.fingerprint = ""
    other = tiny.t5(1)
    other.fingerprint = ""
    assert made(nameless, encoder=other).encoder is other


def test_a_copy_of_the_encoder_can_be_trained():
    method = made(encoder=tiny.t5(), share_weights=False)
    rules = (("lm/.*", "freeze"), ("encoder/(decoder|token_embedder)/.*", "freeze"), (".*", "train"))
    trained = freezing.split(method, freezing.trainable_mask(method, rules))[1]
    assert "encoder/encoder/layers/mlp/wo/kernel" in trained


def test_the_first_prompts_look_like_embeddings(inputs):
    lm = tiny.t5()
    lm.token_embedder.embedding[...] = 12.5 * lm.token_embedder.embedding[...]  # as large as the titler's
    table = lm.token_embedder.embedding[...]
    norms = jnp.linalg.norm(made(lm, width=64).prompts(*inputs), axis=-1)
    assert float(norms.mean()) == pytest.approx(float(jnp.linalg.norm(table, axis=-1).mean()), rel=0.2)
    lm.token_embedder.embedding[-1] = 1e3 * table[-1]  # one row of a small vocabulary is not read 5,000 times
    assert float(jnp.linalg.norm(made(lm, width=64).prompts(*inputs), axis=-1).mean()) < 200 * float(norms.mean())
    halved = made(lm, width=64, initial_scale=0.5).prompts(*inputs)
    np.testing.assert_allclose(halved, 0.5 * made(lm, width=64).prompts(*inputs), rtol=1e-4, atol=1e-4)


def test_what_an_ablation_leaves_out(inputs):
    without = made(encoder_prompt_length=0, blocks=0)
    paths = freezing.parameter_paths(without)
    assert not any("encoder_prompt" in path or "generator/layers" in path for path in paths)
    assert without.prompts(*inputs).shape == (4, 3, 16)


def test_p_x_adds_to_a_static_prompt(inputs):
    method = made(add_static=True)
    static = method.prompt[...]
    method.prompt[...] = jnp.zeros_like(static)
    generated = method.prompts(*inputs)
    method.prompt[...] = static
    np.testing.assert_allclose(method.prompts(*inputs), generated + static[None], atol=1e-5)


def test_more_blocks_are_other_prompts(inputs):
    one, two = (made(blocks=count) for count in (1, 2))
    assert two.generator.layers.mlp.wo.kernel.shape == (2, 16, 8)
    assert float(jnp.abs(one.prompts(*inputs) - two.prompts(*inputs)).max()) > 1e-3


def test_another_seed_is_another_generator(inputs):
    np.testing.assert_array_equal(made(seed=1).prompts(*inputs), made(seed=1).prompts(*inputs))
    assert float(jnp.abs(made(seed=1).prompts(*inputs) - made(seed=2).prompts(*inputs)).max()) > 1e-3


def test_writing_and_scoring_read_the_same_prompts():
    """Greedy writing, step by step, is what the logits of all targets at once say."""
    method, batch = made(), tiny.batch(rows=4)
    written = method.generate(batch.inputs, max_length=4, inputs_lengths=batch.inputs_mask.sum(1)).tokens
    logits = np.asarray(method.logits(batch.inputs, written, inputs_lengths=batch.inputs_mask.sum(1)))
    np.testing.assert_array_equal(logits.argmax(-1)[:, 0], written[:, 0])
    going_on = written[:, 0] != method.eos_id
    np.testing.assert_array_equal(logits.argmax(-1)[going_on, 1], written[going_on, 1])


def test_nothing_is_computed_to_count_parameters():
    method = nnx.eval_shape(functools.partial(made, tiny.t5()))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(nnx.state(method.generator)))


@pytest.mark.parametrize("wrong", [{"length": 0}, {"blocks": -1}, {"encoder_prompt_length": -2}])
def test_sizes_that_are_none(wrong):
    with pytest.raises(UserError, match="only blocks and encoder_prompt_length may be 0; none negative"):
        made(**wrong)


def test_bfloat16_weights_and_float32_prompts():
    """As on accelerators: both passes, and the trained parameters stay in float32."""
    lm = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), nnx.state(tiny.t5(dtype="bfloat16")))
    half = nnx.merge(nnx.graphdef(tiny.t5(dtype="bfloat16")), lm)
    method, batch = made(half, add_static=True), tiny.batch(rows=4)
    graphdef, trained, frozen = freezing.split(method, freezing.trainable_mask(method, method.rules))
    value, gradients = jax.value_and_grad(loss_sum, has_aux=True)(
        trained, frozen, graphdef, batch, jax.random.key(0), 0.0
    )
    assert np.isfinite(value[0])
    assert {array.dtype for array in gradients.values()} == {jnp.dtype("float32")}
    assert all(float(jnp.abs(array).max()) > 0 for array in gradients.values())
