"""What a method puts in front of the inputs: the vectors, their nearest vocabulary, and how they vary with the input.

Nothing here knows a method: p(x) is what `Method.read` returns before the inputs' own embeddings.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from frozen_jax.answering import EvalExample, Rows
from frozen_jax.errors import UserError
from frozen_jax.lm.base import LanguageModel
from frozen_jax.methods.base import Method
from frozen_jax.partitioning import spread_rows
from frozen_jax.templates import data_set_of
from frozen_jax.types import Array, EncoderInputs

_AT_ONCE = 512  # vectors that are compared with the whole vocabulary at once
_BATCH_SIZE = 32
_ROUNDING = 1e-5  # of the norm; batches of other shapes may add up in another order


def prompt_of(
    method: Method,
    inputs: Int[Array, "B S"],
    inputs_mask: Bool[Array, "B S"],
    encoder_inputs: EncoderInputs | None = None,
) -> Float[Array, "B P D"]:
    """Returns the vectors that a method puts in front of the inputs, in float32.

    Raises:
        UserError: if it puts nothing there.
    """
    embeddings, _ = method.read(inputs, inputs_mask, encoder_inputs)
    length = embeddings.shape[1] - inputs.shape[1]
    if not length:
        raise UserError(f"{type(method).__name__} puts nothing in front of the inputs; there is no prompt to look at")
    return embeddings[:, :length].astype(jnp.float32)


def prompts_of(method: Method, examples: Sequence[EvalExample]) -> Float[np.ndarray, "N P D"]:
    """Returns p(x) of the inputs of examples, computed in batches of few shapes.

    Args:
        method: any.
        examples: whose inputs are read.

    Raises:
        UserError: if the method puts nothing in front of the inputs.
    """
    graphdef, state = nnx.split(method)
    like = jax.tree.leaves(state)[0]

    @jax.jit
    def read(
        state: Any, tokens: Int[Array, "B S"], lengths: Int[Array, " B"], encoder_inputs: EncoderInputs | None
    ) -> Float[Array, "B P D"]:
        mask = jnp.arange(tokens.shape[1])[None] < lengths[:, None]
        return prompt_of(nnx.merge(graphdef, state), tokens, mask, encoder_inputs)

    def call(
        rows: Sequence[int], tokens: Array, inputs_lengths: Array, encoder_inputs: EncoderInputs | None = None
    ) -> Array:
        del rows
        return read(state, *spread_rows((tokens, inputs_lengths, encoder_inputs), like=like))

    return np.stack(Rows(method, _BATCH_SIZE, None, "the inputs").in_batches("read", call, examples))


def vocabulary_of(lm: LanguageModel, size: int) -> Float[np.ndarray, "V D"]:
    """Returns the embeddings of the first `size` tokens: tables have rows behind the tokenizer's last token."""
    return np.asarray(lm.embed(jnp.arange(size, dtype=jnp.int32)).astype(jnp.float32))


class Nearest(NamedTuple):
    """The vocabulary embeddings nearest to vectors, nearest first; K of them.

    Attributes:
        tokens: their ids.
        cosines: their similarities.
    """

    tokens: Int[np.ndarray, "N P K"]
    cosines: Float[np.ndarray, "N P K"]


