"""Decoder-only LMs: Llama 2 and 3, SmolLM2, Qwen2 and Qwen2.5. They differ in `LlamaConfig` only.

    [x_1 ... x_S ; y_1 ... y_T-1]  ──layers, causal──▶  hidden of x_S predicts y_1, that of y_1 predicts y_2, ...

Inputs are padded on the right, and padding is attended to by nothing: targets follow the last real input, as they would
without padding. Several targets of one input (answer choices) stand one after the other in one row, each blind to the
others, so that the input is read once.

    token_embedder/embedding                                   [V, D]
    decoder/layers/pre_self_attention_layer_norm/scale         [L, D]
    decoder/layers/self_attention/query/kernel                 [L, D, H*K]
    decoder/layers/self_attention/{key,value}/kernel           [L, D, G*K]    G heads of keys, each for H/G of queries
    decoder/layers/self_attention/{query,key,value}/bias       [L, H*K or G*K]   (Qwen2 only)
    decoder/layers/self_attention/out/kernel                   [L, H*K, D]
    decoder/layers/pre_mlp_layer_norm/scale                    [L, D]
    decoder/layers/mlp/{wi_0,wi_1}/kernel                      [L, D, F]      gate and up
    decoder/layers/mlp/wo/kernel                               [L, F, D]
    decoder/decoder_norm/scale                                 [D]
    decoder/logits_dense/kernel                                [D, V]         (untied heads only)

Sources: Touvron et al. 2023 and Dubey et al. 2024 (Llama), Yang et al. 2024 (Qwen2), Su et al. 2021 (rotary positions),
Ainslie et al. 2023 (grouped queries); the names are T5X's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from frozen_jax.errors import UserError
from frozen_jax.lm.base import LanguageModel
from frozen_jax.lm.layers import (
    Dense,
    Dropout,
    GatedMLP,
    RMSNorm,
    TokenEmbedder,
    apply_dropout,
    len_layers,
    mask_bias,
    same_segment,
    scan_layers,
    stack_layers,
)
from frozen_jax.types import Array, Segments


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """The shape of a Llama.

    Attributes:
        vocab_size: V, rows of the embedding table.
        emb_dim: D.
        num_heads: H, of queries.
        num_kv_heads: G, of keys and values; a divisor of H.
        head_dim: K.
        mlp_dim: F.
        num_layers: L.
        context_length: positions the LM was trained on; more are refused.
        logits_via_embedding: the head is the embedding table.
        qkv_bias: queries, keys and values have biases (Qwen2).
        rope_theta: base of the rotary frequencies.
        rope_factors: divide them, one a frequency (K / 2); what Llama 3 and linear scaling come to. () is none.
        layer_norm_epsilon: of every norm.
        bos_id: begins a text; None for LMs that know no such token.
        bos_first: put the embedding of bos_id in front of all that is read, a prompt too: the first position is where
            LMs that were trained with it let attention rest. Our choice; False leaves it to the tokens.
        eos_id: ends a text.
        pad_id: fills rows up; masks come from lengths where it may be a real token.
        dtype: of activations; parameters keep their own.
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    num_layers: int
    context_length: int = 2048
    logits_via_embedding: bool = False
    qkv_bias: bool = False
    rope_theta: float = 10000.0
    rope_factors: tuple[float, ...] = ()
    layer_norm_epsilon: float = 1e-5
    bos_id: int | None = None
    bos_first: bool = False
    eos_id: int = 2
    pad_id: int = 0
    dtype: str = "float32"


class LlamaCache(NamedTuple):
    """What decoding keeps: keys and values of the inputs, computed once, and of what was decoded since.

    Decoded tokens of all rows are written to one slot after the other, which begin again behind the last one: at step n
    every row writes slot n mod T, wherever in its own text it is. So rows that began at different steps share a write,
    and a row's own slots are the `lengths` latest ones.

    Attributes:
        input_keys: [L, B, G, S, K], rotated; the rows of one input share them.
        input_values: [L, B, G, S, K].
        inputs_mask: [B, S].
        keys: [L, R, G, T, K], rotated.
        values: [L, R, G, T, K].
        lengths: [R] tokens that each row has decoded.
        step: how many steps all rows have taken.
    """

    input_keys: Float[Array, "L B G S K"]
    input_values: Float[Array, "L B G S K"]
    inputs_mask: Bool[Array, "B S"]
    keys: Float[Array, "L R G T K"]
    values: Float[Array, "L R G T K"]
    lengths: Int[Array, " R"]
    step: Int[Array, ""]

    def select_rows(self, rows: Int[Array, " R"]) -> LlamaCache:
        """Returns the cache whose row i is row rows[i] of this one; rows stay with their input."""
        return self._replace(keys=self.keys[:, rows], values=self.values[:, rows], lengths=self.lengths[rows])


