"""Re-ranking: an LM reads a question and a passage together, and says whether the passage is of use.

    "Query: {question} Document: {passage} Relevant:" ──LM──▶ "true" or "false" ──log softmax over the two──▶ score

As monoT5 does it (Nogueira et al. 2020), whose checkpoints load as they are: a T5 that was fine-tuned to write one of
two words. The project's own trainer makes one by `FineTuning`, of a task whose inputs are in the same template; an LM
that only decodes serves as well. A passage that is too long loses its last words, never the question, nor what stands
behind the passage.
"""

from __future__ import annotations

import bisect
import functools
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from frozen_jax import checkpoints, freezing, progress
from frozen_jax.batching import Tokens, pad, rounded_up
from frozen_jax.errors import UserError
from frozen_jax.lm.base import LanguageModel
from frozen_jax.methods.base import Method
from frozen_jax.partitioning import put
from frozen_jax.processes import whole
from frozen_jax.retrieval.base import NONE, Corpus, Hits, Passage
from frozen_jax.retrieval.training_pairs import TEMPLATE
from frozen_jax.tokenizer import load_tokenizer

WORDS = ("true", "false")
WIDTH_STEP = 32
"""Pairs are padded to multiples of it. Our choice: over BM25's 100 for 32 questions of HotpotQA 10% is padding, and 21%
with powers of two and what lies half-way; steps of 16 pad 5%, for twice as many programs to compile."""


