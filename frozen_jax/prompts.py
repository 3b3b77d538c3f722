"""Prompts: vectors that stand in front of the embeddings of the inputs, and where they start.

Where a prompt starts matters more than anything else about it; the initialisers are Lester et al.'s (2021) section 3.2
(random uniform, sampled vocabulary, class labels), a text, and another module checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import gin
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from frozen_jax import checkpoints
from frozen_jax.errors import UserError
from frozen_jax.lm.base import LanguageModel
from frozen_jax.tokenizer import load_tokenizer
from frozen_jax.types import Array

Initializer = Callable[[LanguageModel, int, PRNGKeyArray], Float[Array, "P D"]]


@gin.configurable
def random_uniform(lm: LanguageModel, length: int, key: PRNGKeyArray, scale: float = 0.5) -> Float[Array, "P D"]:
    """Draws every number from [-scale, scale]; 0.5 is Lester et al.'s."""
    width = width_of(lm)
    return jax.random.uniform(key, (length, width), jnp.float32, -scale, scale)


@gin.configurable
def sampled_vocabulary(
    lm: LanguageModel, length: int, key: PRNGKeyArray, most_common: int = 5000
) -> Float[Array, "P D"]:
    """Takes the embeddings of random tokens among the `most_common` first ones: T5's are sorted by frequency."""
    return _embeddings(lm, jax.random.randint(key, (length,), 3, most_common))


@gin.configurable
def from_text(
    lm: LanguageModel,
    length: int,
    key: PRNGKeyArray,
    text: str = gin.REQUIRED,
    tokenizer: str = gin.REQUIRED,
    filled_up: Initializer = sampled_vocabulary,
) -> Float[Array, "P D"]:
    """Takes the embeddings of a text's tokens, cut at the prompt's length.

    Args:
        lm: whose embeddings.
        length: P.
        key: for what fills up.
        text: for instance a description of the task.
        tokenizer: source of the LM's tokenizer, see `load_tokenizer`.
        filled_up: what gives the vectors that the text leaves free.
    """
    embeddings = _embeddings(lm, load_tokenizer(tokenizer).encode(text)[:length])
    return jnp.concatenate([embeddings, filled_up(lm, length, key)[len(embeddings) :]])


@gin.configurable
def from_class_labels(
    lm: LanguageModel,
    length: int,
    key: PRNGKeyArray,
    labels: Sequence[str] = gin.REQUIRED,
    tokenizer: str = gin.REQUIRED,
    filled_up: Initializer = sampled_vocabulary,
) -> Float[Array, "P D"]:
    """Takes the embedding of each answer word, their mean where it has several tokens.

    Args:
        lm: whose embeddings.
        length: P.
        key: for what fills up.
        labels: the task's answer words.
        tokenizer: source of the LM's tokenizer, see `load_tokenizer`.
        filled_up: what gives the vectors that the labels leave free; Lester et al. sample the vocabulary.
    """
    encode = load_tokenizer(tokenizer).encode
    means = [jnp.mean(_embeddings(lm, encode(label)), axis=0) for label in labels[:length]]
    return jnp.concatenate([jnp.stack(means), filled_up(lm, length, key)[len(means) :]])


@gin.configurable
def from_checkpoint(lm: LanguageModel, length: int, key: PRNGKeyArray, path: str = gin.REQUIRED) -> Float[Array, "P D"]:
    """Takes the prompt of another module checkpoint, trained beside the same LM.

    Raises:
        UserError: if the checkpoint has no prompt or one of another length, or belongs to another LM.
    """
    del key
    trained = checkpoints.load_trained(path, lm)
    shapes = {name: array.shape for name, array in trained.items()}
    if "prompt" not in trained or trained["prompt"].shape[0] != length:
        raise UserError(f"{path}: holds {shapes}; a prompt of length {length} is wanted")
    return jnp.asarray(trained["prompt"])


def width_of(lm: LanguageModel) -> int:
    """Returns D, the width of an LM's embeddings."""
    return _embeddings(lm, [0]).shape[1]


def _embeddings(lm: LanguageModel, tokens: Sequence[int] | Int[Array, " N"]) -> Float[Array, "N D"]:
    return lm.embed(jnp.asarray(tokens, jnp.int32)).astype(jnp.float32)


def prepend(
    prompts: Float[Array, "#B P D"], embeddings: Float[Array, "B S D"], mask: Bool[Array, "B S"]
) -> tuple[Float[Array, "B PS D"], Bool[Array, "B PS"]]:
    """Puts prompts in front of the rows.

    Args:
        prompts: one for each row, or one for all.
        embeddings: of the inputs.
        mask: True where an input is real.

    Returns:
        The embeddings of both, in the dtype of the inputs', and the mask of both.
    """
    batch, (length, width) = embeddings.shape[0], prompts.shape[1:]
    rows = jnp.broadcast_to(prompts.astype(embeddings.dtype), (batch, length, width))
    return jnp.concatenate([rows, embeddings], axis=1), jnp.concatenate([jnp.ones((batch, length), bool), mask], axis=1)
