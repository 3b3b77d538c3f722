"""Greedy and beam decoding over any seam: loops on the device that end when every row has.

Both take `step(tokens_R, cache) -> (logits_RV, cache)`, the logits that predict the first token, and the cache that
`prefill` gave. A row is a hypothesis; an input's hypotheses are consecutive rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from frozen_jax.types import Array

Step = Callable[[Any, Any], tuple[Any, Any]]
NEVER = -1e7  # score of a beam that is not there, as T5X


def greedy(
    step: Step, logits: Float[Array, "B V"], cache: Any, *, max_length: int, eos_id: int, pad_id: int
) -> Int[Array, "B T"]:
    """Writes the most likely token until the end-of-sequence token, or `max_length` tokens.

    Args:
        step: feeds one token a row and returns the logits of the next.
        logits: of the first token.
        cache: as `prefill` gave it.
        max_length: T.
        eos_id: the token that ends a row; it is kept.
        pad_id: what stands after it.
    """
    rows = logits.shape[0]

    def unfinished(state: tuple) -> Bool[Array, ""]:
        position, _, ended, _, _ = state
        return (position < max_length) & ~jnp.all(ended)

    def write(state: tuple) -> tuple:
        position, tokens, ended, logits, cache = state
        token = jnp.where(ended, pad_id, jnp.argmax(logits, axis=-1)).astype(jnp.int32)
        tokens = jax.lax.dynamic_update_slice(tokens, token[:, None], (0, position))
        return (position + 1, tokens, ended | (token == eos_id), *step(token, cache))

    start = (jnp.int32(0), jnp.full((rows, max_length), pad_id, jnp.int32), jnp.zeros(rows, bool), logits, cache)
    return jax.lax.while_loop(unfinished, write, start)[1]


class _Beams(NamedTuple):
    """The state of a beam search; N beams, ordered best first."""

    position: Int[Array, ""]
    live_tokens: Int[Array, "B N T"]
    live_scores: Float[Array, "B N"]  # log-likelihood
    done_tokens: Int[Array, "B N T"]
    done_scores: Float[Array, "B N"]  # log-likelihood over length penalty; NEVER where no beam has ended
    logits: Float[Array, "B N V"]
    cache: Any


def beam_search(
    step: Step,
    logits: Float[Array, "R V"],
    cache: Any,
    *,
    num_beams: int,
    max_length: int,
    length_penalty: float,
    eos_id: int,
    pad_id: int,
) -> tuple[Int[Array, "B N T"], Float[Array, "B N"]]:
    """Searches with `num_beams` live hypotheses an input and keeps the best that ended, with T5X's scores.

    Args:
        step: feeds one token a row and returns the logits of the next.
        logits: of the first token, the same for all rows of an input.
        cache: as `prefill` gave it for R = B * num_beams rows.
        num_beams: N.
        max_length: T.
        length_penalty: a hypothesis scores log-likelihood / ((5 + length) / 6) ** length_penalty.
        eos_id: the token that ends a hypothesis; it is kept.
        pad_id: what stands after it.

    Returns:
        The hypotheses of each input, best first, and their scores. Where none ended, the live ones with their
        log-likelihoods.
    """
    batch = logits.shape[0] // num_beams
    empty = jnp.full((batch, num_beams, max_length), pad_id, jnp.int32)
    only_first = jnp.where(jnp.arange(num_beams) == 0, 0.0, NEVER)  # at first all beams are the same one
    start = _Beams(
        position=jnp.int32(0),
        live_tokens=empty,
        live_scores=jnp.broadcast_to(only_first, (batch, num_beams)).astype(jnp.float32),
        done_tokens=empty,
        done_scores=jnp.full((batch, num_beams), NEVER, jnp.float32),
        logits=logits.reshape(batch, num_beams, -1),
        cache=cache,
    )

    def unfinished(beams: _Beams) -> Bool[Array, ""]:
        reachable = beams.live_scores[:, 0] / _penalty(max_length, length_penalty)
        return (beams.position < max_length) & jnp.any(reachable > beams.done_scores[:, -1])

    def extend(beams: _Beams) -> _Beams:
        tokens, scores, parents = _candidates(beams)
        ended = tokens[:, :, beams.position] == eos_id
        score = jnp.where(ended, scores / _penalty(beams.position + 1, length_penalty), NEVER)
        done_tokens, done_scores = _best(
            jnp.concatenate([beams.done_tokens, tokens], axis=1), jnp.concatenate([beams.done_scores, score], axis=1)
        )
        live_scores, chosen = jax.lax.top_k(jnp.where(ended, NEVER, scores), num_beams)
        live_tokens = jnp.take_along_axis(tokens, chosen[..., None], axis=1)
        rows = jnp.take_along_axis(parents, chosen, axis=1) + jnp.arange(batch)[:, None] * num_beams
        logits, cache = step(live_tokens[:, :, beams.position].reshape(-1), beams.cache.select_rows(rows.reshape(-1)))
        logits = logits.reshape(batch, num_beams, -1)
        return _Beams(beams.position + 1, live_tokens, live_scores, done_tokens, done_scores, logits, cache)

    beams = jax.lax.while_loop(unfinished, extend, start)
    any_done = beams.done_scores[:, :1] > NEVER / 2
    return (
        jnp.where(any_done[..., None], beams.done_tokens, beams.live_tokens),
        jnp.where(any_done, beams.done_scores, beams.live_scores),
    )


def _penalty(length: int | Int[Array, ""], alpha: float) -> Float[Array, ""]:
    return ((5.0 + jnp.asarray(length, jnp.float32)) / 6.0) ** alpha


def _candidates(beams: _Beams) -> tuple[Int[Array, "B M T"], Float[Array, "B M"], Int[Array, "B M"]]:
    """The 2N best one-token extensions: enough that N of them live on even if N end here."""
    _, num_beams, vocabulary = beams.logits.shape
    scores = beams.live_scores[..., None] + jax.nn.log_softmax(beams.logits, axis=-1)
    scores, flat = jax.lax.top_k(scores.reshape(scores.shape[0], -1), 2 * num_beams)
    parents, token = flat // vocabulary, (flat % vocabulary).astype(jnp.int32)
    tokens = jnp.take_along_axis(beams.live_tokens, parents[..., None], axis=1)
    return jax.lax.dynamic_update_slice(tokens, token[..., None], (0, 0, beams.position)), scores, parents


def _best(tokens: Int[Array, "B M T"], scores: Float[Array, "B M"]) -> tuple[Int[Array, "B N T"], Float[Array, "B N"]]:
    """The N best of 3N hypotheses."""
    scores, chosen = jax.lax.top_k(scores, scores.shape[1] // 3)
    return jnp.take_along_axis(tokens, chosen[..., None], axis=1), scores
