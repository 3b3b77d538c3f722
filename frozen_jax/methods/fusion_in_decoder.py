"""Fusion-in-Decoder, the fine-tuned reader that frozen ones are measured against (Izacard & Grave 2021). T5 only.

    passage 1 ──embed──▶ encoder ──┐
    passage 2 ──embed──▶ encoder ──┼──▶ decoder ──▶ y              trained: lm/**, kept in float32
    ...                            │
    passage N ──embed──▶ encoder ──┘

Each passage stands with the question before it, and is encoded alone: time grows with N, not with its square. The
decoder attends to all of them. The inputs hold them one behind another, each with an end-of-text token of its own:

    inputs  [B, S]        q p1 </s> q p2 </s> ... </s> padding
    read    [B, N*Lp, D]  q p1 </s> padding | q p2 </s> padding | ...      blocks of Lp, which every later call knows

What stands behind the N-th passage, or behind the Lp-th token of one, is not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from frozen_jax.errors import UserError
from frozen_jax.freezing import Rules
from frozen_jax.lm.base import LanguageModel
from frozen_jax.lm.layers import Dropout
from frozen_jax.lm.t5 import T5
from frozen_jax.methods.base import Example, Method
from frozen_jax.retrieval import packing
from frozen_jax.retrieval.base import Passage
from frozen_jax.retrieval.evidence import Finds, described
from frozen_jax.tokenizer import input_length
from frozen_jax.types import Array, EncoderInputs, Segments

TEMPLATE = "question: {question} title: {title} context: {text}"


@gin.configurable
class FusionInDecoder(Method):
    """Trains a T5 whose encoder reads passages one by one, and whose decoder reads them together."""

    rules: Rules = ((".*", "train"),)
    lm: T5

    def __init__(
        self,
        lm: LanguageModel,
        evidence: Finds | None = None,
        passages: int = 20,
        passage_length: int = 192,
        template: str = TEMPLATE,
        dropout_rate: float = 0.0,
    ) -> None:
        """Holds the LM.

        Args:
            lm: where training starts, a T5.
            evidence: finds passages; None where the inputs hold them already.
            passages: N, the most passages of an example.
            passage_length: Lp, the most tokens of one, with its question and its end-of-text token.
            template: of one passage, with {question}, {title} and {text}; by default the authors'.
            dropout_rate: Izacard & Grave train with 0.1; 0 is our default, as of fine-tuning.

        Raises:
            UserError: for an LM without an encoder, no passages, or other names in the template's braces.
        """
        if not isinstance(lm, T5):
            raise UserError(f"FusionInDecoder.lm: {lm.name} has no encoder to read passages with; give a T5")
        if passages < 1 or passage_length < 1:
            raise UserError(
                f"FusionInDecoder: {passages} passages of {passage_length} tokens; give at least one of each"
            )
        packing.check("FusionInDecoder.template", template, {"question", "text"}, {"question", "title", "text"})
        super().__init__(lm)
        self.passages, self.passage_length, self.dropout_rate = passages, passage_length, dropout_rate
        self.settings = (("passages", passages), ("passage_length", passage_length))
        self.prepares = evidence is not None
        self._evidence, self._template = evidence, template

    def prepare(self, examples: Sequence[Example], split: str, length: int) -> Mapping[str, Sequence[Example]]:
        """Finds passages and puts each of the first N beside the question, in a text of its own.

        Args:
            examples: their "inputs" are the questions.
            split: where they are from; for "infer" nothing is kept on disk.
            length: the most tokens of inputs, which all passages together may fill.

        Returns:
            The examples, "inputs" a list of texts, each to be cut at `text_length` tokens, and the "passages" in them.

        Raises:
            UserError: if N passages of Lp tokens are more than inputs may have, or a question fills a text alone.
        """
        if (most := self.passages * self.passage_length) > length or self._evidence is None:
            raise UserError(
                f"FusionInDecoder reads {self.passages} passages of {self.passage_length} tokens, {most}, and "
                f"TASK_FEATURE_LENGTHS cuts inputs at {length}; allow more there"
            )
        for example in examples:
            self._check_question(example["inputs"])
        corpus, stages = self._evidence.corpus, self._evidence.find(examples, split)
        shown = [described(stages, row, range(self.passages), corpus) for row in range(len(examples))]
        return {
            "": [
                {
                    **example,
                    "inputs": [self._shown(example["inputs"], corpus[p["number"]]) for p in passages]
                    or [self._shown(example["inputs"], Passage("", "", ""))],
                    "text_length": self.passage_length,
                    "question": example["inputs"],
                    "passages": passages,
                }
                for example, passages in zip(examples, shown, strict=True)
            ]
        }

    def _check_question(self, question: str) -> None:
        alone = input_length(self._shown(question, Passage("", "", "")))
        if alone >= self.passage_length:
            raise UserError(
                f"the question {question[:60]!r} has {alone} tokens without a passage; a passage's text has "
                f"{self.passage_length} in all: give FusionInDecoder.passage_length more"
            )

    def _shown(self, question: str, passage: Passage) -> str:
        return self._template.format(question=question.strip(), title=passage.title, text=passage.text)

    def dropout(self, key: PRNGKeyArray) -> Dropout | None:
        """Returns the dropout of one training step."""
        return Dropout(key, self.dropout_rate) if self.dropout_rate else None

    def check_context(
        self,
        inputs_lengths: Int[Array, " B"] | Sequence[int],
        targets_length: int,
        ids: Int[Array, " B"] | Sequence[int] | None = None,
    ) -> None:
        """Looks whether inputs are too long to be N passages of Lp tokens; see `LanguageModel.check_context`."""
        super().check_context(inputs_lengths, targets_length, ids)
        longest, most = int(np.max(np.asarray(inputs_lengths))), self.passages * self.passage_length
        if longest > most:
            raise UserError(
                f"an input has {longest} tokens; {self.passages} passages of {self.passage_length} are {most}: give "
                "FusionInDecoder.passages or FusionInDecoder.passage_length more"
            )

    def read(
        self, inputs: Int[Array, "B S"], inputs_mask: Bool[Array, "B S"], encoder_inputs: EncoderInputs | None = None
    ) -> tuple[Float[Array, "B NLp D"], Bool[Array, "B NLp"]]:
        """Returns the embeddings of N blocks, a passage in each."""
        return self.lm.read(*self._in_blocks(inputs, inputs_mask), encoder_inputs)

    def encode(self, inputs: Float[Array, "B NLp D"], inputs_mask: Bool[Array, "B NLp"]) -> Float[Array, "B NLp D"]:
        """Runs the encoder on every block alone."""
        return self._encoded(inputs, inputs_mask, None)

    def hidden_states(
        self,
        inputs: Float[Array, "B NLp D"],
        inputs_mask: Bool[Array, "B NLp"],
        targets: Float[Array, "R T D"],
        dropout: Dropout | None = None,
        segments: Segments | None = None,
    ) -> Float[Array, "R T D"]:
        """Lets the decoder attend to all passages; see `LanguageModel.hidden_states`."""
        encoded = self._encoded(inputs, inputs_mask, dropout)
        return self.lm.decode(encoded, self.lm.begin(encoded, inputs_mask, targets, segments), dropout)

    def prefill(
        self,
        inputs: Float[Array, "B NLp D"],
        inputs_mask: Bool[Array, "B NLp"],
        *,
        max_length: int,
        rows_per_input: int = 1,
        prompt: None = None,
    ) -> tuple[Float[Array, "R D"], Any]:
        """Encodes all passages and begins to decode; see `LanguageModel.prefill`."""
        how: dict[str, Any] = {"max_length": max_length, "rows_per_input": rows_per_input}
        cache = self.lm.writer.start(self.encode(inputs, inputs_mask), inputs_mask, **how)
        return self.lm.start(cache, len(inputs) * rows_per_input)

    def _in_blocks(
        self, inputs: Int[Array, "B S"], mask: Bool[Array, "B S"]
    ) -> tuple[Int[Array, "B NLp"], Bool[Array, "B NLp"]]:
        """Gives every passage a block of its own; what finds no place in it is dropped."""
        blocks, place = self.passages * self.passage_length, jnp.arange(inputs.shape[1])[None]
        begins = jnp.pad(mask & (inputs == self.eos_id), ((0, 0), (1, 0)), constant_values=True)[:, :-1]
        passage = jnp.cumsum(begins, axis=1) - 1
        within = place - jax.lax.cummax(jnp.where(begins, place, 0), axis=1)
        fits = mask & (passage < self.passages) & (within < self.passage_length)
        target = jnp.where(fits, passage * self.passage_length + within, blocks)
        row = jnp.arange(len(inputs))[:, None]
        tokens = jnp.full((len(inputs), blocks), self.pad_id, jnp.int32).at[row, target].set(inputs, mode="drop")
        return tokens, jnp.zeros((len(inputs), blocks), bool).at[row, target].set(True, mode="drop")

    def _encoded(
        self, inputs: Float[Array, "B NLp D"], mask: Bool[Array, "B NLp"], dropout: Dropout | None
    ) -> Float[Array, "B NLp D"]:
        alone = inputs.reshape(-1, self.passage_length, inputs.shape[-1])
        return self.lm.encoder(alone, mask.reshape(-1, 1, self.passage_length), dropout).reshape(inputs.shape)