@gin.configurable
class Reranker:
    """Scores passages for questions, and puts hits into the order of their scores."""

    def __init__(
        self,
        lm: LanguageModel,
        tokenizer: str,
        checkpoint: str | Callable[[], Any] | None = None,
        *,
        template: str = TEMPLATE,
        words: Sequence[str] = WORDS,
        max_length: int = 512,
        batch_size: int = 8,
    ) -> None:
        """Loads the tokenizer and, where there is one, the checkpoint.

        Args:
            lm: a re-ranker, or what one was trained from.
            tokenizer: the LM's, see `load_tokenizer`.
            checkpoint: a run's folder or saved step of `FineTuning` of this LM, or what makes one when it is first
                wanted (in gin, `@reranker/train`); None takes the LM as it is.
            template: what the LM reads, with {question} and {passage} in it; {passage} is title and text.
            words: what the LM writes for a passage that is of use, and for another; a token each. An LM whose tokens
                begin with their space is given it: (" true", " false").
            max_length: the most tokens of a pair; monoT5's is 512.
            batch_size: pairs that are read at once. Our choice: on CPU more of them are no faster, and the pairs of one
                question are padded more; accelerators want more.

        Raises:
            UserError: if checkpoint, tokenizer, template or words do not fit.
        """
        self._tokenizer = load_tokenizer(tokenizer)
        if self._tokenizer.vocab_size > lm.vocab_size or self._tokenizer.eos_id not in (lm.eos_id, *lm.stop_ids):
            raise UserError(f"Reranker.tokenizer: {tokenizer} is not the tokenizer of {lm.name}; give that one")
        _check_template(template)
        self._template, self._max_length, self._batch_size = template, max_length, batch_size
        if len(words) != 2:
            raise UserError(f"Reranker.words is {words!r}; give two, for a passage that is of use and for another")
        self._words = np.array([[self._token(word)] for word in words], np.int32)
        # An encoder-decoder was trained on texts that end; an LM that reads on would take the end for its own.
        self._end = [] if lm.reads_on else [lm.eos_id]
        self._start, self._checkpoint, self._how = lm, checkpoint, {"template": template, "words": list(words)}
        if not callable(checkpoint):
            _ = self._trained  # a wrong one is told of before anything is retrieved

    @functools.cached_property
    def _trained(self) -> tuple[LanguageModel, str | None]:
        """The LM that scores, and a hash of what was trained of it."""
        if self._checkpoint is None:
            return self._start, None
        path = self._checkpoint() if callable(self._checkpoint) else self._checkpoint
        return _fine_tuned(self._start, str(path))

    @property
    def _lm(self) -> LanguageModel:
        return self._trained[0]

    @property
    def made(self) -> Mapping[str, Any]:
        """Everything that decides scores, as JSON."""
        return {
            "lm": [held["fingerprint"] for held in checkpoints.frozen_lms(self._start).values()],
            "trained": self._trained[1],
            "dtype": str(jax.tree.leaves(nnx.state(self._start))[0].dtype),
            "tokenizer": self._tokenizer.sha256,
            "max_length": self._max_length,
            **self._how,
        }

    def rerank(self, questions: Sequence[str], hits: Hits, corpus: Corpus) -> Hits:
        """Orders each question's hits by what the re-ranker says of them.

        Args:
            questions: B of them; the more, the less is padded.
            hits: of a retriever, N for each.
            corpus: that they are of.

        Returns:
            The best passages of each question with the re-ranker's scores. Of equal ones the retriever's first comes
            first.

        Raises:
            UserError: as `score`.
        """
        found = hits.passages != NONE
        asked = [questions[row] for row in np.nonzero(found)[0].tolist()]
        scores = np.full(found.shape, -np.inf, np.float32)
        scores[found] = self.score(asked, [corpus[int(number)] for number in hits.passages[found]])
        order = np.argsort(-scores, axis=1, kind="stable")
        return Hits(*(np.take_along_axis(part, order, axis=1) for part in (hits.passages, scores)))

    def score(self, questions: Sequence[str], passages: Sequence[Passage]) -> Float[np.ndarray, " N"]:
        """Scores pairs, the longest first, with a progress bar that shows pairs a second.

        Args:
            questions: N of them.
            passages: one for each.

        Returns:
            Of each pair the log-probability of the first word, against the second.

        Raises:
            UserError: for a question that fills `max_length` alone, or logits that are not numbers.
        """
        pairs = [self._tokens(*pair) for pair in zip(questions, passages, strict=True)]
        found = np.zeros(len(pairs), np.float32)
        order = sorted(range(len(pairs)), key=lambda pair: -len(pairs[pair]))
        size = min(self._batch_size, rounded_up(max(1, len(pairs))))
        with progress.bar(total=len(pairs), desc="re-rank", unit="pairs", leave=False) as bar:
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                found[rows] = self._scores([pairs[row] for row in rows], size)
                bar.update(len(rows))
        return found

    def _scores(self, pairs: list[Tokens], size: int) -> Float[np.ndarray, " N"]:
        """Of one batch, which is filled up: the words are two answers to an input that is read once."""
        width = min(self._max_length, -(-len(pairs[0]) // WIDTH_STEP) * WIDTH_STEP)
        tokens, mask = pad([*pairs, *pairs[:1] * (size - len(pairs))], width, self._lm.pad_id)
        answers, lengths = np.tile(self._words, (size, 1)), np.ones(2 * size, np.int32)
        nats = whole(self._lm.score(tokens, answers, inputs_lengths=mask.sum(1), targets_lengths=lengths))
        if np.isnan(nats).any():
            raise UserError(f"re-ranker {self._lm.name}: its logits are not numbers; are the weights whole?")
        yes, no = nats.reshape(size, 2)[: len(pairs)].T
        return yes - np.logaddexp(yes, no)

    def _tokens(self, question: str, passage: Passage) -> Tokens:
        """A pair as the LM reads it; no tokenizer tells beforehand how many words fit."""
        whole = self._encode(question, passage.whole)
        if len(whole) <= self._max_length:
            return whole
        words = re.findall(r"\s*\S{1,32}", passage.whole)  # of scripts without spaces a line is no word

        def cut(count: int) -> Tokens:
            return self._encode(question, "".join(words[:count]))

        fitting = bisect.bisect_right(range(len(words)), self._max_length, key=lambda count: len(cut(count))) - 1
        if fitting < 0:
            raise UserError(
                f"the question {question[:60]!r} has {len(cut(0))} tokens without a passage; "
                f"Reranker.max_length is {self._max_length}"
            )
        return cut(fitting)

    def _encode(self, question: str, passage: str) -> Tokens:
        text = self._template.format(question=question, passage=passage)
        return np.array([*self._tokenizer.encode(text), *self._end], np.int32)

    def _token(self, word: str) -> int:
        tokens = self._tokenizer.encode(word)
        if len(tokens) != 1:
            pieces = self._tokenizer.pieces(tokens)
            raise UserError(f"Reranker.words: {word!r} is {len(tokens)} tokens, {pieces}; give a word that is one")
        return tokens[0]


def _check_template(template: str) -> None:
    try:
        fields = sorted(field for _, field, _, _ in string.Formatter().parse(template) if field is not None)
    except ValueError:
        fields = []
    if fields != ["passage", "question"]:
        raise UserError(f"Reranker.template is {template!r}; it needs {{question}} and {{passage}}, once each")


def _fine_tuned(lm: LanguageModel, path: str) -> tuple[LanguageModel, str]:
    """The LM with the weights of a checkpoint, and a hash of them."""
    method = Method(lm)
    graphdef, own, _ = freezing.split(method, dict.fromkeys(freezing.parameter_paths(method), True))
    trained = checkpoints.load_trained(path, method)
    for name, array in trained.items():
        if name not in own or own[name].shape != array.shape:
            raise UserError(
                f"{path}: {name} is {array.shape} in the checkpoint and {own[name].shape if name in own else 'absent'} "
                f"in {lm.name}; a re-ranker's checkpoint is of FineTuning"
            )
    placed = {name: put(array, own[name].sharding) for name, array in trained.items()}
    return freezing.merge(graphdef, own | placed, {}).lm, freezing.digest(trained)
