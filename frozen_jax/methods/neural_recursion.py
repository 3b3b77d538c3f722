"""Neural recursion (Levine et al. 2022, figure 5c): the LM's output goes through the same frozen LM again.

    x ──embed──▶ LM ──last hidden states──▶ Connector ──input embeddings──▶ the same LM ──▶ y

    connectors/0/input_norm/scale            [D]        trained; likewise connectors/1 before a third pass
    connectors/0/decoder/layers/...          [L, ...]   trained: a transformer of two layers, as wide as the LM
    connectors/0/decoder/decoder_norm/scale  [D]        trained; starts at the embeddings' root mean square
    connectors/0/gate                        [D]        trained, with `skip` alone; starts at 0
    encoder_connectors/0/...                            the same between two passes of an encoder
    top/...                                             the same behind the last pass, with `on_top` alone
    before/**                                           a method that stands before the first pass, where there is one
    lm/**                                    frozen, once in memory whatever the number of passes

The paper's: a Connector of two transformer layers from the output embedding of one pass to the input embedding of the
next; the whole an autoregressive transformer. Ours: the layers are Llama's (rotary positions, gated MLP), in the sizes
of the LM's own; a norm where they begin. On an encoder-decoder both stacks run twice, each with Connectors of its own,
causal ones for the decoder, and the decoder's pass i attends to the encoder's pass i, so that nothing trained precedes
a first pass. In the strict form, the default, no path leads around pass one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float, Int

from frozen_jax.errors import UserError
from frozen_jax.lm.base import LanguageModel
from frozen_jax.lm.caches import Cache
from frozen_jax.lm.layers import Dropout, RMSNorm, len_layers
from frozen_jax.lm.llama import Decoder, LlamaConfig
from frozen_jax.lm.passes import Stacks, Stream, Streams, last_real
from frozen_jax.methods.base import Method
from frozen_jax.types import Array, Batch, Segments

INITIALIZERS = ("random", "identity", "last_layers")
_COMMON_TOKENS = 5000  # vocabularies begin with what is frequent


class Connector(nnx.Module):
    """What turns the hidden states of one pass into what the next one reads."""

    def __init__(self, config: LlamaConfig, *, output_rms: Float[Array, ""], skip: bool, rngs: nnx.Rngs) -> None:
        """Makes the layers; their first outputs have the given root mean square, and count nothing with `skip`."""
        self.input_norm = RMSNorm(config.emb_dim, epsilon=config.layer_norm_epsilon)
        self.decoder = Decoder(config, rngs=rngs)
        self.decoder.decoder_norm.scale[...] = self.decoder.decoder_norm.scale[...] * output_rms
        if skip:
            self.gate = nnx.Param(jnp.zeros((config.emb_dim,)))

    def __call__(self, made: Stream, beside: Float[Array, "R Q D"]) -> Float[Array, "R Q D"]:
        """Returns what the next pass reads at each position; `beside` is what a skip goes around with."""
        return self._mixed(self.decoder(self.input_norm(made.vectors), made.seen, made.positions), beside)

    def read(
        self,
        hidden: Float[Array, "B S D"],
        mask: Bool[Array, "B S"],
        beside: Float[Array, "B S D"],
        **room: Any,
    ) -> tuple[Float[Array, "B S D"], Cache]:
        """The same for inputs, causally, with the cache that `step` goes on from."""
        vectors, cache = self.decoder.read_pass(self.input_norm(hidden), mask, **room)
        return self._mixed(vectors, beside), cache

    def step(
        self, hidden: Float[Array, "R D"], beside: Float[Array, "R D"], cache: Cache
    ) -> tuple[Float[Array, "R D"], Cache]:
        """The same for one more position of every row."""
        vectors, cache = self.decoder.step(self.input_norm(hidden), cache)
        return self._mixed(vectors, beside), cache

    def _mixed(self, vectors: Float[Array, "*batch D"], beside: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        if not hasattr(self, "gate"):
            return vectors
        gate = jnp.expand_dims(self.gate[...].astype(vectors.dtype), range(vectors.ndim - 1))
        return beside.astype(vectors.dtype) + gate * vectors


class RecursionCache(NamedTuple):
    """What is kept while texts are written: a cache a pass, and one for each Connector.

    Attributes:
        passes: of the LM.
        connectors: of those behind a pass that decodes.
    """

    passes: tuple[Cache, ...]
    connectors: tuple[Cache, ...]

    def select_rows(self, rows: Int[Array, " R"]) -> RecursionCache:
        """Returns the cache whose row i is row rows[i] of this one."""
        return RecursionCache(*(tuple(cache.select_rows(rows) for cache in caches) for caches in self))

    def insert(self, new: RecursionCache, places: Int[Array, " N"], rows: Int[Array, " M"]) -> RecursionCache:
        """Returns the cache with other inputs in some places, and their rows in some rows."""
        pairs = (zip(*caches, strict=True) for caches in zip(self, new, strict=True))
        return RecursionCache(*(tuple(old.insert(one, places, rows) for old, one in caches) for caches in pairs))


@gin.configurable
class NeuralRecursion(Method):
    """Passes of one frozen LM, with trained Connectors between them."""

    packs: Any = True  # nothing stands in front of an example
    lm: Any  # a `Stacks`

    def __init__(
        self,
        lm: LanguageModel,
        *,
        passes: int = 2,
        share: bool = False,
        skip: bool = False,
        on_top: bool = False,
        layers: int = 2,
        initializer: str = "random",
        seed: int = 0,
    ) -> None:
        """Makes the Connectors.

        Args:
            lm: the frozen LM, or a method that stands before it, such as prompt tuning; its parameters are trained too.
            passes: how often the LM runs; the paper's 2.
            share: one Connector between all passes, instead of one for each.
            skip: a path around the earlier passes: the next one reads the original embeddings plus gate * Connector,
                where the gate, D numbers, starts at 0. So the whole starts as one pass, and is not the paper's.
            on_top: a Connector behind the last pass as well, whose outputs become logits. With `passes = 1` the control
                of as many trained layers without a second pass.
            layers: of a Connector.
            initializer: "random", as T5X's layers; "identity", where both branches of each layer start at 0, so
                that hidden states pass with their scale changed; "last_layers", copied from an LM that only decodes.
            seed: of the initializer.

        Raises:
            UserError: for no pass, none that a Connector stands between, or an initializer that does not fit.
        """
        before = lm if isinstance(lm, Method) else None
        super().__init__(lm)
        if before is not None:
            self.before, self.lm = before, before.lm
            self.rules = (*((f"before/{path}", what) for path, what in before.rules), (".*", "train"))
            self.packs = before.packs
        _check(self.lm, before, passes, on_top, layers, initializer)
        self.passes, self.on_top = passes, on_top
        self.settings = (("passes", passes), ("share", share), ("skip", skip), ("on_top", on_top))
        if before is not None:
            self.settings = (*before.settings, *self.settings)
        between = min(passes - 1, 1) if share else passes - 1
        rngs, rms = nnx.Rngs(seed), _rms(self.lm.embed(jnp.arange(min(_COMMON_TOKENS, lm.vocab_size))))

        def made(rms: Float[Array, ""]) -> Connector:
            return _made(self.lm, layers, initializer, rms, skip, rngs)

        self.connectors = nnx.List([made(rms) for _ in range(between)])
        if on_top:
            self.top = made(_rms(self.lm.decoder.decoder_norm.scale[...][None]))
        if not self.lm.reads_on:
            self.encoder_connectors = nnx.List([made(rms) for _ in range(between)])

    @property
    def wrapped(self) -> LanguageModel:
        """What stands before the first pass, or the LM."""
        return getattr(self, "before", self.lm)

    def hidden_states(
        self,
        inputs: Float[Array, "B S D"],
        inputs_mask: Bool[Array, "B S"],
        targets: Float[Array, "R T D"],
        dropout: Dropout | None = None,
        segments: Segments | None = None,
    ) -> Float[Array, "R T D"]:
        """Runs all passes; see `LanguageModel.hidden_states`."""
        del dropout  # frozen stacks have none
        first = self.lm.begin(inputs, inputs_mask, targets, segments)
        return self.lm.end(self.after_first(first, self.lm.run(first)))

    def batch_logits(self, batch: Batch, dropout: Dropout | None) -> Float[Array, "B T V"]:
        """Returns the logits of a batch's targets; what the first pass makes of it may be there already."""
        if batch.first_pass is None:
            return super().batch_logits(batch, dropout)
        first = self.begin(batch)
        return self.unembed(self.lm.end(self.after_first(first, first.of(*batch.first_pass))))

    def begin(self, batch: Batch) -> Streams:
        """Returns what the first pass reads of a batch, where nothing stands before it."""
        return self.lm.begin(self.embed(batch.inputs), batch.inputs_mask, self.embed(batch.targets), batch.segments)

    def after_first(self, first: Streams, made: Streams) -> Streams:
        """Runs what follows the first pass.

        Args:
            first: what that read.
            made: what it has made.

        Returns:
            What the last pass, or the Connector on top of it, has made.
        """
        for number, connector in enumerate(self._between(self.connectors)):
            decoder, encoder = connector(made.decoder, first.decoder.vectors), None
            if made.encoder is not None:
                encoder = self._between(self.encoder_connectors)[number](made.encoder, first.encoder.vectors)
            made = self.lm.run(made.of(encoder, decoder))
        if not self.on_top:
            return made
        return made.of(made.encoder and made.encoder.vectors, self.top(made.decoder, made.decoder.vectors))

    def prefill(
        self,
        inputs: Float[Array, "B S D"],
        inputs_mask: Bool[Array, "B S"],
        *,
        max_length: int,
        rows_per_input: int = 1,
        prompt: Any = None,
    ) -> tuple[Float[Array, "R D"], RecursionCache]:
        """Lets every pass read the inputs; see `LanguageModel.prefill`."""
        del prompt  # there is none that could be read apart
        room = {"max_length": max_length, "rows_per_input": rows_per_input}
        return (
            self._read_on(inputs, inputs_mask, room) if self.lm.reads_on else self._started(inputs, inputs_mask, room)
        )

    def _read_on(
        self, inputs: Float[Array, "B S D"], inputs_mask: Bool[Array, "B S"], room: dict[str, int]
    ) -> tuple[Float[Array, "R D"], RecursionCache]:
        """Of an LM that only decodes, whose Connectors read the inputs as well."""
        first, mask = self.lm.opened(inputs, inputs_mask)
        hidden, kept = self.lm.read_pass(first, mask, **room)
        passes, connectors = [kept], []
        for connector in self._between(self.connectors):
            vectors, kept = connector.read(hidden, mask, first, **room)
            connectors.append(kept)
            hidden, kept = self.lm.read_pass(vectors, mask, **room)
            passes.append(kept)
        if self.on_top:
            hidden, kept = self.top.read(hidden, mask, hidden, **room)
            connectors.append(kept)
        last = jnp.repeat(last_real(hidden, mask), room["rows_per_input"], axis=0)
        return last, RecursionCache(tuple(passes), tuple(connectors))

    def _started(
        self, inputs: Float[Array, "B S D"], mask: Bool[Array, "B S"], room: dict[str, int]
    ) -> tuple[Float[Array, "R D"], RecursionCache]:
        """Of an encoder-decoder: all passes of the encoder, then the decoder's start token."""
        hidden, kept = self.lm.read_pass(inputs, mask, **room)
        passes, places = [kept], jnp.arange(inputs.shape[1])[None]
        for connector in self._between(self.encoder_connectors):
            vectors = connector(Stream(hidden, mask[:, None], places), inputs)
            hidden, kept = self.lm.read_pass(vectors, mask, **room)
            passes.append(kept)
        nothing = {**room, "max_length": room["max_length"] + 1}  # the start token takes a position
        connectors = [
            connector.decoder.nothing_read(len(inputs), dtype=hidden.dtype, **nothing)
            for connector in [*self._between(self.connectors), *([self.top] if self.on_top else [])]
        ]
        start = jnp.full((len(inputs) * room["rows_per_input"],), self.lm.start_id, jnp.int32)
        return self.decode_step(self.embed(start), RecursionCache(tuple(passes), tuple(connectors)))

    def decode_step(
        self, embeddings: Float[Array, "R D"], cache: RecursionCache
    ) -> tuple[Float[Array, "R D"], RecursionCache]:
        """Lets every pass take one more token; see `LanguageModel.decode_step`."""
        hidden, kept = self.lm.decode_step(embeddings, cache.passes[0])
        passes, connectors = [kept], []
        for number, connector in enumerate(self._between(self.connectors)):
            vectors, kept = connector.step(hidden, embeddings, cache.connectors[number])
            connectors.append(kept)
            hidden, kept = self.lm.decode_step(vectors, cache.passes[number + 1])
            passes.append(kept)
        if self.on_top:
            hidden, kept = self.top.step(hidden, hidden, cache.connectors[-1])
            connectors.append(kept)
        return hidden, RecursionCache(tuple(passes), tuple(connectors))

    def _between(self, connectors: Sequence[Connector]) -> list[Connector]:
        """One behind every pass but the last; a shared one behind each of them."""
        return [connectors[min(number, len(connectors) - 1)] for number in range(self.passes - 1)]