class SelfAttention(nnx.Module):
    """Causal self-attention with rotary positions, in which several heads of queries share one of keys and values."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs) -> None:
        """Makes the maps query: D → H*K, key and value: D → G*K, and out: H*K → D."""
        self.head_dim = config.head_dim
        joined, joined_kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.query = Dense(config.emb_dim, joined, rngs=rngs, use_bias=config.qkv_bias)
        self.key = Dense(config.emb_dim, joined_kv, rngs=rngs, use_bias=config.qkv_bias)
        self.value = Dense(config.emb_dim, joined_kv, rngs=rngs, use_bias=config.qkv_bias)
        self.out = Dense(joined, config.emb_dim, rngs=rngs)

    def queries_keys_values(
        self, x: Float[Array, "B Q D"], rotation: Float[Array, "2 B 1 Q halfK"]
    ) -> tuple[Float[Array, "B H Q K"], Float[Array, "B G Q K"], Float[Array, "B G Q K"]]:
        """Returns what `attend` reads; queries and keys are rotated."""
        queries, keys, values = (
            dense(x).reshape(*x.shape[:2], -1, self.head_dim).swapaxes(1, 2)
            for dense in (self.query, self.key, self.value)
        )
        return _rotated(queries, rotation), _rotated(keys, rotation), values

    def attend(
        self,
        queries: Float[Array, "R H Q K"],
        keys: Sequence[Float[Array, "_B G _S K"]],
        values: Sequence[Float[Array, "_B G _S K"]],
        bias: Float[Array, "#R #Q S"],
    ) -> Float[Array, "R Q D"]:
        """Attends to one or several parts, each with a batch of its own: one of its rows serves R / batch of queries.

        Args:
            queries: rotated.
            keys: of each part, rotated.
            values: of each part.
            bias: added to the scores of all parts, which stand side by side.
        """
        rows, _, length, width = queries.shape
        # Queries that share keys stand side by side in one product, so that the keys are read once.
        queries = queries.reshape(rows, keys[0].shape[1], -1, width) * width**-0.5
        scores = [
            _apart(
                jnp.einsum("bgqk,bgsk->bgqs", _side_by_side(queries, len(part)), part).astype(jnp.float32), rows, length
            )
            for part in keys
        ]
        weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1) + bias[:, None, None], axis=-1)
        weights = weights.astype(queries.dtype).reshape(*queries.shape[:3], -1)
        ends = np.cumsum([part.shape[2] for part in keys])[:-1]
        context = sum(
            _apart(jnp.einsum("bgqs,bgsk->bgqk", _side_by_side(weight, len(part)), part), rows, length)
            for weight, part in zip(jnp.split(weights, ends, axis=-1), values, strict=True)
        )
        context = jnp.moveaxis(context, 3, 1)  # [R, G, H/G, Q, K] to [R, Q, G, H/G, K]
        return self.out(context.reshape(rows, length, -1))


def _side_by_side(x: Float[Array, "R G X Y"], batch: int) -> Float[Array, "B G nX Y"]:
    """Puts the rows of one input side by side."""
    rows, groups, _, width = x.shape
    return (
        x
        if rows == batch
        else x.reshape(batch, rows // batch, groups, -1, width).swapaxes(1, 2).reshape(batch, groups, -1, width)
    )


def _apart(x: Float[Array, "B G nX Y"], rows: int, length: int) -> Float[Array, "R G h Q Y"]:
    """Undoes `_side_by_side`, and splits X into heads and positions."""
    batch, groups, _, width = x.shape
    if rows != batch:
        x = x.reshape(batch, groups, rows // batch, -1, width).swapaxes(1, 2)
    return x.reshape(rows, groups, -1, length, width)


class DecoderLayer(nnx.Module):
    """Self-attention and MLP, each behind a norm and beside a residual path."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs) -> None:
        """Makes one layer."""
        self.pre_self_attention_layer_norm = RMSNorm(config.emb_dim, epsilon=config.layer_norm_epsilon)
        self.self_attention = SelfAttention(config, rngs=rngs)
        self.pre_mlp_layer_norm = RMSNorm(config.emb_dim, epsilon=config.layer_norm_epsilon)
        self.mlp = GatedMLP(config.emb_dim, config.mlp_dim, ("silu", "linear"), rngs=rngs)

    def queries_keys_values(
        self, hidden: Float[Array, "B Q D"], rotation: Float[Array, "2 B 1 Q halfK"]
    ) -> tuple[Float[Array, "B H Q K"], Float[Array, "B G Q K"], Float[Array, "B G Q K"]]:
        """Returns what self-attention reads."""
        return self.self_attention.queries_keys_values(self.pre_self_attention_layer_norm(hidden), rotation)

    def __call__(
        self,
        hidden: Float[Array, "R Q D"],
        queries: Float[Array, "R H Q K"],
        keys: Sequence[Float[Array, "_B G _S K"]],
        values: Sequence[Float[Array, "_B G _S K"]],
        bias: Float[Array, "#R #Q S"],
        dropout: Dropout | None = None,
    ) -> Float[Array, "R Q D"]:
        """Runs the layer, once its queries, keys and values are there; see `SelfAttention.attend`."""
        hidden = hidden + apply_dropout(dropout, self.self_attention.attend(queries, keys, values, bias), 0)
        x = self.mlp(self.pre_mlp_layer_norm(hidden), dropout, 1)
        return hidden + apply_dropout(dropout, x, 2)


