"""How the next token is chosen: greedily, by sampling, or by beam search. What runs on the device at every step.

A strategy says how many rows each input has, and keeps what they have written. It never sees a model: it is handed the
logits of all rows and hands back the token that each row is fed next.

    greedy    1 row an input
    sample    n rows an input, drawn independently
    beam      num_beams rows an input, of which the best n are returned

Every row has its own position, so rows may begin at any time; what is drawn for a row depends on (seed, example,
sample, position) and on nothing else.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from frozen_jax.errors import UserError
from frozen_jax.types import Array

NEVER = -1e7  # score of a beam that is not there, as T5X
_BLOCK = 256  # tokens; sampling looks for the block first, then inside it


class Texts(NamedTuple):
    """What the rows of every input have written; N rows an input, T tokens at most.

    Attributes:
        tokens: padded behind a text's end; the token that ends it is kept.
        log_probs: of each token, under the LM itself (temperature 1, nothing left out), in nats; 0 at padding.
        lengths: tokens of each text.
        ended: whether a row writes no more.
        failed: whether logits of the input were not numbers; it has then ended.
        ids: the example's number, for what is drawn.
    """

    tokens: Int[Array, "B N T"]
    log_probs: Float[Array, "B N T"]
    lengths: Int[Array, "B N"]
    ended: Bool[Array, "B N"]
    failed: Bool[Array, " B"]
    ids: Int[Array, " B"]

    def all_ended(self) -> Bool[Array, " B"]:
        """Returns which inputs need no more steps."""
        return jnp.all(self.ended, axis=1)

    def next_places(self) -> Bool[Array, "B N T"]:
        """Returns where each row's next token goes."""
        return jnp.arange(self.tokens.shape[2])[None, None] == self.lengths[..., None]


@dataclasses.dataclass(frozen=True)
class Limits:
    """Where texts end.

    Attributes:
        max_length: T, the most tokens.
        stop_ids: tokens that end a text, the LM's end-of-sequence token among them.
        pad_id: what stands behind.
    """

    max_length: int
    stop_ids: tuple[int, ...]
    pad_id: int

    def ends(self, tokens: Int[Array, "*rows"]) -> Bool[Array, "*rows"]:
        """Returns which tokens end a text."""
        return functools.reduce(jnp.logical_or, [tokens == token for token in self.stop_ids])


class Strategy(abc.ABC):
    """How tokens are chosen. Instances are compared by what they say, since compiled functions are found by them."""

    @property
    def rows(self) -> int:
        """Rows an input."""
        return 1

    @property
    def results(self) -> int:
        """Texts an input."""
        return self.rows

    def begin(self, ids: Int[Array, " B"], limits: Limits) -> Any:
        """Returns what is kept, before anything is written: a tuple with a `texts: Texts`, or such texts."""
        return no_texts(ids, self.rows, limits)

    @abc.abstractmethod
    def write(self, state: Any, logits: Float[Array, "R V"], limits: Limits) -> Written:
        """Writes one token in every row that has not ended."""

    def texts(self, state: Any) -> Texts:
        """Returns what was written, `results` texts an input."""
        return state