def nearest(prompts: Float[np.ndarray, "N P D"], vocabulary: Float[np.ndarray, "V D"], neighbours: int) -> Nearest:
    """Finds the vocabulary embeddings of the highest cosine similarity.

    Args:
        prompts: what to find them for.
        vocabulary: among what.
        neighbours: K, how many; no more than there are.
    """
    table, count = jnp.asarray(unit(vocabulary)), min(neighbours, len(vocabulary))
    step = max(1, _AT_ONCE // prompts.shape[1])
    found = [_nearest(jnp.asarray(unit(rows)), table, count) for rows in _pieces(prompts, step)]
    cosines, tokens = (np.concatenate([np.asarray(part) for part in parts]) for parts in zip(*found, strict=True))
    return Nearest(tokens, cosines)


def _pieces(rows: Float[np.ndarray, "N P D"], step: int) -> Iterator[Float[np.ndarray, "n P D"]]:
    yield from (rows[start : start + step] for start in range(0, len(rows), step))


@functools.partial(jax.jit, static_argnums=2)
def _nearest(
    rows: Float[Array, "N P D"], table: Float[Array, "V D"], count: int
) -> tuple[Float[Array, "N P K"], Int[Array, "N P K"]]:
    cosines = jnp.einsum("npd,vd->npv", rows, table, precision="highest")
    best, tokens = jax.lax.top_k(cosines, count)
    return best, tokens


def unit(vectors: Float[np.ndarray, "*batch D"]) -> Float[np.ndarray, "*batch D"]:
    """Returns vectors of length one in the same directions; zero stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(norms, np.finfo(np.float32).tiny)


def cosine_by_chance(vocabulary: Float[np.ndarray, "V D"]) -> float:
    """Returns the similarity that random directions have to their nearest vocabulary embedding, on average."""
    directions = np.random.default_rng(0).standard_normal((1, _AT_ONCE, vocabulary.shape[1]), np.float32)
    return float(nearest(directions, vocabulary, 1).cosines.mean())


class Variation(NamedTuple):
    """A part of the variance of p(x).

    Attributes:
        source: where it comes from.
        share: of the whole variance.
        by_chance: the share to expect if the inputs had been put into these groups at random.
    """

    source: str
    share: float
    by_chance: float


def depends_on_input(prompts: Float[np.ndarray, "N P D"]) -> bool:
    """Returns whether p(x) differs from input to input by more than rounding."""
    return relative_spread(prompts) > _ROUNDING


def relative_spread(prompts: Float[np.ndarray, "N P D"]) -> float:
    """Returns the root mean square distance of p(x) from its mean over the inputs, as a share of that mean's norm."""
    distances = np.square(_centred(prompts)).sum(1)
    return float(np.sqrt(distances.mean()) / np.linalg.norm(prompts.mean(0)))


def _centred(prompts: Float[np.ndarray, "N P D"]) -> Float[np.ndarray, "N F"]:
    """p(x) as one vector each, less their mean."""
    flat = prompts.reshape(len(prompts), -1)
    return flat - flat.mean(0, keepdims=True)


def variations(prompts: Float[np.ndarray, "N P D"], tasks: Sequence[str]) -> list[Variation]:
    """Divides the variance of p(x): between data sets, between the templates of each, and within a template.

    A nested analysis of variance over all P * D numbers at once. The shares add up to one. Groups at random would have
    the shares of their degrees of freedom.

    Args:
        prompts: p(x), not all the same.
        tasks: the task of each input.
    """
    left = _centred(prompts)
    total, groups, found = np.square(left).sum(dtype=np.float64), 1, []
    for source, labels in (
        ("between data sets", [data_set_of(task) for task in tasks]),
        ("between the templates of a data set", list(tasks)),
    ):
        before, left = np.square(left).sum(dtype=np.float64), _without_means(left, labels)
        more = len(set(labels)) - groups
        if more:
            share = (before - np.square(left).sum(dtype=np.float64)) / total
            found.append(Variation(source, float(share), more / (len(tasks) - 1)))
            groups += more
    rest = float(np.square(left).sum(dtype=np.float64) / total)
    return [*found, Variation("between the inputs of a task", rest, (len(tasks) - groups) / (len(tasks) - 1))]


def _without_means(points: Float[np.ndarray, "N F"], labels: Sequence[str]) -> Float[np.ndarray, "N F"]:
    """Points less the mean of their group."""
    _, numbers = np.unique(np.array(labels), return_inverse=True)
    members = np.eye(numbers.max() + 1, dtype=points.dtype)[numbers]
    means = members.T @ points / members.sum(0)[:, None]
    return points - means[numbers]


class Plane(NamedTuple):
    """p(x) along the two directions in which it varies most (principal components).

    Attributes:
        points: each input's place.
        shares: of the variance that lie along either axis.
    """

    points: Float[np.ndarray, "N 2"]
    shares: tuple[float, float]


def plane(prompts: Float[np.ndarray, "N P D"]) -> Plane:
    """Projects p(x), as one vector of P * D numbers, on its two principal components.

    By the N x N matrix of inner products, since P * D is mostly the larger number. The sign of an axis means nothing;
    the point that is farthest along it lies on its positive side, so that a picture can be made again.

    Args:
        prompts: p(x); of one input, or all the same but for rounding, everything is zero.
    """
    if not depends_on_input(prompts):
        return Plane(np.zeros((len(prompts), 2)), (0.0, 0.0))
    centred = _centred(prompts)
    variances, directions = np.linalg.eigh((centred @ centred.T).astype(np.float64))
    axes = (directions * np.sqrt(np.maximum(variances, 0)))[:, :-3:-1]
    axes *= np.where(np.take_along_axis(axes, np.abs(axes).argmax(0)[None], 0) < 0, -1, 1)
    first, second = np.square(axes).sum(0) / variances.sum()
    return Plane(axes, (float(first), float(second)))