def _check(lm: LanguageModel, before: Method | None, passes: int, on_top: bool, layers: int, initializer: str) -> None:
    if not isinstance(lm, Stacks) or (before is not None and type(before).hidden_states is not Method.hidden_states):
        name = type(before or lm).__name__
        raise UserError(f"NeuralRecursion.lm is a {name}; give it an LM, or a method that stands before one")
    if passes < 1 or layers < 1 or (passes == 1 and not on_top):
        raise UserError(
            f"NeuralRecursion: {passes} passes and Connectors of {layers} layers leave nothing to train; give 2 passes "
            "or more, or one with on_top = True, and at least one layer"
        )
    if initializer not in INITIALIZERS:
        raise UserError(f"NeuralRecursion.initializer is {initializer!r}; choose from {', '.join(INITIALIZERS)}")
    if initializer == "last_layers" and not (lm.reads_on and layers <= len_layers(lm.decoder.layers)):
        raise UserError(
            f"NeuralRecursion.initializer: {lm.name} has no {layers} last layers that a Connector could be a copy of; "
            "take 'random' or 'identity'"
        )


def _config(lm: Stacks, layers: int) -> LlamaConfig:
    """Layers in the LM's own sizes; of the head there is nothing."""
    own = lm.config
    if isinstance(own, LlamaConfig):
        return dataclasses.replace(own, num_layers=layers, logits_via_embedding=True)
    sizes = {name: getattr(own, name) for name in ("vocab_size", "emb_dim", "num_heads", "head_dim", "mlp_dim")}
    epsilon = own.layer_norm_epsilon
    heads = own.num_heads
    return LlamaConfig(
        **sizes, num_kv_heads=heads, num_layers=layers, logits_via_embedding=True, layer_norm_epsilon=epsilon
    )


def _made(lm: Any, layers: int, initializer: str, rms: Float[Array, ""], skip: bool, rngs: nnx.Rngs) -> Connector:
    made = Connector(_config(lm, layers), output_rms=rms, skip=skip, rngs=rngs)
    if initializer == "identity":
        for branch in (made.decoder.layers.self_attention.out, made.decoder.layers.mlp.wo):
            branch.kernel[...] = jnp.zeros_like(branch.kernel[...])
    if initializer == "last_layers":
        last = jax.tree.map(lambda leaf: jnp.array(leaf[-layers:], jnp.float32), nnx.state(lm.decoder.layers))
        nnx.update(made.decoder.layers, last)
    return made


def _rms(vectors: Float[Array, "N D"]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.mean(jnp.square(vectors.astype(jnp.float32))))
