"""Input-dependent prompt tuning, ID-PT (Levine et al. 2022, figures 1 and 2): every input gets a prompt of its own.

    x ──embed──▶ [p' ; x] ──▶ frozen encoder ──▶ cross-attention ──▶ self-attention ──▶ projection ──▶ p(x)
                                                 from P latents      among them
    x ──embed──▶ [p(x) ; x] ──▶ frozen LM ──▶ y

    encoder_prompt                              [P', D']    trained: p'
    generator/latents                           [P, W]      trained: the learned queries
    generator/context_norm/scale                [D']        trained: of what the encoder says
    generator/cross_attention/...                           trained: a block, keys and values D' → H*K
    generator/layers/...                        [L, ...]    trained: L blocks
    generator/final_norm/scale                  [W]         trained
    generator/projection/kernel                 [W, D]      trained: to the LM's width
    prompt                                      [P, D]      trained, where p(x) is added to a static prompt
    encoder/**, lm/**                                       frozen

The paper's: [p' ; x] through a frozen T5 encoder, learned queries that cross-attend to its outputs (after Jaegle et al.
2021), self-attention, a projection, p(x) before x. Ours, since the paper does not say: every number (the arguments
below), a block's inside (T5's: a norm before attention and MLP, both beside a residual path), the norms where the
generator begins and ends, and where things start. docs/results.md has the sweeps behind the defaults.
"""

from __future__ import annotations

import gin
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Bool, Float, Int

from frozen_jax.errors import UserError
from frozen_jax.freezing import Rules
from frozen_jax.lm.base import LanguageModel
from frozen_jax.lm.layers import Attention, Dense, GatedMLP, RMSNorm, mask_bias, scan_layers, stack_layers
from frozen_jax.methods.base import Method
from frozen_jax.prompts import prepend, sampled_vocabulary, width_of
from frozen_jax.types import Array, EncoderInputs

_EPSILON = 1e-6  # of every norm, as T5's
_COMMON_TOKENS = 5000  # T5's vocabularies begin with what is frequent


class Block(nnx.Module):
    """Attention and MLP, each behind a norm and beside a residual path, as in T5; from the latents to a context."""

    def __init__(
        self, width: int, heads: int, head_dim: int, mlp_dim: int, *, rngs: nnx.Rngs, context_width: int | None = None
    ) -> None:
        """Makes one block; the context is as wide as the latents unless `context_width` says otherwise."""
        self.pre_attention_norm = RMSNorm(width, epsilon=_EPSILON)
        self.attention = Attention(width, heads, head_dim, rngs=rngs, context_width=context_width)
        self.pre_mlp_norm = RMSNorm(width, epsilon=_EPSILON)
        self.mlp = GatedMLP(width, mlp_dim, ("gelu", "linear"), rngs=rngs)

    def __call__(
        self,
        latents: Float[Array, "B P W"],
        context: Float[Array, "B S context"] | None = None,
        bias: Float[Array, "#B 1 1 S"] | None = None,
    ) -> Float[Array, "B P W"]:
        """Lets the latents attend to the context where the bias allows it; without a context, to each other."""
        x = self.pre_attention_norm(latents)
        keys, values = self.attention.keys_values(x if context is None else context)
        bias = jnp.zeros((1, 1, 1, values.shape[2])) if bias is None else bias
        latents = latents + self.attention.attend(x, keys, values, bias)
        return latents + self.mlp(self.pre_mlp_norm(latents))


class Generator(nnx.Module):
    """What turns the encoder's outputs, of any length, into P vectors of the LM's width."""

    def __init__(
        self,
        *,
        length: int,
        context_width: int,
        width: int,
        heads: int,
        head_dim: int,
        mlp_dim: int,
        blocks: int,
        output_width: int,
        output_rms: Float[Array, ""],
        rngs: nnx.Rngs,
    ) -> None:
        """Makes the generator; see `InputDependentPromptTuning`. Its first outputs have the given root mean square."""
        sizes = (width, heads, head_dim, mlp_dim)
        self.latents = nnx.Param(jax.random.normal(rngs.params(), (length, width)))
        self.context_norm = RMSNorm(context_width, epsilon=_EPSILON)
        self.cross_attention = Block(*sizes, rngs=rngs, context_width=context_width)
        if blocks:
            self.layers = stack_layers(lambda rngs: Block(*sizes, rngs=rngs), blocks, rngs)
        self.final_norm = RMSNorm(width, epsilon=_EPSILON)
        self.final_norm.scale[...] = self.final_norm.scale[...] * output_rms
        self.projection = Dense(width, output_width, rngs=rngs)

    def __call__(self, context: Float[Array, "B S context"], mask: Bool[Array, "B S"]) -> Float[Array, "B P D"]:
        """Returns the prompts; padding (mask False) is attended to by nothing."""
        latents = jnp.broadcast_to(
            self.latents[...].astype(context.dtype)[None], (context.shape[0], *self.latents.shape)
        )
        latents = self.cross_attention(latents, self.context_norm(context), mask_bias(mask)[:, None, None])
        if hasattr(self, "layers"):
            latents = scan_layers(self.layers, lambda block, latents, _: block(latents), latents)
        return self.projection(self.final_norm(latents))