class Decoder(nnx.Module):
    """The causal stack, with and without a cache, and the head."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs) -> None:
        """Makes the stack and, unless the head is the embedding table, the head."""
        self.config = config
        self.layers = stack_layers(lambda rngs: DecoderLayer(config, rngs=rngs), config.num_layers, rngs)
        self.decoder_norm = RMSNorm(config.emb_dim, epsilon=config.layer_norm_epsilon)
        if not config.logits_via_embedding:
            self.logits_dense = Dense(config.emb_dim, config.vocab_size, rngs=rngs)

    def __call__(
        self,
        embeddings: Float[Array, "B Q D"],
        seen: Bool[Array, "B Q Q"],
        dropout: Dropout | None = None,
    ) -> Float[Array, "B Q D"]:
        """Runs the stack on all positions at once.

        Args:
            embeddings: of inputs and targets.
            seen: True where a token (second axis) sees another (third); how many others it sees is its position.
            dropout: for training the LM itself.
        """
        rotation, bias = self._rotation(_positions(seen)), mask_bias(seen)

        def body(layer: DecoderLayer, hidden: Any, dropout: Dropout | None) -> Any:
            queries, keys, values = layer.queries_keys_values(hidden, rotation)
            return layer(hidden, queries, [keys], [values], bias, dropout)

        keys = None if dropout is None else dropout.split(len_layers(self.layers))
        return self.decoder_norm(scan_layers(self.layers, body, apply_dropout(dropout, embeddings, 100), keys))

    def prefill(
        self, embeddings: Float[Array, "B S D"], mask: Bool[Array, "B S"], *, max_length: int, rows_per_input: int
    ) -> tuple[Float[Array, "B S D"], LlamaCache]:
        """Runs the stack on the inputs and keeps every layer's keys and values."""
        batch, length, _ = embeddings.shape
        seen = _causal(mask.astype(jnp.int32))
        rotation, bias = self._rotation(_positions(seen)), mask_bias(seen)
        kept = jnp.zeros(
            (self.config.num_layers, batch, self.config.num_kv_heads, length, self.config.head_dim), embeddings.dtype
        )

        def body(layer: DecoderLayer, carry: Any, index: Any) -> Any:
            hidden, all_keys, all_values = carry
            queries, keys, values = layer.queries_keys_values(hidden, rotation)
            return (
                layer(hidden, queries, [keys], [values], bias),
                all_keys.at[index].set(keys),
                all_values.at[index].set(values),
            )

        indices = jnp.arange(self.config.num_layers)
        hidden, keys, values = scan_layers(self.layers, body, (embeddings, kept, kept), indices)
        rows = batch * rows_per_input
        empty = jnp.zeros((kept.shape[0], rows, kept.shape[2], max_length, kept.shape[4]), kept.dtype)
        cache = LlamaCache(keys, values, mask, empty, empty, jnp.zeros(rows, jnp.int32), jnp.int32(0))
        return self.decoder_norm(hidden), cache

    def step(self, embeddings: Float[Array, "R D"], cache: LlamaCache) -> tuple[Float[Array, "R D"], LlamaCache]:
        """Runs the stack on one more position of every row."""
        rows, slots = len(cache.lengths), cache.keys.shape[3]
        slot, age = cache.step % slots, (cache.step - jnp.arange(slots)) % slots
        read = jnp.repeat(cache.inputs_mask, rows // len(cache.inputs_mask), axis=0)
        own = age[None] <= cache.lengths[:, None]
        bias = mask_bias(jnp.concatenate([read, own], axis=1))[:, None]
        rotation = self._rotation((jnp.sum(read, axis=1) + cache.lengths)[:, None])

        def body(layer: DecoderLayer, carry: Any, x: Any) -> Any:
            hidden, all_keys, all_values = carry
            index, input_keys, input_values = x
            queries, keys, values = layer.queries_keys_values(hidden, rotation)
            at = (index, 0, 0, slot, 0)
            all_keys = jax.lax.dynamic_update_slice(all_keys, keys[None], at)
            all_values = jax.lax.dynamic_update_slice(all_values, values[None], at)
            hidden = layer(hidden, queries, [input_keys, all_keys[index]], [input_values, all_values[index]], bias)
            return hidden, all_keys, all_values

        xs = (jnp.arange(self.config.num_layers), cache.input_keys, cache.input_values)
        hidden, keys, values = scan_layers(self.layers, body, (embeddings[:, None], cache.keys, cache.values), xs)
        cache = cache._replace(keys=keys, values=values, lengths=cache.lengths + 1, step=cache.step + 1)
        return self.decoder_norm(hidden)[:, 0], cache

    def _rotation(self, positions: Int[Array, "B Q"]) -> Float[Array, "2 B 1 Q halfK"]:
        """Cosines and sines of the angles by which queries and keys are rotated, in float32."""
        width = self.config.head_dim
        frequencies = self.config.rope_theta ** (-np.arange(0, width, 2, dtype=np.float64) / width)
        frequencies = frequencies / np.array(self.config.rope_factors or 1.0)
        angles = positions[:, None, :, None].astype(jnp.float32) * jnp.asarray(frequencies, jnp.float32)
        return jnp.stack([jnp.cos(angles), jnp.sin(angles)])


class Llama(LanguageModel):
    """A Llama behind the seam; `load_lm` fills one with real weights.

    Attributes:
        config: its shape.
        name: where it came from, for messages.
        fingerprint: hash of the source's parameters; "" for one that was not loaded.
    """

    def __init__(
        self, config: LlamaConfig, *, rngs: nnx.Rngs, name: str = "random Llama", fingerprint: str = ""
    ) -> None:
        """Makes a Llama with random weights."""
        self.config, self.name, self.fingerprint = config, name, fingerprint
        self.eos_id, self.pad_id = config.eos_id, config.pad_id
        self.token_embedder = TokenEmbedder(config.vocab_size, config.emb_dim, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def embed(self, tokens: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
        """Returns the embeddings of tokens, in the compute dtype."""
        return self.token_embedder(tokens, self.config.dtype)

    def encode(self, inputs: Float[Array, "B S D"], inputs_mask: Bool[Array, "B S"]) -> Float[Array, "B S D"]:
        """Runs the stack on the inputs alone, each seeing those before it."""
        embeddings, mask = self._begun(inputs, inputs_mask)
        hidden = self.decoder(embeddings, _causal(mask.astype(jnp.int32)))
        return hidden[:, hidden.shape[1] - inputs.shape[1] :]

    def hidden_states(
        self,
        inputs: Float[Array, "B S D"],
        inputs_mask: Bool[Array, "B S"],
        targets: Float[Array, "R T D"],
        dropout: Dropout | None = None,
        segments: Segments | None = None,
    ) -> Float[Array, "R T D"]:
        """Runs the stack on inputs and targets; see `LanguageModel.hidden_states`."""
        if segments is not None and self.config.bos_first:
            raise UserError(f"{self.name}: packed rows have no one beginning; set load_lm.bos_first = False, or unpack")
        inputs, inputs_mask = self._begun(inputs, inputs_mask)
        batch, length, width = inputs.shape
        rows, target_length, _ = targets.shape
        of_inputs, of_targets = segments or (inputs_mask.astype(jnp.int32), jnp.ones((rows, target_length), jnp.int32))
        # The last target predicts nothing.
        together = jnp.concatenate([inputs, targets[:, :-1].astype(inputs.dtype).reshape(batch, -1, width)], axis=1)
        of_row = jnp.concatenate([of_inputs, of_targets[:, :-1].reshape(batch, -1)], axis=1)
        choices = jnp.repeat(jnp.arange(1, rows // batch + 1), target_length - 1)
        choice = jnp.concatenate([jnp.zeros(length, jnp.int32), choices])
        blind = (choice[None, :] != 0) & (choice[None, :] != choice[:, None])
        hidden = self.decoder(together, _causal(of_row) & ~blind[None], dropout)
        before = _predecessors(of_inputs, of_targets).reshape(batch, -1, 1)
        return jnp.take_along_axis(hidden, before, axis=1).reshape(rows, target_length, width)

    def prefill(
        self,
        inputs: Float[Array, "B S D"],
        inputs_mask: Bool[Array, "B S"],
        *,
        max_length: int,
        rows_per_input: int = 1,
    ) -> tuple[Float[Array, "R D"], LlamaCache]:
        """Runs the stack on the inputs; see `LanguageModel.prefill`."""
        inputs, mask = self._begun(inputs, inputs_mask)
        hidden, cache = self.decoder.prefill(inputs, mask, max_length=max_length, rows_per_input=rows_per_input)
        last = jnp.max(jnp.where(mask, jnp.arange(mask.shape[1]), 0), axis=1)
        hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
        return jnp.repeat(hidden, rows_per_input, axis=0), cache

    def decode_step(self, embeddings: Float[Array, "R D"], cache: LlamaCache) -> tuple[Float[Array, "R D"], LlamaCache]:
        """Runs the stack on one more token a row; see `LanguageModel.decode_step`."""
        return self.decoder.step(embeddings, cache)

    def unembed(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Returns float32 logits from the head, or from the embedding table."""
        if self.config.logits_via_embedding:
            table = self.token_embedder.embedding[...].astype(hidden.dtype)
            return jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)
        kernel = self.decoder.logits_dense.kernel[...].astype(hidden.dtype)
        return jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)

    def _begun(
        self, inputs: Float[Array, "B S D"], mask: Bool[Array, "B S"]
    ) -> tuple[Float[Array, "B S1 D"], Bool[Array, "B S1"]]:
        """Puts the beginning-of-text token in front, where that is asked for."""
        if not self.config.bos_first:
            return inputs, mask
        begin = self.embed(jnp.full((inputs.shape[0], 1), self.config.bos_id, jnp.int32))
        return jnp.concatenate([begin, inputs.astype(begin.dtype)], axis=1), jnp.pad(
            mask, ((0, 0), (1, 0)), constant_values=True
        )


def _causal(segments: Int[Array, "B Q"]) -> Bool[Array, "B Q Q"]:
    """Which tokens each sees: those of its own segment up to itself. Padding is segment 0."""
    positions = jnp.arange(segments.shape[1])
    return (positions[:, None] >= positions[None, :])[None] & same_segment(segments, segments)


def _positions(seen: Bool[Array, "B Q Q"]) -> Int[Array, "B Q"]:
    """Where each token stands in its text: behind all that it sees."""
    return jnp.sum(seen, axis=2, dtype=jnp.int32) - 1


def _predecessors(inputs: Int[Array, "B S"], targets: Int[Array, "R T"]) -> Int[Array, "R T"]:
    """Where, among the inputs and then the targets but the last of each row, the token before each target stands.

    Args:
        inputs: the segment of each, 0 at padding.
        targets: the same; R / B consecutive rows for each input.
    """
    (rows, length), (batch, input_length) = targets.shape, inputs.shape
    own = same_segment(targets, jnp.repeat(inputs, rows // batch, axis=0))
    last_input = jnp.max(jnp.where(own, jnp.arange(input_length), 0), axis=2)
    place = input_length + (jnp.arange(rows) % (rows // batch))[:, None] * (length - 1) + jnp.arange(length) - 1
    follows = jnp.pad(targets[:, 1:] == targets[:, :-1], ((0, 0), (1, 0)))
    return jnp.where(follows, place, last_input)


def _rotated(x: Float[Array, "B H Q K"], rotation: Float[Array, "2 B 1 Q halfK"]) -> Float[Array, "B H Q K"]:
    """Rotates the first half of the width against the second, by rotary positions (Su et al. 2021)."""
    cosine, sine = rotation.astype(x.dtype)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
