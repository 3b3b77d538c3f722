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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from frozen_jax.errors import UserError
from frozen_jax.lm.caches import Cache, Layers, Read, Written, room
from frozen_jax.lm.layers import (
    Dense,
    Dropout,
    GatedMLP,
    RMSNorm,
    TokenEmbedder,
    apply_dropout,
    len_layers,
    mask_bias,
    number,
    same_segment,
    scan_layers,
    stack_layers,
)
from frozen_jax.lm.passes import Stacks, Stream, Streams, last_real
from frozen_jax.lm.rotary_attention import RotaryAttention, rotation
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
        stop_ids: others that do; Llama 3 has one that ends a text and one that ends a turn.
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
    stop_ids: tuple[int, ...] = ()
    pad_id: int = 0
    dtype: str = "float32"


class DecoderLayer(nnx.Module):
    """Self-attention and MLP, each behind a norm and beside a residual path."""

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs) -> None:
        """Makes one layer."""
        self.pre_self_attention_layer_norm = RMSNorm(config.emb_dim, epsilon=config.layer_norm_epsilon)
        self.self_attention = RotaryAttention(
            config.emb_dim,
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
            rngs=rngs,
            use_bias=config.qkv_bias,
        )
        self.pre_mlp_layer_norm = RMSNorm(config.emb_dim, epsilon=config.layer_norm_epsilon)
        self.mlp = GatedMLP(config.emb_dim, config.mlp_dim, ("silu", "linear"), rngs=rngs)

    def queries_keys_values(
        self, hidden: Float[Array, "B Q D"], rotation: Float[Array, "2 #B 1 Q halfK"]
    ) -> tuple[Float[Array, "B H Q K"], Float[Array, "B G K Q"], Float[Array, "B G Q K"]]:
        """Returns what self-attention reads."""
        return self.self_attention.queries_keys_values(self.pre_self_attention_layer_norm(hidden), rotation)

    def __call__(
        self,
        hidden: Float[Array, "R Q D"],
        queries: Float[Array, "R H Q K"],
        keys: Sequence[Float[Array, "_B G K _S"]],
        values: Sequence[Float[Array, "_B G _S K"]],
        bias: Float[Array, "#R #Q S"],
        dropout: Dropout | None = None,
    ) -> Float[Array, "R Q D"]:
        """Runs the layer, once its queries, keys and values are there; see `RotaryAttention.attend`."""
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
        seen: Bool[Array, "#B #Q Q"],
        positions: Int[Array, "#B Q"],
        dropout: Dropout | None = None,
    ) -> Float[Array, "B Q D"]:
        """Runs the stack on all positions at once.

        Args:
            embeddings: of inputs and targets.
            seen: True where a token (second axis) sees another (third).
            positions: of the tokens.
            dropout: for training the LM itself.
        """
        rotation, bias = self._rotation(positions), mask_bias(seen)

        def body(layer: DecoderLayer, hidden: Any, dropout: Dropout | None) -> Any:
            queries, keys, values = layer.queries_keys_values(hidden, rotation)
            return layer(hidden, queries, [keys], [values], bias, dropout)

        keys = None if dropout is None else dropout.split(len_layers(self.layers))
        return self.decoder_norm(scan_layers(self.layers, body, apply_dropout(dropout, embeddings, 100), keys))

    def read(
        self, embeddings: Float[Array, "B S D"], mask: Bool[Array, "B S"], prompt: Read | None = None
    ) -> tuple[Float[Array, "B S D"], Read]:
        """Runs the stack on inputs, behind a prompt that has been read, and keeps every layer's keys and values."""
        seen = _causal(mask.astype(jnp.int32))
        before = 0 if prompt is None else prompt.length
        rotation = self._rotation(before + _positions(seen))
        bias = mask_bias(jnp.pad(seen, ((0, 0), (0, 0), (before, 0)), constant_values=True))
        earlier = [] if prompt is None else [prompt]

        def body(layer: DecoderLayer, carry: Any, index: Any) -> Any:
            hidden, read = carry
            queries, keys, values = layer.queries_keys_values(hidden, rotation)
            hidden = layer(hidden, queries, *_attended(index, earlier, keys, values), bias)
            return hidden, read.put(index, keys, values)

        rows, length = mask.shape
        nothing = Read(*self._room(rows, length, embeddings.dtype), mask)
        hidden, read = scan_layers(self.layers, body, (embeddings, nothing), number(self.layers))
        return self.decoder_norm(hidden), read

    def read_pass(
        self,
        embeddings: Float[Array, "B S D"],
        mask: Bool[Array, "B S"],
        prompt: Read | None = None,
        *,
        max_length: int,
        rows_per_input: int,
    ) -> tuple[Float[Array, "B S D"], Cache]:
        """Reads inputs, and makes room for what rows will write."""
        hidden, read = self.read(embeddings, mask, prompt)
        return hidden, Cache(read, self._nothing_written(len(mask) * rows_per_input, max_length, hidden.dtype), prompt)

    def nothing_read(self, batch: int, *, max_length: int, rows_per_input: int, dtype: np.dtype[Any]) -> Cache:
        """Returns the cache of a stack that only writes."""
        read = Read(*self._room(batch, 1, dtype), jnp.zeros((batch, 1), bool))  # a place that nobody sees
        return Cache(read, self._nothing_written(batch * rows_per_input, max_length, dtype))

    def _nothing_written(self, rows: int, max_length: int, dtype: np.dtype[Any]) -> Written:
        return Written.nothing(*self._room(rows, max_length, dtype))

    def step(self, embeddings: Float[Array, "R D"], cache: Cache) -> tuple[Float[Array, "R D"], Cache]:
        """Runs the stack on one more position of every row."""
        written, rows = cache.written, len(embeddings)
        read = jnp.repeat(cache.read.mask, rows // len(cache.read.mask), axis=0)
        if cache.prompt is not None:
            read = jnp.pad(read, ((0, 0), (cache.prompt.length, 0)), constant_values=True)
        bias = mask_bias(jnp.concatenate([read, written.own], axis=1))[:, None]
        rotation = self._rotation((jnp.sum(read, axis=1) + written.lengths)[:, None])
        earlier = [part for part in (cache.prompt, cache.read) if part is not None]

        def body(layer: DecoderLayer, carry: Any, index: Any) -> Any:
            hidden, written = carry
            queries, keys, values = layer.queries_keys_values(hidden, rotation)
            written = written.put(index, keys, values)
            kept = _attended(index, earlier, written.keys[index], written.values[index])
            return layer(hidden, queries, *kept, bias), written

        hidden, written = scan_layers(self.layers, body, (embeddings[:, None], written), number(self.layers))
        return self.decoder_norm(hidden)[:, 0], cache._replace(written=written.stepped())

    def _room(self, rows: int, length: int, dtype: np.dtype[Any]) -> tuple[Layers, Layers]:
        return room(self.layers, rows, self.config.num_kv_heads, length, self.config.head_dim, dtype)

    def _rotation(self, positions: Int[Array, "B Q"]) -> Float[Array, "2 #B 1 Q halfK"]:
        angles = rotation(positions, self.config.head_dim, self.config.rope_theta, self.config.rope_factors)
        return jax.lax.optimization_barrier(angles)  # else every layer computes them again


class Llama(Stacks):
    """A Llama behind the seam; `load_lm` fills one with real weights."""

    def __init__(
        self, config: LlamaConfig, *, rngs: nnx.Rngs, name: str = "random Llama", fingerprint: str = ""
    ) -> None:
        """Makes a Llama with random weights."""
        self.config, self.name, self.fingerprint = config, name, fingerprint
        self.eos_id, self.pad_id, self.vocab_size = config.eos_id, config.pad_id, config.vocab_size
        self.reads_on = True
        self.stop_ids, self.first_token = config.stop_ids, config.bos_id if config.bos_first else None
        self.context_length = config.context_length - config.bos_first
        self.token_embedder = TokenEmbedder(config.vocab_size, config.emb_dim, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def embed(self, tokens: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
        """Returns the embeddings of tokens, in the compute dtype."""
        return self.token_embedder(tokens, self.config.dtype)

    def opened(
        self, inputs: Float[Array, "B S D"], inputs_mask: Bool[Array, "B S"]
    ) -> tuple[Float[Array, "B S1 D"], Bool[Array, "B S1"]]:
        """Puts the beginning-of-text token in front, where that is asked for; see `Stacks.opened`."""
        if not self.config.bos_first or self.config.bos_id is None:
            return inputs, inputs_mask
        begin = self.embed(jnp.full((inputs.shape[0], 1), self.config.bos_id, jnp.int32))
        mask = jnp.pad(inputs_mask, ((0, 0), (1, 0)), constant_values=True)
        return jnp.concatenate([begin, inputs.astype(begin.dtype)], axis=1), mask

    def encode(self, inputs: Float[Array, "B S D"], inputs_mask: Bool[Array, "B S"]) -> Float[Array, "B S D"]:
        """Runs the stack on the inputs alone, each seeing those before it."""
        embeddings, mask = self.opened(inputs, inputs_mask)
        seen = _causal(mask.astype(jnp.int32))
        hidden = self.decoder(embeddings, seen, _positions(seen))
        return hidden[:, hidden.shape[1] - inputs.shape[1] :]

    def begin(
        self,
        inputs: Float[Array, "B S D"],
        inputs_mask: Bool[Array, "B S"],
        targets: Float[Array, "R T D"],
        segments: Segments | None = None,
    ) -> Streams:
        """Puts targets behind inputs, in one row; see `Stacks.begin`."""
        if segments is not None and self.config.bos_first:
            raise UserError(f"{self.name}: packed rows have no one beginning; set load_lm.bos_first = False, or unpack")
        inputs, inputs_mask = self.opened(inputs, inputs_mask)
        batch, length, width = inputs.shape
        rows, target_length, _ = targets.shape
        of_inputs, of_targets = segments or (inputs_mask.astype(jnp.int32), jnp.ones((rows, target_length), jnp.int32))
        # The last target predicts nothing.
        together = jnp.concatenate([inputs, targets[:, :-1].astype(inputs.dtype).reshape(batch, -1, width)], axis=1)
        of_row = jnp.concatenate([of_inputs, of_targets[:, :-1].reshape(batch, -1)], axis=1)
        choices = jnp.repeat(jnp.arange(1, rows // batch + 1), target_length - 1)
        choice = jnp.concatenate([jnp.zeros(length, jnp.int32), choices])
        blind = (choice[None, :] != 0) & (choice[None, :] != choice[:, None])
        seen = _causal(of_row) & ~blind[None]
        return Streams(None, Stream(together, seen, _positions(seen)), _predecessors(of_inputs, of_targets))

    def run(self, streams: Streams, dropout: Dropout | None = None) -> Streams:
        """Runs the stack; see `Stacks.run`."""
        vectors, seen, positions = streams.decoder
        return streams.of(None, self.decoder(vectors, seen, positions, dropout))

    def end(self, streams: Streams) -> Float[Array, "R T D"]:
        """Takes the hidden state before each target; see `Stacks.end`."""
        hidden, before = streams.decoder.vectors, streams.others
        found = jnp.take_along_axis(hidden, before.reshape(len(hidden), -1, 1), axis=1)
        return found.reshape(*before.shape, hidden.shape[2])

    def prefill(
        self,
        inputs: Float[Array, "B S D"],
        inputs_mask: Bool[Array, "B S"],
        *,
        max_length: int,
        rows_per_input: int = 1,
        prompt: Read | None = None,
    ) -> tuple[Float[Array, "R D"], Cache]:
        """Runs the stack on the inputs; see `LanguageModel.prefill`."""
        vectors, mask = (inputs, inputs_mask) if prompt is not None else self.opened(inputs, inputs_mask)
        how: dict[str, Any] = {"max_length": max_length, "rows_per_input": rows_per_input}
        hidden, cache = self.decoder.read_pass(vectors, mask, prompt, **how)
        return jnp.repeat(last_real(hidden, mask), rows_per_input, axis=0), cache

    def read_pass(
        self, vectors: Float[Array, "B S D"], mask: Bool[Array, "B S"], *, max_length: int, rows_per_input: int
    ) -> tuple[Float[Array, "B S D"], Cache]:
        """Runs the stack on the inputs; see `Stacks.read_pass`."""
        return self.decoder.read_pass(vectors, mask, max_length=max_length, rows_per_input=rows_per_input)

    def read_prompt(self, prompt: Float[Array, "P D"]) -> Read:
        """Runs the stack on a prompt; see `LanguageModel.read_prompt`."""
        embeddings = prompt[None].astype(self.config.dtype)
        return self.decoder.read(*self.opened(embeddings, jnp.ones(embeddings.shape[:2], bool)))[1]

    def decode_step(self, embeddings: Float[Array, "R D"], cache: Cache) -> tuple[Float[Array, "R D"], Cache]:
        """Runs the stack on one more token a row; see `LanguageModel.decode_step`."""
        return self.decoder.step(embeddings, cache)

    def unembed(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Returns float32 logits from the head, or from the embedding table."""
        if self.config.logits_via_embedding:
            table = self.token_embedder.embedding[...].astype(hidden.dtype)
            if hidden.ndim == 2:  # one token a row: the table itself goes through the product, and is not rearranged
                return jax.lax.optimization_barrier(
                    jnp.einsum("vd,bd->vb", table, hidden, preferred_element_type=jnp.float32)
                ).T
            return jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)
        kernel = self.decoder.logits_dense.kernel[...].astype(hidden.dtype)
        return jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)


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
    last_input = jnp.max(jnp.where(own, jnp.arange(input_length)[None, None], 0), axis=2)
    choice = (jnp.arange(rows) % (rows // batch))[:, None]
    place = input_length + choice * (length - 1) + jnp.arange(length)[None] - 1
    follows = jnp.pad(targets[:, 1:] == targets[:, :-1], ((0, 0), (1, 0)))
    return jnp.where(follows, place, last_input)


def _attended(layer: Any, earlier: Sequence[Read], keys: Any, values: Any) -> tuple[list[Any], list[Any]]:
    """The keys and the values that one layer attends to: of what was read earlier, and these."""
    return [*(part.keys[layer] for part in earlier), keys], [*(part.values[layer] for part in earlier), values]