class Written(NamedTuple):
    """What a step gives.

    Attributes:
        state: the strategy's.
        feed: the token that each row reads next.
        rows: where each row's past is now, if not in itself.
    """

    state: Any
    feed: Int[Array, " R"]
    rows: Int[Array, " R"] | None


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Greedy(Strategy):
    """Writes the likeliest token; of several, the one of the lowest number."""

    def write(self, state: Texts, logits: Float[Array, "R V"], limits: Limits) -> Written:
        """Writes the likeliest token."""
        return _append(state, _first_of_largest(logits), logits, limits)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Sample(Strategy):
    """Draws tokens.

    Attributes:
        temperature: logits are divided by it.
        top_k: draw among the k likeliest tokens, and what is as likely as the last of them; None is all.
        top_p: draw among the fewest tokens that have this probability together, after `top_k`.
        n: texts an input, which is read once for all of them.
        seed: draws the same for the same example, whatever the batch.
        first: number of the first text: those from 4 on are drawn as they are behind four others.

    Raises:
        UserError: for a number out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    n: int = 1
    seed: int = 0
    first: int = 0

    def __post_init__(self) -> None:
        """Checks the numbers."""
        if not self.temperature > 0:
            raise UserError(
                f"Sample: temperature is {self.temperature}; it must be above 0, and @Greedy() draws nothing"
            )
        if not 0 < self.top_p <= 1:
            raise UserError(f"Sample: top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.n < 1 or (self.top_k is not None and self.top_k < 1):
            raise UserError(f"Sample: n is {self.n} and top_k {self.top_k}; both must be at least 1")

    @property
    def rows(self) -> int:
        """Rows an input."""
        return self.n

    def write(self, state: Texts, logits: Float[Array, "R V"], limits: Limits) -> Written:
        """Draws a token."""
        return _append(state, _drawn(self.probabilities(logits), self._uniform(state)), logits, limits)

    def probabilities(self, logits: Float[Array, "R V"]) -> Float[Array, "R V"]:
        """Returns with what probabilities tokens are drawn, up to a factor."""
        scaled = logits.astype(jnp.float32) / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[1]:
            scaled = jnp.where(scaled < jax.lax.top_k(scaled, self.top_k)[0][:, -1:], -jnp.inf, scaled)
        found = jax.nn.softmax(scaled, axis=-1)
        return found if self.top_p == 1 else _likeliest(found, self.top_p)

    def _uniform(self, texts: Texts) -> Float[Array, " R"]:
        """One number in [0, 1) for each row."""
        samples = jnp.broadcast_to(self.first + jnp.arange(self.n)[None], texts.lengths.shape)
        ids = jnp.broadcast_to(texts.ids[:, None], samples.shape)

        def draw(example: Int[Array, ""], sample: Int[Array, ""], position: Int[Array, ""]) -> Float[Array, ""]:
            key = jax.random.key(self.seed)
            for number in (example, sample, position):
                key = jax.random.fold_in(key, number)
            return jax.random.uniform(key)

        return jax.vmap(draw)(ids.reshape(-1), samples.reshape(-1), texts.lengths.reshape(-1))


def no_texts(ids: Int[Array, " B"], rows: int, limits: Limits) -> Texts:
    """Returns texts of no tokens."""
    shape = (len(ids), rows)
    return Texts(
        tokens=jnp.full((*shape, limits.max_length), limits.pad_id, jnp.int32),
        log_probs=jnp.zeros((*shape, limits.max_length), jnp.float32),
        lengths=jnp.zeros(shape, jnp.int32),
        ended=jnp.zeros(shape, bool),
        failed=jnp.zeros(len(ids), bool),
        ids=ids,
    )


def _first_of_largest(logits: Float[Array, "R V"]) -> Int[Array, " R"]:
    """The argmax, as two reductions that CPUs do in vectors: in less than half of its time."""
    largest = jnp.max(logits, axis=-1, keepdims=True)
    return jnp.min(jnp.where(logits == largest, jnp.arange(logits.shape[1])[None], logits.shape[1] - 1), axis=-1)


def _append(texts: Texts, chosen: Int[Array, " R"], logits: Float[Array, "R V"], limits: Limits) -> Written:
    """Writes the chosen tokens where rows have not ended."""
    shape = texts.lengths.shape
    logits = logits.astype(jnp.float32)
    of_chosen = jnp.take_along_axis(logits, chosen[:, None], axis=1)[:, 0] - jax.nn.logsumexp(logits, axis=-1)
    feed = jnp.where(texts.ended.reshape(-1), limits.pad_id, chosen).astype(jnp.int32)
    failed = texts.failed | jnp.any(jnp.isnan(of_chosen).reshape(shape) & ~texts.ended, axis=1)
    here = texts.next_places() & ~texts.ended[..., None]
    lengths = texts.lengths + (~texts.ended).astype(jnp.int32)
    texts = texts._replace(
        tokens=jnp.where(here, feed.reshape(*shape, 1), texts.tokens),
        log_probs=jnp.where(here, of_chosen.reshape(*shape, 1), texts.log_probs),
        lengths=lengths,
        ended=texts.ended | limits.ends(feed).reshape(shape) | (lengths == limits.max_length) | failed[:, None],
        failed=failed,
    )
    return Written(texts, feed, None)


def _likeliest(probabilities: Float[Array, "R V"], together: float) -> Float[Array, "R V"]:
    """Leaves out all but the fewest tokens whose probabilities come to so much, without sorting the vocabulary.

    Positive floats are ordered as the integers of their bits: the least probability that stays is found bit by bit.
    """
    bits = jax.lax.bitcast_convert_type(probabilities, jnp.int32)

    def set_bit(place: Int[Array, ""], least: Int[Array, " R"]) -> Int[Array, " R"]:
        more = least | (jnp.int32(1) << (30 - place))
        enough = jnp.sum(jnp.where(bits >= more[:, None], probabilities, 0.0), axis=1) >= together
        return jnp.where(enough, more, least)

    least = jax.lax.fori_loop(0, 31, set_bit, jnp.zeros(len(bits), jnp.int32))
    return jnp.where(bits >= least[:, None], probabilities, 0.0)


def _drawn(probabilities: Float[Array, "R V"], uniform: Float[Array, " R"]) -> Int[Array, " R"]:
    """Draws by the inverse of the cumulative distribution, found in two steps: the block, then the token in it.

    One number a row is drawn, where Gumbel noise would take V of them, which costs as much as the head of a small LM.
    """
    blocks = jnp.pad(probabilities, ((0, 0), (0, -probabilities.shape[1] % _BLOCK)))
    blocks = blocks.reshape(len(blocks), -1, _BLOCK)
    ends = jnp.cumsum(jnp.sum(blocks, axis=2), axis=1)
    wanted = uniform[:, None] * ends[:, -1:]
    block = jnp.sum(ends[:, :-1] <= wanted, axis=1)[:, None]
    inside = jnp.take_along_axis(blocks, block[..., None], axis=1)[:, 0]
    before = jnp.take_along_axis(jnp.pad(ends, ((0, 0), (1, 0))), block, axis=1)
    # At the rounded end of a block, a token of no probability could be met: then the likeliest of the block is taken.
    place = jnp.sum(jnp.cumsum(inside, axis=1)[:, :-1] <= wanted - before, axis=1)[:, None]
    place = jnp.where(jnp.take_along_axis(inside, place, axis=1) > 0, place, jnp.argmax(inside, axis=1)[:, None])
    return (block * _BLOCK + place)[:, 0].astype(jnp.int32)


class _Beams(NamedTuple):
    """The state of a beam search; N beams, ordered best first.

    Attributes:
        live: hypotheses that go on, with their log-likelihoods.
        live_scores: log-likelihoods.
        done: hypotheses that have ended.
        done_scores: log-likelihood over length penalty; NEVER where no beam has ended.
    """

    live: Texts
    live_scores: Float[Array, "B N"]
    done: Texts
    done_scores: Float[Array, "B N"]


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Beam(Strategy):
    """Searches with `num_beams` live hypotheses an input and keeps the best that ended, with T5X's scores.

    Attributes:
        num_beams: N.
        length_penalty: texts are ranked by log-likelihood / ((5 + length) / 6) ** length_penalty (T5X's alpha).
        n: how many of the best are returned, at most N.

    Raises:
        UserError: for a number out of range.
    """

    num_beams: int = 4
    length_penalty: float = 0.6
    n: int = 1

    def __post_init__(self) -> None:
        """Checks the numbers."""
        if not 1 <= self.n <= self.num_beams:
            raise UserError(f"Beam: n is {self.n} and num_beams {self.num_beams}; 1 <= n <= num_beams is needed")

    @property
    def rows(self) -> int:
        """Rows an input."""
        return self.num_beams

    @property
    def results(self) -> int:
        """Texts an input."""
        return self.n

    def begin(self, ids: Int[Array, " B"], limits: Limits) -> _Beams:
        """Returns one empty hypothesis an input."""
        live = no_texts(ids, self.num_beams, limits)
        never = jnp.full((len(ids), self.num_beams), NEVER, jnp.float32)
        return _Beams(live, never.at[:, 0].set(0.0), live, never)

    def write(self, state: _Beams, logits: Float[Array, "R V"], limits: Limits) -> Written:
        """Extends the hypotheses by a token each and keeps the best."""
        batch, beams = state.live_scores.shape
        texts, scores, parents = self._candidates(state, logits.reshape(batch, beams, -1), limits)
        length = texts.lengths[:, :1]
        last = jnp.take_along_axis(texts.tokens, length[..., None] - 1, axis=2)[..., 0]
        ended = limits.ends(last)
        done, done_scores = _best(
            [state.done, texts],
            [state.done_scores, jnp.where(ended, scores / self._penalty(length), NEVER)],
            beams,
        )
        live_scores, chosen = jax.lax.top_k(jnp.where(ended, NEVER, scores), beams)
        live = _taken(texts, chosen)
        reachable = live_scores[:, 0] / self._penalty(jnp.int32(limits.max_length))
        failed = jnp.any(jnp.isnan(logits).reshape(batch, -1), axis=1)
        over = (length[:, 0] == limits.max_length) | (reachable <= done_scores[:, -1]) | failed
        live = live._replace(ended=jnp.broadcast_to(over[:, None], live.ended.shape), failed=failed)
        rows = jnp.take_along_axis(parents, chosen, axis=1)
        feed = jnp.take_along_axis(last, chosen, axis=1)
        frozen = state.live.all_ended()
        state = jax.tree.map(
            lambda old, new: _where(frozen, old, new), state, _Beams(live, live_scores, done, done_scores)
        )
        rows = jnp.where(frozen[:, None], jnp.arange(beams)[None], rows) + jnp.arange(batch)[:, None] * beams
        return Written(state, feed.reshape(-1), rows.reshape(-1))

    def texts(self, state: _Beams) -> Texts:
        """Returns the best that ended; where fewer have, then the best that were cut at the most tokens."""
        found, _ = _best([state.done, state.live], [state.done_scores, state.live_scores + NEVER / 2], self.n)
        return found._replace(ended=state.live.ended[:, : self.n], failed=state.live.failed)

    def _penalty(self, length: Int[Array, "*B"]) -> Float[Array, "*B"]:
        return ((5.0 + length.astype(jnp.float32)) / 6.0) ** self.length_penalty

    def _candidates(
        self, state: _Beams, logits: Float[Array, "B N V"], limits: Limits
    ) -> tuple[Texts, Float[Array, "B M"], Int[Array, "B M"]]:
        """The 2N best one-token extensions: enough that N of them live on even if N end here."""
        _, beams, vocabulary = logits.shape
        log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
        extended = (state.live_scores[..., None] + log_probs).reshape(len(logits), -1)
        scores, flat = jax.lax.top_k(extended, 2 * beams)
        parents, tokens = flat // vocabulary, (flat % vocabulary).astype(jnp.int32)
        texts = _taken(state.live, parents)
        here = texts.next_places()
        of_tokens = jnp.take_along_axis(log_probs.reshape(len(logits), -1), flat, axis=1)
        texts = texts._replace(
            tokens=jnp.where(here, tokens[..., None], texts.tokens),
            log_probs=jnp.where(here, of_tokens[..., None], texts.log_probs),
            lengths=texts.lengths + 1,
        )
        return texts, scores, parents


def _taken(texts: Texts, rows: Int[Array, "B M"]) -> Texts:
    """Takes rows of each input."""

    def take(leaf: Shaped[Array, "B N *rest"]) -> Shaped[Array, "B M *rest"]:
        return jnp.take_along_axis(leaf, rows.reshape(*rows.shape, *(1,) * (leaf.ndim - 2)), axis=1)

    return jax.tree.map(lambda leaf: take(leaf) if leaf.ndim > 1 else leaf, texts)


def _best(
    texts: Sequence[Texts], scores: Sequence[Float[Array, "B _N"]], count: int
) -> tuple[Texts, Float[Array, "B N"]]:
    """The best of several sets of hypotheses."""
    found, chosen = jax.lax.top_k(jnp.concatenate(scores, axis=1), count)
    together = jax.tree.map(lambda *leaf: jnp.concatenate(leaf, axis=1) if leaf[0].ndim > 1 else leaf[0], *texts)
    return _taken(together, chosen), found


def _where(
    which: Bool[Array, " B"], one: Shaped[Array, "B *rest"], other: Shaped[Array, "B *rest"]
) -> Shaped[Array, "B *rest"]:
    return jnp.where(which.reshape(-1, *(1,) * (one.ndim - 1)), one, other)
