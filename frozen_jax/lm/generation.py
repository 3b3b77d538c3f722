"""Writing texts: prefill, a loop on the device, and rows that are filled again as soon as their text has ended.

    inputs ──prefill──▶ cache, first token ──one compiled loop──▶ all ended, or enough rows are free
                                                   ▲                        │
                                                   └── inputs that waited ◀─┘

Every input has `strategy.rows` rows. The loop comes back to the host when all rows have ended, when as many inputs have
ended as the next prefill takes, or, where texts end at strings, every few steps. Neither batch size nor order nor
batch-mates change what is written, since every row has its own position and its own draws.
"""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from frozen_jax.batching import SMALLEST_BUCKET, Tokens, pad, rounded_up
from frozen_jax.errors import UserError
from frozen_jax.lm.decoding import Limits, Strategy, Texts
from frozen_jax.lm.layers import take_apart
from frozen_jax.partitioning import spread_rows
from frozen_jax.processes import whole
from frozen_jax.types import Array, EncoderInputs

_STEPS_BETWEEN_LOOKS = 8  # where texts end at strings, which only the host can see
_FEW_WIDTHS = 256  # tokens, up to which a program of its own would take longer than the padding that it saves
_REFILL_SHARE = 4  # a prefill takes a quarter of the rows: fewer would cost more calls, more would wait for each other


class Generated(NamedTuple):
    """Texts as tokens; `results` consecutive rows for each input.

    Attributes:
        tokens: padded behind each text's end; the token that ended it is kept.
        lengths: tokens of each text.
        log_probs: of each token under the LM itself, in nats; 0 at padding.
    """

    tokens: Int[np.ndarray, "R T"]
    lengths: Int[np.ndarray, " R"]
    log_probs: Float[np.ndarray, "R T"]


@dataclasses.dataclass(frozen=True)
class Stop:
    """What ends a text besides the LM's end-of-sequence token.

    Attributes:
        ids: tokens; they are kept, as the end-of-sequence token is.
        strings: texts; they are left out by `cut`, and so is all that follows.
        decode: token ids to text, for `strings`.
    """

    ids: tuple[int, ...] = ()
    strings: tuple[str, ...] = ()
    decode: Callable[[Sequence[int]], str] | None = None

    def __post_init__(self) -> None:
        """Raises UserError for a string that every text holds."""
        if "" in self.strings:
            raise UserError("Stop: an empty string ends every text before it begins; leave it out")

    def cut(self, text: str) -> str:
        """Returns the text up to the first of the strings."""
        found = [place for string in self.strings if (place := text.find(string)) >= 0]
        return text[: min(found, default=len(text))]

    def length(self, tokens: Sequence[int]) -> int | None:
        """Returns of how many tokens the shortest beginning is that holds one of the strings; None if there is none."""
        assert self.decode is not None, "checked where generation begins"
        if self.cut(text := self.decode(tokens)) == text:
            return None
        few, many = 0, len(tokens)  # of `few` tokens none is made, of `many` one is
        while many - few > 1:
            middle = (few + many) // 2
            text = self.decode(tokens[:middle])
            few, many = (few, middle) if self.cut(text) != text else (middle, many)
        return many


class Running(NamedTuple):
    """What is on the device between two calls.

    Attributes:
        cache: the LM's.
        state: the strategy's.
        feed: the token that each row reads next.
    """

    cache: Any
    state: Any
    feed: Int[Array, " R"]


class Read(NamedTuple):
    """What a prefill reads.

    Attributes:
        inputs: token ids, padded on the right.
        mask: True where one is real.
        ids: the examples' numbers.
        encoder_inputs: see `LanguageModel.read`.
    """

    inputs: Int[Array, "B S"]
    mask: Bool[Array, "B S"]
    ids: Int[Array, " B"]
    encoder_inputs: EncoderInputs | None


