"""Candidates: texts that the frozen LM samples under a trained module, p1; on disk as they are made.

    questions ──p1 at a temperature──▶ samples 0 ... n - 1 of each, with their log-probabilities ──▶ `grouping`

    DIRECTORY/sampled-1f0c63a9b2d4/    samples 0 ... 3 of every question, see `retrieval.chunks`
             /sampled-77aa01b3c5d6/    samples 4 ... 15; then 16 ... 63, and so on
             /greedy-0be2f1aa9c41/     the answer that is written without drawing

What is drawn depends on (seed, question, number of the sample, step). Samples are made in blocks that are the same
whatever n is, so that those of n = 4 are the first of n = 16 to the last bit, and n = 64 after 16 makes 48 more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jaxtyping import Float

from frozen_jax import checkpoints, freezing, partitioning
from frozen_jax.batching import Tokens
from frozen_jax.errors import UserError
from frozen_jax.lm.base import GREEDY
from frozen_jax.lm.decoding import Sample, Strategy
from frozen_jax.methods.base import Method
from frozen_jax.ordering import random_bits
from frozen_jax.retrieval.chunks import Chunks, Rows
from frozen_jax.retrieval.evidence import digest
from frozen_jax.tokenizer import encoder_tokenizer, lm_tokenizer

_QUESTIONS = 64  # a chunk: with 48 samples each, a minute for a small LM on two cores


class Samples(NamedTuple):
    """Texts, C for each of B questions.

    Attributes:
        texts: as the LM wrote them, without spaces around them.
        log_probs: of each text under the LM with p1 at temperature 1, in nats.
    """

    texts: list[list[str]]
    log_probs: Float[np.ndarray, "B C"]

    def first(self, count: int) -> Samples:
        """The first samples of each question.

        Args:
            count: how many.

        Returns:
            They.
        """
        return Samples([texts[:count] for texts in self.texts], self.log_probs[:, :count])


@gin.configurable
class Proposer:
    """Samples candidates under p1, a module of the LM that shall choose among them.

    Attributes:
        method: around the LM, with whatever parameters: those of the checkpoint are put in when it samples.
        directory: where samples are kept.
    """

    def __init__(
        self,
        method: Method,
        checkpoint: str | Callable[[], Any],
        directory: epath.PathLike,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_length: int = 16,
        seed: int = 0,
        rows: int = 64,
    ) -> None:
        """Looks at the checkpoint, where it is there already.

        Args:
            method: what p1 is, such as prompt tuning; it holds the one copy of the LM.
            checkpoint: a run's folder or saved step, or what makes one when it is first wanted (in gin, `@p1/train`).
            directory: where samples are kept, local or gs://.
            temperature: of the samples.
            top_p: see `Sample`.
            max_length: the most tokens of a sample.
            seed: of the samples.
            rows: samples that are written at once; accelerators want more. Changes no more than rounding does.

        Raises:
            UserError: if the checkpoint is none, of another LM, or holds other parameters than p1 trains.
        """
        self.method, self.directory = method, directory
        self._checkpoint, self._max_length, self._rows = checkpoint, max_length, rows
        self._sample = functools.partial(Sample, temperature=temperature, top_p=top_p, seed=seed)
        self._sample()  # tells of numbers out of range
        if not callable(checkpoint):
            _ = self._trained

    @functools.cached_property
    def _path(self) -> str:
        return str(self._checkpoint() if callable(self._checkpoint) else self._checkpoint)

    @functools.cached_property
    def _trained(self) -> dict[str, Float[np.ndarray, "..."]]:
        """What p1's training has left, on the host: few numbers."""
        wanted = freezing.split(self.method, self._mask())[1]
        try:
            found = checkpoints.load_trained(self._path, self.method)
        except UserError as error:
            raise UserError(f"p1, Proposer.checkpoint: {error}") from error
        shapes = [{name: tuple(array.shape) for name, array in tree.items()} for tree in (found, wanted)]
        if shapes[0] != shapes[1]:
            what = type(self.method).__name__
            raise UserError(f"p1, Proposer.checkpoint: {self._path} holds {shapes[0]}; {what} trains {shapes[1]}")
        return found

    @property
    def made(self) -> Mapping[str, Any]:
        """Everything but their number that decides the samples of a question, as JSON."""
        return {**self._made(), "sample": repr(self._sample())}

    def _made(self) -> dict[str, Any]:
        method = self.method
        return {
            "method": type(method).__name__,
            "settings": [list(setting) for setting in method.settings],
            "lms": [held["fingerprint"] for held in checkpoints.frozen_lms(method).values()],
            "dtypes": sorted({str(leaf.dtype) for leaf in jax.tree.leaves(nnx.state(method))}),
            "ends": [method.eos_id, *method.stop_ids],
            "trained": freezing.digest(self._trained),
            "tokenizer": lm_tokenizer().sha256,
            "max_length": self._max_length,
        }

    def check_half(self, half: int) -> None:
        """Makes sure that p1 has seen no other than one half of the training examples.

        Args:
            half: the one that it may have seen, see `ordering.half`.

        Raises:
            UserError: if it was trained on others.
        """
        _ = self._trained
        seen = checkpoints.read_description(checkpoints.find(self._path))["train_half"]
        if seen != half:
            raise UserError(
                f"p1 of half {half}: {self._path} was trained with TaskData.train_half = {seen}; its candidates for "
                f"training examples that it has seen would be too good; train it with TaskData.train_half = {half}"
            )

    def propose(self, questions: Sequence[str], n: int, kept: bool = True) -> Samples:
        """Samples candidates, going on where an earlier run stopped.

        Args:
            questions: B of them.
            n: samples for each.
            kept: keep them on disk; not worth it for a single question.

        Returns:
            The samples, n for each question.

        Raises:
            UserError: as the constructor, for a checkpoint that had to be made first; for logits that are no numbers.
        """
        strategies = [self._sample(n=len(block), first=block.start) for block in _blocks(n)]
        parts = [self._written("sampled", questions, strategy, kept) for strategy in strategies]
        texts = [[text.decode() for part in parts for text in part["text"][row]] for row in range(len(questions))]
        return Samples(texts, np.concatenate([part["log_prob"] for part in parts], axis=1)).first(n)

    def greedy(self, questions: Sequence[str]) -> list[str]:
        """What p1 answers without drawing.

        Args:
            questions: any.

        Returns:
            An answer for each.

        Raises:
            UserError: as `propose`.
        """
        return [text.decode() for text in self._written("greedy", questions, GREEDY, True)["text"][:, 0]]

    def _written(self, name: str, questions: Sequence[str], strategy: Strategy, kept: bool) -> Rows:
        # Not held longer than it samples: on CPU, decoding takes the LM apart for it, which is another copy.
        model = functools.cache(self._with_trained) if kept else lambda: self._held

        def compute(rows: range) -> Rows:
            return self._write(model(), questions[rows.start : rows.stop], strategy)

        if not kept:
            return compute(range(len(questions)))
        asked = digest([repr((question, self._tokens(question).tolist())) for question in questions])
        made = {"p1": self._made(), "strategy": repr(strategy), "questions": asked}
        chunks = Chunks(self.directory, name, made, len(questions), _QUESTIONS)
        chunks.fill(compute, "question")
        return chunks.whole()

    def _write(self, model: Method, questions: Sequence[str], strategy: Strategy) -> Rows:
        """Texts of some questions, and what each of them costs the LM."""
        texts: list[list[bytes]] = [[]] * len(questions)
        log_probs = np.zeros((len(questions), strategy.results), np.float32)
        written = model.generate_many(
            [self._tokens(question) for question in questions],
            max_length=self._max_length,
            slots=max(1, self._rows // strategy.rows),
            strategy=strategy,
            encoder_inputs=_encoder_inputs(questions),
            ids=[int(random_bits(1, "candidates", question)[0] >> np.uint64(33)) for question in questions],
        )
        for number, found in written:
            rows = [row[:length].tolist() for row, length in zip(found.tokens, found.lengths, strict=True)]
            texts[number] = [lm_tokenizer().decode(row).strip().encode() for row in rows]
            log_probs[number] = found.log_probs.sum(axis=1)
        return {"text": np.array(texts), "log_prob": log_probs}

    def _tokens(self, question: str) -> Tokens:
        """As in p1's training, but that nothing is cut."""
        tokenizer = lm_tokenizer()
        return tokenizer.framed(np.array([*tokenizer.encode(question), tokenizer.eos_id], np.int32))

    def _with_trained(self) -> Method:
        """p1 around the LM, on the LM's mesh."""
        graphdef, _, frozen = freezing.split(self.method, self._mask())
        mesh = partitioning.mesh_of(jax.tree.leaves(nnx.state(self.method.lm))[0])
        trained = jax.tree.map(jnp.asarray, self._trained) if mesh is None else partitioning.place(self._trained, mesh)
        return freezing.merge(graphdef, trained, frozen)

    @functools.cached_property
    def _held(self) -> Method:
        """For people who ask one question after the other."""
        return self._with_trained()

    def _mask(self) -> freezing.Mask:
        return freezing.trainable_mask(self.method, self.method.rules)


def _blocks(n: int) -> Iterator[range]:
    """0 ... 3, 4 ... 15, 16 ... 63, ...: as many as n needs."""
    start, stop = 0, 4
    while start < n:
        yield range(start, stop)
        start, stop = stop, 4 * stop


def _encoder_inputs(questions: Sequence[str]) -> list[Tokens] | None:
    """For a p1 whose encoder has a vocabulary of its own, which gin then binds."""
    if gin.get_bindings("encoder_tokenizer").get("source") is None:
        return None
    tokenizer = encoder_tokenizer()
    return [np.array([*tokenizer.encode(question), tokenizer.eos_id], np.int32) for question in questions]
