"""One mask, and what follows from it."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from frozen_jax import freezing, partitioning, training
from frozen_jax.errors import UserError
from frozen_jax.flops import count_flops
from frozen_jax.methods.base import Method
from tests import tiny


class Two(Method):
    """One LM under two names."""

    def __init__(self, lm):
        super().__init__(lm)
        self.encoder = lm


def test_mask_covers_every_parameter():
    method = tiny.prompt_tuning()
    mask = freezing.trainable_mask(method, method.rules)
    assert [path for path, trained in mask.items() if trained] == ["prompt"]
    assert len(mask) == len(jax.tree.leaves(nnx.state(method)))


def test_split_and_merge_give_the_same_model():
    method = tiny.prompt_tuning()
    parts = freezing.split(method, freezing.trainable_mask(method, method.rules))
    batch = tiny.batch(rows=2)
    merged = freezing.merge(*parts)
    np.testing.assert_array_equal(
        method.logits(batch.inputs, batch.targets), merged.logits(batch.inputs, batch.targets)
    )


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ((("lm/.*", "freeze"),), "no freezing rule covers the parameter 'prompt'"),
        ((("lm/.*", "freeze"), ("promt", "train"), (".*", "train")), "'promt' matches no parameter.*'prompt'"),
        (((".*", "train"), ("prompt", "train")), "decides nothing"),
        (((".*", "melt"),), "neither 'train' nor 'freeze'"),
    ],
)
def test_rules_that_do_not_fit_are_refused(rules, message):
    with pytest.raises(UserError, match=message):
        freezing.trainable_mask(tiny.prompt_tuning(), rules)


def test_rules_match_every_alias_of_a_shared_parameter():
    model = Two(tiny.t5())
    paths = freezing.parameter_paths(model)
    name = next(path for path in paths if path.endswith("encoder_norm/scale"))
    assert paths[name] == ["encoder/encoder/encoder_norm/scale", "lm/encoder/encoder_norm/scale"]
    for prefix in ("lm", "encoder"):  # NNX lists the parameter once; either name decides
        mask = freezing.trainable_mask(model, ((f"{prefix}/encoder/encoder_norm/scale", "train"), (".*", "freeze")))
        assert [path for path, trained in mask.items() if trained] == [name]


def _one_step_compiled(method, **sizes):
    mesh = tiny.mesh(1, 1)
    optimizer = optax.adafactor(0.1)
    state, split = training.start(method, optimizer, mesh)
    step = training.make_train_step(split, state, optimizer)
    batch = partitioning.put_batch(tiny.batch(**sizes), mesh)
    return step.lower(state, split.frozen, batch).compile()


def _flops_by_hand(config, rows, inputs, prompt, targets):
    """Forward products, and of the backward ones those that lead to activations: none that lead to weights."""
    width, joined = config.emb_dim, config.num_heads * config.head_dim
    source, target = rows * (prompt + inputs), rows * targets
    mlp = (len(config.mlp_activations) + 1) * width * config.mlp_dim
    weights = config.num_encoder_layers * source * (4 * width * joined + mlp)
    weights += config.num_decoder_layers * (target * (6 * width * joined + mlp) + source * 2 * width * joined)
    weights += target * width * config.vocab_size
    lengths = config.num_encoder_layers * (prompt + inputs) ** 2
    lengths += config.num_decoder_layers * (targets**2 + targets * (prompt + inputs))
    attention = rows * joined * 2 * lengths  # scores and weighted values
    return 2 * (2 * weights + 3 * attention)  # a product of two activations has two gradients


@pytest.mark.parametrize("layers", [2, 4])
def test_no_gradient_is_formed_for_a_frozen_weight(layers):
    sizes = {"rows": 8, "inputs": 24, "targets": 3}
    lm = tiny.t5(emb_dim=64, mlp_dim=128, num_encoder_layers=layers, num_decoder_layers=layers)
    compiled = _one_step_compiled(tiny.prompt_tuning(lm), **sizes)
    ratio = count_flops(compiled) / _flops_by_hand(lm.config, prompt=5, **sizes)
    assert 0.95 < ratio < 1.10


def test_the_count_notices_frozen_leaves_that_are_differentiated(monkeypatch):
    """The mutation: frozen leaves in the differentiated argument, their gradient's norm logged."""
    sizes = {"rows": 8, "inputs": 24, "targets": 3}
    lm = tiny.t5(emb_dim=64, mlp_dim=128)
    honest = training.loss_sum

    def leaky(trained, frozen, graphdef, batch, key, z_loss):
        def loss_of_frozen(frozen):
            return honest(trained, frozen, graphdef, batch, key, z_loss)[0]

        loss, metrics = honest(trained, frozen, graphdef, batch, key, z_loss)
        return loss, {**metrics, "frozen_norm": optax.tree.norm(jax.grad(loss_of_frozen)(frozen))}

    monkeypatch.setattr(training, "loss_sum", leaky)
    ratio = count_flops(_one_step_compiled(tiny.prompt_tuning(lm), **sizes)) / _flops_by_hand(
        lm.config, prompt=5, **sizes
    )
    assert ratio > 1.10


def test_twenty_steps_leave_frozen_leaves_bit_identical_and_without_optimizer_state():
    method = tiny.prompt_tuning()
    mesh = partitioning.make_mesh()
    before = {path: np.array(array) for path, array in freezing.split(method, _mask(method))[2].items()}
    optimizer = optax.adamw(0.1)
    state, split = training.start(method, optimizer, mesh)
    start = np.array(state.trained["prompt"])
    step = training.make_train_step(split, state, optimizer)
    for index in range(20):
        state, _ = step(state, split.frozen, partitioning.put_batch(tiny.batch(seed=index), mesh))
    after = freezing.split(split.model(state.trained), _mask(method))[2]
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[path], after[path]) for path in before)
    assert not np.array_equal(start, state.trained["prompt"])
    arrays = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sum(leaf.nbytes for leaf in arrays) == 2 * state.trained["prompt"].nbytes, "AdamW's two moments, no more"


def _mask(method):
    return freezing.trainable_mask(method, method.rules)


def test_a_digest_tells_names_types_shapes_and_bits_apart():
    zeros = np.zeros((2, 3), np.float32)
    negative = zeros.copy()
    negative[1, 2] = -0.0
    trees = [
        {"a": zeros},
        {"b": zeros},
        {"a": zeros.astype(np.int32)},
        {"a": zeros.T},
        {"a": negative},
        {"a": zeros, "b": zeros},
    ]
    assert len({freezing.digest(tree) for tree in trees}) == len(trees)
    assert freezing.digest({"b": zeros, "a": negative}) == freezing.digest({"a": jax.numpy.array(negative), "b": zeros})