class Writer:
    """One model, one strategy, one limit: what is compiled, and what all batches share, is kept between them."""

    def __init__(self, model: Any, strategy: Strategy, max_length: int, stop: Stop) -> None:
        """Reads the prompt that stands in front of every input alike, where the model has one.

        Args:
            model: a `LanguageModel`.
            strategy: how tokens are chosen.
            max_length: T, the most tokens of a text.
            stop: what ends a text.

        Raises:
            UserError: if max_length is less than one, or a text is to end at strings that nothing decodes.
        """
        if max_length < 1:
            raise UserError(f"generate: max_length is {max_length}; it must be at least 1")
        if stop.strings and stop.decode is None:
            raise UserError("Stop: strings are looked for in text; give `decode`, which makes text of tokens")
        self.strategy, self.stop = strategy, stop
        self.limits = Limits(max_length, (model.eos_id, *model.stop_ids, *stop.ids), model.pad_id)
        self._graphdef, self._state = _for_decoding(model)
        self._static = (self._graphdef, strategy, self.limits)
        self._prompt = read_prompt_once(self._graphdef, self._state)

    def write(
        self,
        inputs: Int[np.ndarray, "B S"],
        mask: Bool[Array, "B S"],
        encoder_inputs: EncoderInputs | None = None,
        ids: Int[Array, " B"] | None = None,
    ) -> Generated:
        """Writes the texts of one batch; see `LanguageModel.generate`."""
        ids = np.arange(len(inputs), dtype=np.int32) if ids is None else np.asarray(ids, np.int32)
        shared = bool(np.all(np.any(np.asarray(mask), axis=1)))
        running, ended = self.start(Read(inputs, mask, ids, encoder_inputs), shared), np.zeros(len(inputs), bool)
        while not ended.all():
            running, ended = self.go_on(running, len(inputs))
        found = [text for _, text in self.results(running, range(len(inputs)))]
        return Generated(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def start(self, read: Read, shared: bool) -> Running:
        """Reads inputs and writes the first token of each text.

        Args:
            read: the inputs.
            shared: whether the shared prompt, where there is one, is not read again; the same for all that run
                together, and False if an input is empty: the prompt itself predicts its first token.
        """
        prompt = self._prompt if shared else None
        rows: Any = spread_rows(read, like=jax.tree.leaves(self._state)[0])
        return start_texts(*self._static, self._state, prompt, Read(*rows))

    def go_on(self, running: Running, ended: int) -> tuple[Running, Bool[np.ndarray, " B"]]:
        """Writes until so many inputs have ended; returns which.

        Raises:
            UserError: for logits that are not numbers.
        """
        steps = _STEPS_BETWEEN_LOOKS if self.stop.strings else self.limits.max_length
        running = write_on(*self._static, self._state, running, np.int32(ended), np.int32(steps))
        texts = self.strategy.texts(running.state)
        if self.stop.strings and isinstance(running.state, Texts):  # hypotheses of a beam are only cut, at the end
            running = self._looked_at(running, texts)
            texts = self.strategy.texts(running.state)
        failed = whole(texts.failed)
        if failed.any():
            example, length = (int(whole(x)[failed.argmax()]) for x in (texts.ids, texts.lengths.max(axis=1)))
            raise UserError(
                f"input {example}: the logits of its token {length} are not numbers; are the weights whole?"
            )
        return running, whole(texts.all_ended())

    def refill(self, running: Running, new: Running, places: Int[np.ndarray, " N"]) -> Running:
        """Puts new inputs in the place of those that have ended."""
        return _refill(self.strategy.rows, running, new, places)

    def results(self, running: Running, places: Sequence[int]) -> Iterator[tuple[int, Generated]]:
        """Yields what some inputs have written."""
        texts = self.strategy.texts(running.state)
        written = [whole(part) for part in (texts.tokens, texts.lengths, texts.log_probs)]
        for place in places:
            yield place, self._ended(*(part[place] for part in written))

    def _ended(
        self, tokens: Int[np.ndarray, "N T"], lengths: Int[np.ndarray, " N"], log_probs: Float[np.ndarray, "N T"]
    ) -> Generated:
        """Leaves out what stands behind a string that ends a text."""
        if self.stop.strings:
            rows = [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]
            lengths = np.array([self.stop.length(row) or len(row) for row in rows], np.int32)
        behind = np.arange(tokens.shape[1]) >= lengths[:, None]
        return Generated(np.where(behind, self.limits.pad_id, tokens), lengths, np.where(behind, 0.0, log_probs))

    def _looked_at(self, running: Running, texts: Texts) -> Running:
        """Ends the rows that have written one of the strings."""
        tokens, lengths, ended = (whole(part) for part in (texts.tokens, texts.lengths, texts.ended))
        found = [
            bool(done) or self.stop.length(row[:length].tolist()) is not None
            for row, length, done in zip(
                tokens.reshape(-1, tokens.shape[2]), lengths.ravel(), ended.ravel(), strict=True
            )
        ]
        return running._replace(state=running.state._replace(ended=jnp.asarray(found).reshape(ended.shape)))


def generate_many(
    writer: Writer,
    inputs: Sequence[Tokens],
    slots: int,
    *,
    encoder_inputs: Sequence[Tokens] | None = None,
    ids: Sequence[int] | None = None,
) -> Iterator[tuple[int, Generated]]:
    """Writes texts for any number of inputs; see `LanguageModel.generate_many`."""
    batches = _Batches(inputs, encoder_inputs, range(len(inputs)) if ids is None else ids, writer.limits.pad_id)
    waiting = sorted(range(len(inputs)), key=lambda one: -len(inputs[one]))  # what does not fit shows at once
    slots = min(slots, len(waiting))
    if not slots:
        return
    shared = len(inputs[waiting[-1]]) > 0
    refill = max(1, slots // _REFILL_SHARE)
    at_work, waiting = dict(enumerate(waiting[:slots])), waiting[slots:]  # which input is in which place
    running = writer.start(batches.of(list(at_work.values()), slots), shared)
    while at_work:
        running, ended = writer.go_on(running, min(refill, len(waiting)) or slots)  # free places count as ended
        for place, found in writer.results(running, [place for place in at_work if ended[place]]):
            yield at_work.pop(place), found
        free = [place for place in range(slots) if place not in at_work]
        while waiting and len(free) >= min(refill, len(waiting)):
            taken, waiting = waiting[:refill], waiting[refill:]
            places, free = free[: len(taken)], free[len(taken) :]
            at_work |= zip(places, taken, strict=True)
            nowhere = [slots] * (refill - len(taken))
            new = writer.start(batches.of(taken, refill), shared)
            running = writer.refill(running, new, np.array([*places, *nowhere], np.int32))


def width_of(longest: int) -> int:
    """Returns to how many tokens inputs are padded: few widths for short ones, at most an eighth more for long ones.

    Packed passages fill 512 tokens, to which a template adds 30: as wide as 768 they would take half as long again.

    Args:
        longest: tokens of the longest input, 1 or more.
    """
    if longest <= _FEW_WIDTHS:
        return max(SMALLEST_BUCKET, rounded_up(longest))
    step = (1 << (longest - 1).bit_length()) // 16
    return -(-longest // step) * step


class _Batches:
    """Inputs of different lengths as arrays of few shapes."""

    def __init__(
        self,
        inputs: Sequence[Tokens],
        encoder_inputs: Sequence[Tokens] | None,
        ids: Sequence[int],
        pad_id: int,
    ) -> None:
        self._inputs, self._encoder_inputs, self._ids, self._pad_id = inputs, encoder_inputs, ids, pad_id

    def of(self, chosen: Sequence[int], rows: int) -> Read:
        """Returns some inputs, the longest first, filled up to so many rows by copies of the first."""
        filled = [*chosen, *[chosen[0]] * (rows - len(chosen))]
        tokens, mask = self._padded([self._inputs[one] for one in filled], self._pad_id)
        encoder_inputs = None
        if self._encoder_inputs is not None:
            encoder_inputs = EncoderInputs(*self._padded([self._encoder_inputs[one] for one in filled], 0))
        return Read(tokens, mask, np.array([self._ids[one] for one in filled], np.int32), encoder_inputs)

    @staticmethod
    def _padded(rows: Sequence[Tokens], pad_id: int) -> tuple[Int[np.ndarray, "B S"], Bool[np.ndarray, "B S"]]:
        return pad(rows, width_of(max(1, *map(len, rows))), pad_id)


_APART: weakref.WeakKeyDictionary[Any, tuple[list[Any], Any]] = weakref.WeakKeyDictionary()


def _for_decoding(model: Any) -> tuple[Any, Any]:
    """The model, split; on CPU with its decoder's layers apart, which are kept as long as the model and its weights."""
    if jax.default_backend() != "cpu":
        return nnx.split(model)
    weights = jax.tree.leaves(nnx.state(model))
    kept, found = _APART.get(model, ([], None))
    if len(kept) != len(weights) or any(one is not other for one, other in zip(kept, weights, strict=True)):
        found = nnx.split(take_apart(model))
        _APART[model] = weights, found
    return found


@functools.partial(jax.jit, static_argnums=0)
def read_prompt_once(graphdef: Any, state: Any) -> Any:
    """Reads the prompt that all inputs share; None where there is none, or the LM cannot read it apart."""
    model = nnx.merge(graphdef, state)
    prompt = model.shared_prompt()
    return None if prompt is None else model.read_prompt(prompt)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def start_texts(graphdef: Any, strategy: Strategy, limits: Limits, state: Any, prompt: Any, read: Read) -> Running:
    """Reads inputs and writes the first token of each text."""
    model = nnx.merge(graphdef, state)
    embeddings, mask = model.read(read.inputs, read.mask, read.encoder_inputs)
    if prompt is not None:
        embeddings, mask = (part[:, model.shared_prompt().shape[0] :] for part in (embeddings, mask))
        prompt = jax.tree.map(jnp.copy, prompt)  # what is running is donated, and must not take this along
    hidden, cache = model.prefill(
        embeddings, mask, max_length=limits.max_length, rows_per_input=strategy.rows, prompt=prompt
    )
    begun = strategy.write(strategy.begin(read.ids, limits), model.unembed(hidden), limits)
    return Running(cache, begun.state, begun.feed)  # before the first token all rows of an input are alike


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def write_on(
    graphdef: Any,
    strategy: Strategy,
    limits: Limits,
    state: Any,
    running: Running,
    ended: Int[Array, ""],
    steps: Int[Array, ""],
) -> Running:
    """Feeds and writes until so many inputs have ended, or so many steps are taken."""
    model = nnx.merge(graphdef, state)

    def wanted(carry: tuple[Int[Array, ""], Running]) -> Bool[Array, ""]:
        taken, running = carry
        return (taken < steps) & (jnp.sum(strategy.texts(running.state).all_ended()) < ended)

    def step(carry: tuple[Int[Array, ""], Running]) -> tuple[Int[Array, ""], Running]:
        taken, running = carry
        hidden, cache = model.decode_step(model.embed(running.feed), running.cache)
        written = strategy.write(running.state, model.unembed(hidden), limits)
        if written.rows is not None:
            cache = cache.select_rows(written.rows)
        return taken + 1, Running(cache, written.state, written.feed)

    return jax.lax.while_loop(wanted, step, (jnp.int32(0), running))[1]


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _refill(rows: int, running: Running, new: Running, places: Int[Array, " N"]) -> Running:
    """Puts new inputs in these places; those beyond the last go nowhere."""
    row_places = (places[:, None] * rows + jnp.arange(rows)[None]).reshape(-1)
    return Running(
        running.cache.insert(new.cache, places, row_places),
        jax.tree.map(lambda old, new: old.at[places].set(new, mode="drop"), running.state, new.state),
        jnp.asarray(running.feed).at[row_places].set(new.feed, mode="drop"),
    )