@gin.configurable
class InputDependentPromptTuning(Method):
    """Prompts that a trained generator makes of each input, in front of the inputs of a frozen LM."""

    rules: Rules = (("(lm|encoder)/.*", "freeze"), (".*", "train"))

    def __init__(
        self,
        lm: LanguageModel,
        encoder: LanguageModel | None = None,
        *,
        length: int = 20,
        encoder_prompt_length: int = 10,
        width: int = 256,
        heads: int = 4,
        head_dim: int = 64,
        mlp_dim: int = 1024,
        blocks: int = 1,
        initial_scale: float = 4.0,
        add_static: bool = True,
        share_weights: bool = True,
        seed: int = 0,
    ) -> None:
        """Makes p' and the generator.

        Args:
            lm: the frozen LM.
            encoder: the frozen LM that reads [p' ; x]; None is `lm` itself, loaded once. Where its vocabulary is not
                that of `lm`, x comes in it as well, as `encoder_inputs`.
            length: P, how many vectors p(x) has.
            encoder_prompt_length: P' of p'; 0 is none.
            width: W of the latents.
            heads: H of every attention of the generator.
            head_dim: K of the same.
            mlp_dim: F of every block's MLP.
            blocks: L, of self-attention.
            initial_scale: of the first p(x), in root mean squares of the LM's embeddings of common tokens. 1 makes them
                look like embeddings; with 4 and more the titler learns faster, see docs/results.md.
            add_static: add p(x) to a static prompt that starts from sampled vocabulary, and learns at a prompt's rate.
            share_weights: let `lm` be the encoder where the given one holds the same weights, so that memory holds them
                once. False keeps a copy, which freezing rules of one's own may then train.
            seed: of everything random here.

        Raises:
            UserError: for a size that is not positive.
        """
        super().__init__(lm)
        if min(length, width, heads, head_dim, mlp_dim) < 1 or min(blocks, encoder_prompt_length) < 0:
            raise UserError("InputDependentPromptTuning: only blocks and encoder_prompt_length may be 0; none negative")
        self.settings = (("heads", heads),)
        self.prompt_length += length
        self.encoder = lm if encoder is None or (share_weights and _same_weights(encoder, lm)) else encoder
        rngs = nnx.Rngs(seed)
        if encoder_prompt_length:
            self.encoder_prompt = nnx.Param(sampled_vocabulary(self.encoder, encoder_prompt_length, rngs.params()))
        self.generator = Generator(
            length=length,
            context_width=width_of(self.encoder),
            width=width,
            heads=heads,
            head_dim=head_dim,
            mlp_dim=mlp_dim,
            blocks=blocks,
            output_width=width_of(lm),
            output_rms=initial_scale * _rms_of_embeddings(lm),
            rngs=rngs,
        )
        if add_static:
            self.prompt = nnx.Param(sampled_vocabulary(lm, length, rngs.params()))

    def read(
        self, inputs: Int[Array, "B S"], inputs_mask: Bool[Array, "B S"], encoder_inputs: EncoderInputs | None = None
    ) -> tuple[Float[Array, "B PS D"], Bool[Array, "B PS"]]:
        """Puts p(x) in front of the inputs."""
        prompts = self.prompts(*(encoder_inputs or (inputs, inputs_mask)))
        embeddings, mask = self.lm.read(inputs, inputs_mask, encoder_inputs)
        return prepend(prompts, embeddings, mask)

    def prompts(self, tokens: Int[Array, "B S2"], mask: Bool[Array, "B S2"]) -> Float[Array, "B P D"]:
        """Returns p(x) of each row.

        Args:
            tokens: x in the encoder's vocabulary, padded on the right.
            mask: True where a token is real.
        """
        embeddings = self.encoder.embed(tokens)
        if hasattr(self, "encoder_prompt"):
            embeddings, mask = prepend(self.encoder_prompt[...][None], embeddings, mask)
        prompts = self.generator(self.encoder.encode(embeddings, mask), mask).astype(jnp.float32)
        return prompts + self.prompt[...][None] if hasattr(self, "prompt") else prompts


def _same_weights(one: LanguageModel, other: LanguageModel) -> bool:
    """Whether both come from the same source in the same precision; without a source nothing is known."""
    marks = [(getattr(lm, "fingerprint", ""), lm.embed(jnp.zeros((1,), jnp.int32)).dtype) for lm in (one, other)]
    return one is other or (marks[0] == marks[1] and bool(marks[0][0]))


def _rms_of_embeddings(lm: LanguageModel) -> Float[Array, ""]:
    vocabulary = jax.eval_shape(lambda: lm.unembed(lm.embed(jnp.zeros((1,), jnp.int32)))).shape[-1]
    common = lm.embed(jnp.arange(min(_COMMON_TOKENS, vocabulary)))
    return jnp.sqrt(jnp.mean(common.astype(jnp.float32) ** 2))
