"""T5, encoder-decoder: T5 1.0, T5 1.1, LM-adapted T5, T0, Flan-T5, mT5, umT5 and UL2. They differ in `T5Config` only.

The tree of parameters carries T5X's names, with all layers of a stack under one `layers` and a leading axis L:

    token_embedder/embedding                                   [V, D]
    encoder/relpos_bias/rel_embedding                          [H, buckets]   (or a layer's own, under layers/)
    encoder/layers/pre_attention_layer_norm/scale              [L, D]
    encoder/layers/attention/{query,key,value}/kernel          [L, D, H*K]
    encoder/layers/attention/out/kernel                        [L, H*K, D]
    encoder/layers/pre_mlp_layer_norm/scale                    [L, D]
    encoder/layers/mlp/{wi | wi_0,wi_1}/kernel                 [L, D, F]
    encoder/layers/mlp/wo/kernel                               [L, F, D]
    encoder/encoder_norm/scale                                 [D]
    decoder/layers/{pre_self_attention_layer_norm, self_attention, pre_cross_attention_layer_norm,
                    encoder_decoder_attention, pre_mlp_layer_norm, mlp}/...
    decoder/decoder_norm/scale                                 [D]
    decoder/logits_dense/kernel                                [D, V]         (untied heads only)

Without decoder layers it is an encoder alone.
Sources: Raffel et al. 2020; the T5X network (names, initialisation, order of operations).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from frozen_jax.errors import UserError
from frozen_jax.lm.caches import Cache, Layers, Read, Written, room
from frozen_jax.lm.layers import (
    Attention,
    Dense,
    Dropout,
    GatedMLP,
    RelativePositionBias,
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
from frozen_jax.lm.passes import Stacks, Stream, Streams
from frozen_jax.types import Array, Segments


@dataclasses.dataclass(frozen=True)
class T5Config:
    """The shape of a T5.

    Attributes:
        vocab_size: V, rows of the embedding table (real checkpoints pad it beyond the tokenizer's).
        emb_dim: D.
        num_heads: H.
        head_dim: K; H * K need not be D.
        mlp_dim: F.
        num_encoder_layers: L of the encoder.
        num_decoder_layers: L of the decoder; 0 is an encoder alone.
        mlp_activations: ("relu",) for T5 1.0, ("gelu", "linear") for 1.1 and mT5, ("silu", "linear") for UL2.
        logits_via_embedding: the head is the embedding table, and hidden states are scaled by 1/sqrt(D) (T5 1.0).
        relative_position_buckets: columns of the position bias.
        relative_position_max_distance: distances from here on share a bucket.
        relative_position_bias_per_layer: every layer has its own bias (umT5, scanned `scalable_t5` checkpoints).
        layer_norm_epsilon: of every norm.
        decoder_start_id: what the decoder reads first.
        eos_id: ends a text.
        pad_id: fills rows up.
        dtype: of activations; parameters keep their own.
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    logits_via_embedding: bool = False
    relative_position_buckets: int = 32
    relative_position_max_distance: int = 128
    relative_position_bias_per_layer: bool = False
    layer_norm_epsilon: float = 1e-6
    decoder_start_id: int = 0
    eos_id: int = 1
    pad_id: int = 0
    dtype: str = "float32"


def _attention(config: T5Config, rngs: nnx.Rngs) -> Attention:
    return Attention(config.emb_dim, config.num_heads, config.head_dim, rngs=rngs)


def _norm(config: T5Config) -> RMSNorm:
    return RMSNorm(config.emb_dim, epsilon=config.layer_norm_epsilon)


def _mlp(config: T5Config, rngs: nnx.Rngs) -> GatedMLP:
    return GatedMLP(config.emb_dim, config.mlp_dim, config.mlp_activations, rngs=rngs)


def _relpos_bias(config: T5Config, *, bidirectional: bool, rngs: nnx.Rngs) -> RelativePositionBias:
    return RelativePositionBias(
        config.num_heads,
        config.relative_position_buckets,
        config.relative_position_max_distance,
        bidirectional=bidirectional,
        rngs=rngs,
    )


class EncoderLayer(nnx.Module):
    """Self-attention and MLP, each behind a norm and beside a residual path."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        """Makes one layer."""
        self.pre_attention_layer_norm = _norm(config)
        self.attention = _attention(config, rngs)
        self.pre_mlp_layer_norm = _norm(config)
        self.mlp = _mlp(config, rngs)
        if config.relative_position_bias_per_layer:
            self.relpos_bias = _relpos_bias(config, bidirectional=True, rngs=rngs)

    def __call__(
        self, hidden: Float[Array, "B S D"], bias: Float[Array, "#B #H S S"], dropout: Dropout | None
    ) -> Float[Array, "B S D"]:
        """Runs the layer; `bias` holds positions and mask."""
        x = self.pre_attention_layer_norm(hidden)
        x = self.attention.attend(x, *self.attention.keys_values(x), bias, dropout, 0)
        hidden = hidden + apply_dropout(dropout, x, 1)
        x = self.mlp(self.pre_mlp_layer_norm(hidden), dropout, 2)
        return hidden + apply_dropout(dropout, x, 3)


class DecoderLayer(nnx.Module):
    """Causal self-attention, cross-attention and MLP, each behind a norm and beside a residual path."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        """Makes one layer."""
        self.pre_self_attention_layer_norm = _norm(config)
        self.self_attention = _attention(config, rngs)
        self.pre_cross_attention_layer_norm = _norm(config)
        self.encoder_decoder_attention = _attention(config, rngs)
        self.pre_mlp_layer_norm = _norm(config)
        self.mlp = _mlp(config, rngs)
        if config.relative_position_bias_per_layer:
            self.relpos_bias = _relpos_bias(config, bidirectional=False, rngs=rngs)

    def after_self_attention(
        self,
        hidden: Float[Array, "R T D"],
        cross_keys: Float[Array, "B H K S"],
        cross_values: Float[Array, "B H S K"],
        cross_bias: Float[Array, "B 1 #T S"],
        dropout: Dropout | None = None,
    ) -> Float[Array, "R T D"]:
        """Runs cross-attention and MLP: the part that is the same with and without a cache.

        The rows of one input stand side by side as queries of one cross-attention, so that its keys are held once.
        """
        grouped = hidden.reshape(cross_keys.shape[0], -1, hidden.shape[-1])
        x = self.pre_cross_attention_layer_norm(grouped)
        x = self.encoder_decoder_attention.attend(x, cross_keys, cross_values, cross_bias, dropout, 2)
        grouped = grouped + apply_dropout(dropout, x, 3)
        x = self.mlp(self.pre_mlp_layer_norm(grouped), dropout, 4)
        return (grouped + apply_dropout(dropout, x, 5)).reshape(hidden.shape)

    def __call__(
        self,
        hidden: Float[Array, "R T D"],
        encoded: Float[Array, "B S D"],
        self_bias: Float[Array, "#R #H T T"],
        cross_bias: Float[Array, "B 1 #T S"],
        dropout: Dropout | None,
    ) -> Float[Array, "R T D"]:
        """Runs the layer on all positions at once."""
        x = self.pre_self_attention_layer_norm(hidden)
        x = self.self_attention.attend(x, *self.self_attention.keys_values(x), self_bias, dropout, 0)
        hidden = hidden + apply_dropout(dropout, x, 1)
        keys, values = self.encoder_decoder_attention.keys_values(encoded)
        return self.after_self_attention(hidden, keys, values, cross_bias, dropout)


class Encoder(nnx.Module):
    """The bidirectional stack: embeddings to hidden states."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        """Makes the stack."""
        if not config.relative_position_bias_per_layer:
            self.relpos_bias = _relpos_bias(config, bidirectional=True, rngs=rngs)
        self.layers = stack_layers(lambda rngs: EncoderLayer(config, rngs=rngs), config.num_encoder_layers, rngs)
        self.encoder_norm = _norm(config)

    def __call__(
        self,
        embeddings: Float[Array, "B S D"],
        seen: Bool[Array, "B #S S"],
        dropout: Dropout | None = None,
    ) -> Float[Array, "B S D"]:
        """Runs the stack; what is not seen, padding and other segments, is attended to by nothing."""
        positions = jnp.arange(embeddings.shape[1])
        padding = mask_bias(seen)[:, None]
        shared = None if not hasattr(self, "relpos_bias") else self.relpos_bias(positions, positions) + padding

        def body(layer: EncoderLayer, hidden: Any, dropout: Dropout | None) -> Any:
            bias = layer.relpos_bias(positions, positions) + padding if shared is None else shared
            return layer(hidden, bias, dropout)

        hidden = apply_dropout(dropout, embeddings, 100)
        keys = None if dropout is None else dropout.split(len_layers(self.layers))
        hidden = self.encoder_norm(scan_layers(self.layers, body, hidden, keys))
        return apply_dropout(dropout, hidden, 101)


class Decoder(nnx.Module):
    """The causal stack, its cached step, and the head."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        """Makes the stack and, unless the head is the embedding table, the head."""
        self.config = config
        if not config.relative_position_bias_per_layer:
            self.relpos_bias = _relpos_bias(config, bidirectional=False, rngs=rngs)
        self.layers = stack_layers(lambda rngs: DecoderLayer(config, rngs=rngs), config.num_decoder_layers, rngs)
        self.decoder_norm = _norm(config)
        if not config.logits_via_embedding:
            self.logits_dense = Dense(config.emb_dim, config.vocab_size, rngs=rngs)

    def __call__(
        self,
        embeddings: Float[Array, "R T D"],
        encoded: Float[Array, "B S D"],
        seen: Bool[Array, "#R T T"],
        read: Bool[Array, "B #T S"],
        dropout: Dropout | None = None,
    ) -> Float[Array, "R T D"]:
        """Runs the stack on all positions at once; True where one sees another (`seen`) or an input (`read`)."""
        positions = jnp.arange(embeddings.shape[1])
        causal, cross_bias = mask_bias(seen)[:, None], mask_bias(read)[:, None]
        shared = None if not hasattr(self, "relpos_bias") else self.relpos_bias(positions, positions) + causal

        def body(layer: DecoderLayer, hidden: Any, dropout: Dropout | None) -> Any:
            bias = layer.relpos_bias(positions, positions) + causal if shared is None else shared
            return layer(hidden, encoded, bias, cross_bias, dropout)

        hidden = apply_dropout(dropout, embeddings, 200)
        keys = None if dropout is None else dropout.split(len_layers(self.layers))
        hidden = self.decoder_norm(scan_layers(self.layers, body, hidden, keys))
        return apply_dropout(dropout, hidden, 201)

    def start(
        self, encoded: Float[Array, "B S D"], mask: Bool[Array, "B S"], *, max_length: int, rows_per_input: int
    ) -> Cache:
        """Computes every layer's cross-attention keys and values, once, and makes room for self-attention's."""

        def body(layer: DecoderLayer, read: Any, index: Any) -> Any:
            return read.put(index, *layer.encoder_decoder_attention.keys_values(encoded))

        batch, length = mask.shape
        nothing = Read(*self._room(batch, length, encoded.dtype), mask)
        read = scan_layers(self.layers, body, nothing, number(self.layers))
        room = self._room(batch * rows_per_input, max_length + 1, encoded.dtype)  # the start token takes a position
        return Cache(read, Written.nothing(*room))

    def step(self, embeddings: Float[Array, "R D"], cache: Cache) -> tuple[Float[Array, "R D"], Cache]:
        """Runs the stack on one more position of every row."""
        written, read = cache.written, cache.read
        here, positions, seen = jnp.zeros(1, jnp.int32), -written.age, mask_bias(written.own)[:, None, None]
        cross_bias = mask_bias(read.mask)[:, None, None, :]
        shared = None if not hasattr(self, "relpos_bias") else self.relpos_bias(here, positions) + seen

        def body(layer: DecoderLayer, carry: Any, index: Any) -> Any:
            hidden, written = carry
            bias = layer.relpos_bias(here, positions) + seen if shared is None else shared
            normed = layer.pre_self_attention_layer_norm(hidden)
            written = written.put(index, *layer.self_attention.keys_values(normed))
            kept = (written.keys[index], written.values[index])
            hidden = hidden + layer.self_attention.attend(normed, *kept, bias)
            return layer.after_self_attention(hidden, read.keys[index], read.values[index], cross_bias), written

        hidden, written = scan_layers(self.layers, body, (embeddings[:, None], written), number(self.layers))
        return self.decoder_norm(hidden)[:, 0], cache._replace(written=written.stepped())

    def _room(self, rows: int, length: int, dtype: np.dtype[Any]) -> tuple[Layers, Layers]:
        return room(self.layers, rows, self.config.num_heads, length, self.config.head_dim, dtype)


class T5(Stacks):
    """A T5 behind the seam; `load_lm` fills one with real weights."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs, name: str = "random T5", fingerprint: str = "") -> None:
        """Makes a T5 with random weights, initialised as T5X does."""
        self.config, self.name, self.fingerprint, self.start_id = config, name, fingerprint, config.decoder_start_id
        self.eos_id, self.pad_id, self.vocab_size = config.eos_id, config.pad_id, config.vocab_size
        self.token_embedder = TokenEmbedder(config.vocab_size, config.emb_dim, rngs=rngs)
        self.encoder = Encoder(config, rngs=rngs)
        if config.num_decoder_layers:
            self.decoder = Decoder(config, rngs=rngs)

    def embed(self, tokens: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
        """Returns the embeddings of tokens, in the compute dtype."""
        return self.token_embedder(tokens, self.config.dtype)

    @property
    def writer(self) -> Decoder:
        """The decoder; raises UserError if there is none."""
        if not self.config.num_decoder_layers:
            raise UserError(f"{self.name} was loaded as an encoder alone; to write or score, load it with its decoder")
        return self.decoder

    def shift_right(
        self, targets: Float[Array, "R T D"], segments: Int[Array, "R T"] | None = None
    ) -> Float[Array, "R T D"]:
        """Puts the start token's embedding before every example's targets and drops the last of each."""
        start = self.embed(jnp.full((targets.shape[0], 1), self.config.decoder_start_id, jnp.int32))
        shifted = jnp.concatenate([start, targets[:, :-1].astype(start.dtype)], axis=1)
        if segments is None:
            return shifted
        begins = segments != jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]
        return jnp.where(begins[..., None], start, shifted)

    def encode(self, inputs: Float[Array, "B S D"], inputs_mask: Bool[Array, "B S"]) -> Float[Array, "B S D"]:
        """Runs the encoder."""
        return self.encoder(inputs, inputs_mask[:, None])

    def begin(
        self,
        inputs: Float[Array, "B S D"],
        inputs_mask: Bool[Array, "B S"],
        targets: Float[Array, "R T D"],
        segments: Segments | None = None,
    ) -> Streams:
        """Gives the encoder the inputs, and the decoder the targets behind its start token; see `Stacks.begin`."""
        places, positions = jnp.arange(inputs.shape[1])[None], jnp.arange(targets.shape[1])[None]
        within = read = inputs_mask[:, None]
        causal = positions[:, :, None] >= positions[:, None, :]
        if segments is not None:
            within, read = (same_segment(one, segments.inputs) for one in (segments.inputs, segments.targets))
            causal = causal & same_segment(segments.targets, segments.targets)
        shifted = self.shift_right(targets, segments and segments.targets)
        return Streams(Stream(inputs, within, places), Stream(shifted, causal, positions), read)

    def run(self, streams: Streams, dropout: Dropout | None = None) -> Streams:
        """Runs the encoder, then the decoder, which attends to what that has made; see `Stacks.run`."""
        encoded = self.encoder(streams.encoder.vectors, streams.encoder.seen, dropout)
        return streams.of(encoded, self.decode(encoded, streams, dropout))

    def end(self, streams: Streams) -> Float[Array, "R T D"]:
        """Returns what the decoder has made; see `Stacks.end`."""
        return streams.decoder.vectors

    def decode(
        self, encoded: Float[Array, "B S D"], streams: Streams, dropout: Dropout | None = None
    ) -> Float[Array, "R T D"]:
        """Runs the decoder on what its stream holds, behind an encoder that may have read in pieces."""
        return self.writer(streams.decoder.vectors, encoded, streams.decoder.seen, streams.others, dropout)

    def prefill(
        self,
        inputs: Float[Array, "B S D"],
        inputs_mask: Bool[Array, "B S"],
        *,
        max_length: int,
        rows_per_input: int = 1,
        prompt: None = None,
    ) -> tuple[Float[Array, "R D"], Cache]:
        """Runs the encoder and the decoder's start token; see `LanguageModel.prefill`."""
        how: dict[str, Any] = {"max_length": max_length, "rows_per_input": rows_per_input}
        return self.start(self.read_pass(inputs, inputs_mask, **how)[1], len(inputs) * rows_per_input)

    def read_pass(
        self, vectors: Float[Array, "B S D"], mask: Bool[Array, "B S"], *, max_length: int, rows_per_input: int
    ) -> tuple[Float[Array, "B S D"], Cache]:
        """Runs the encoder; see `Stacks.read_pass`."""
        encoded = self.encode(vectors, mask)
        return encoded, self.writer.start(encoded, mask, max_length=max_length, rows_per_input=rows_per_input)

    def start(self, cache: Cache, rows: int) -> tuple[Float[Array, "R D"], Cache]:
        """Runs the decoder's start token."""
        return self.decode_step(self.embed(jnp.full((rows,), self.config.decoder_start_id, jnp.int32)), cache)

    def decode_step(self, embeddings: Float[Array, "R D"], cache: Cache) -> tuple[Float[Array, "R D"], Cache]:
        """Runs the decoder on one more token a row; see `LanguageModel.decode_step`."""
        return self.decoder.step(embeddings, cache)

    def unembed(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Returns float32 logits from the head, or from the scaled hidden states and the embedding table."""
        if self.config.logits_via_embedding:
            hidden, kernel = hidden * self.config.emb_dim**-0.5, self.token_embedder.embedding[...].T
        else:
            kernel = self.writer.logits_dense.kernel[...]
        return jnp.matmul(hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)
