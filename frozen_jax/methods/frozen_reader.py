"""Frozen readers (Levine et al. 2022, figure 4): the LM answers from passages that were chosen to fit into its context.

    question ──retrieve──▶ N passages ──re-rank──▶ best first ──pack──▶ "passages ... question" ──reader──▶ answer
              `prepare`, text to text, on the hosts                                           frozen LM, prompt-tuned

    reader/**     a method around the frozen LM: prompt tuning, ID-PT; its parameters, trained as it says
    lm/**         the LM inside it, the same arrays

Everything about the passages happens before the first token, in the same code for training, evaluation and inference.
What is trained on the device is the reader's: this method adds no parameter.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np

from frozen_jax.errors import UserError
from frozen_jax.lm.base import LanguageModel
from frozen_jax.methods.base import Example, TextMethod
from frozen_jax.ordering import choice
from frozen_jax.retrieval import measured
from frozen_jax.retrieval.base import NONE, Hits
from frozen_jax.retrieval.chunks import Chunks, Rows
from frozen_jax.retrieval.evidence import Finds, described, digest, passages_of
from frozen_jax.retrieval.packing import Packed, Template, pack
from frozen_jax.retrieval.recall import Question
from frozen_jax.tokenizer import input_length, lm_tokenizer

_PACKED = 256  # questions a chunk, some seconds


@gin.configurable
class FrozenReader(TextMethod):
    """A reader that is shown packed passages."""

    def __init__(
        self,
        reader: LanguageModel,
        evidence: Finds,
        lengths: Sequence[Any] | int | None = None,
        train_lengths: Sequence[Any] | int | None = None,
        template: str = Template().inputs,
        passage_template: str = Template().passage,
        separator: str = Template().separator,
        cut_last: bool = False,
        seed: int = 0,
    ) -> None:
        """Puts passages before a reader.

        Args:
            reader: the method around the frozen LM that reads them.
            evidence: finds them.
            lengths: for evaluation, the most tokens of passages and question; each makes a set of examples of its own,
                `TASK@LENGTH`. Inference takes the longest. None is TASK_FEATURE_LENGTHS' of the inputs. The LM's
                template, prompt and answer come on top.
            train_lengths: for training, of which each example is given one; None is `lengths`.
            template: see `packing.Template.inputs`.
            passage_template: see `packing.Template.passage`.
            separator: between passages.
            cut_last: see `packing.pack`.
            seed: of the choice among `train_lengths`.

        Raises:
            UserError: for a template with other names in braces, lengths that are none, or a reader that is no method.
        """
        super().__init__("reader", reader)
        self._evidence, self._seed, self._cut_last = evidence, seed, cut_last
        self._lengths = _checked("lengths", lengths)
        self._train_lengths = _checked("train_lengths", train_lengths) or self._lengths
        self._template = Template(template, passage_template, separator)
        self._template.check()
        self._size = functools.cache(self._counted)

    def prepare(self, examples: Sequence[Example], split: str, length: int) -> Mapping[str, Sequence[Example]]:
        """Finds passages for questions and packs them, going on where an earlier run stopped.

        Args:
            examples: their "inputs" are the questions.
            split: "train", "infer" or one to evaluate on.
            length: the most tokens of inputs.

        Returns:
            The examples with packed inputs, and with the "passages" in them: id, title, score, and rank at each stage.

        Raises:
            UserError: if a question alone is too long, or `lengths` are longer than inputs may be.
        """
        for longest in self._lengths + self._train_lengths:
            if longest > length:
                raise UserError(
                    f"FrozenReader packs inputs of {longest} tokens, and TASK_FEATURE_LENGTHS cuts them at {length}; "
                    "allow more there, or pack less"
                )
        kept = split != "infer"
        stages = self._evidence.find(examples, split)
        if split == "train":
            return {"": self._texts(examples, stages, self._drawn(examples, length), kept)}
        if split == "infer":
            return {"": self._texts(examples, stages, [max((*self._lengths, 0)) or length] * len(examples), kept)}
        lengths = self._lengths or (length,)
        self._measure(examples, split, stages, lengths)
        found = {f"@{n}": self._texts(examples, stages, [n] * len(examples), kept) for n in lengths}
        return found if self._lengths else {"": found[f"@{length}"]}

    def _drawn(self, examples: Sequence[Example], length: int) -> list[int]:
        """A length for each example, which depends on the seed and the question alone."""
        lengths = self._train_lengths or (length,)
        return [choice(lengths, self._seed, "packed length", example["inputs"]) for example in examples]

    def _texts(
        self, examples: Sequence[Example], stages: Mapping[str, Hits], lengths: Sequence[int], kept: bool
    ) -> list[Example]:
        """The examples with what the last stage found packed into them."""
        *_, last = stages.values()
        packed = self._packed([example["inputs"] for example in examples], last, lengths, kept)
        corpus = self._evidence.corpus
        shown = [
            described(stages, row, ranks[ranks != NONE].tolist(), corpus) for row, ranks in enumerate(packed["ranks"])
        ]
        texts = [text.decode() for text in packed["text"].tolist()]
        return [
            {**example, "inputs": text, "question": example["inputs"], "passages": passages}
            for example, text, passages in zip(examples, texts, shown, strict=True)
        ]

    def _packed(self, questions: Sequence[str], hits: Hits, lengths: Sequence[int], kept: bool) -> Rows:
        """Texts, and which of the hits stand in each."""

        def compute(rows: range) -> Rows:
            packed = [self._pack(questions[row], hits, row, lengths[row]) for row in rows]
            ranks = np.full((len(rows), hits.passages.shape[1]), NONE, np.int32)
            for row, one in enumerate(packed):
                ranks[row, : len(one.ranks)] = one.ranks
            return {"text": np.array([one.text.encode() for one in packed]), "ranks": ranks}

        if not kept:
            return compute(range(len(questions)))
        found = digest([str(row) for row in hits.passages.tolist()])
        asked = {"questions": digest(questions), "hits": found, "lengths": digest(list(map(str, lengths)))}
        chunks = Chunks(self._evidence.directory, "packed", self._made() | asked, len(questions), _PACKED)
        chunks.fill(compute, "question")
        return chunks.whole()

    def _measure(
        self, examples: Sequence[Example], split: str, stages: Mapping[str, Hits], lengths: Sequence[int]
    ) -> None:
        """Says and writes down what each stage brought, where it is known what is right."""
        asked = [Question(e["inputs"], e.get("answers", ()), e.get("gold", ())) for e in examples]
        if not all(question.answers or question.gold for question in asked):
            return
        questions = [question.text for question in asked]
        packed = {
            stage: {n: _in_texts(hits, self._packed(questions, hits, [n] * len(asked), True)) for n in lengths}
            for stage, hits in stages.items()
        }
        found = measured.measure(asked, stages, packed, self._evidence.corpus)
        made = {**self._made(), "questions": digest(questions)}
        measured.write(self._evidence.directory, f"{split}-{'-'.join(stages)}", made, found)
        print(measured.lines(found))

    def _pack(self, question: str, hits: Hits, row: int, length: int) -> Packed:
        passages = passages_of(hits, row, self._evidence.corpus)
        sizes = [self._size(int(number)) for number in hits.passages[row] if number != NONE]
        return pack(question, passages, sizes, length, input_length, self._template, self._cut_last)

    def _counted(self, number: int) -> int:
        """Tokens of one passage; counted once for all questions that find it."""
        return len(lm_tokenizer().encode(self._template.shown(self._evidence.corpus[number])))

    def _made(self) -> dict[str, Any]:
        tokenizer = lm_tokenizer().sha256
        how = {"template": list(self._template), "cut_last": self._cut_last, "tokenizer": tokenizer}
        return {"evidence": dict(self._evidence.made), **how}


def _checked(name: str, lengths: Any) -> tuple[int, ...]:
    found = (lengths,) if isinstance(lengths, int) else tuple(lengths or ())
    if not all(isinstance(length, int) and length > 0 for length in found):
        raise UserError(f"FrozenReader.{name} is {lengths!r}; give numbers of tokens, such as (256, 512)")
    return found


def _in_texts(hits: Hits, packed: Rows) -> Hits:
    """Those hits that were packed."""
    ranks = packed["ranks"]
    places = np.maximum(ranks, 0)
    passages = np.where(ranks == NONE, NONE, np.take_along_axis(hits.passages, places, axis=1))
    scores = np.where(ranks == NONE, -np.inf, np.take_along_axis(hits.scores, places, axis=1))
    return Hits(passages, scores.astype(np.float32))
