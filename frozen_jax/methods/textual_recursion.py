"""Textual recursive LMs (Levine et al. 2022, figure 5): the LM reads what it has answered itself, and answers again.

    question ──p1, sampled──▶ n candidates ──group, show──▶ "question ... candidates" ──p2──▶ answer
              `prepare`, text to text, on the hosts                       the same frozen LM

    selector/**   p2, a method around the frozen LM: prompt tuning, ID-PT; its parameters, trained as it says
    lm/**         the LM inside it, the same arrays; p1 stands around them as well

p1 is a module checkpoint of its own. A p1 knows the answers that it was trained on, so the candidates of training
examples are cross-fitted: those of each half are sampled under a p1 that was trained on the other half. What the paper
leaves open, templates, order and grouping, is our choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np

from frozen_jax.candidates import measured
from frozen_jax.candidates.grouping import Candidate, grouped
from frozen_jax.candidates.proposing import Proposer, Samples
from frozen_jax.candidates.showing import Template, fitting, tell
from frozen_jax.errors import UserError
from frozen_jax.lm.base import LanguageModel
from frozen_jax.methods.base import Example, TextMethod
from frozen_jax.ordering import choice, half, permutation
from frozen_jax.prepared import CHOICES
from frozen_jax.tokenizer import input_length

_ORDERS = ("shuffled", "count")


@gin.configurable
class TextualRecursion(TextMethod):
    """A selector that is shown candidates, sampled from the same LM."""

    def __init__(
        self,
        selector: LanguageModel,
        p1: Proposer,
        p1_halves: Sequence[Proposer],
        n: Sequence[Any] | int = 16,
        train_n: Sequence[Any] | int | None = None,
        template: str = Template().inputs,
        candidate_template: str = Template().candidate,
        separator: str = Template().separator,
        order: str = "shuffled",
        seed: int = 0,
    ) -> None:
        """Puts candidates before a selector.

        Args:
            selector: the method around the frozen LM that answers, p2.
            p1: proposes candidates where nothing is trained; trained on all training examples.
            p1_halves: two, trained on half 0 and half 1 of the training examples (`TaskData.train_half`); each proposes
                for the other half.
            n: for evaluation, how many samples; each makes two sets of examples of its own: `TASK@16`, where the
                selector writes, and `TASK@16-scored`, where it chooses among the candidates. Inference takes the most.
            train_n: for training, of which each example is given one; None is `n`.
            template: see `showing.Template.inputs`.
            candidate_template: see `showing.Template.candidate`.
            separator: between candidates.
            order: "shuffled", or "count": those of most samples first.
            seed: of the shuffling and the choice among `train_n`.

        Raises:
            UserError: for a template with other names in braces, numbers that are none, a selector that is no method,
                another number of halves than two, or an LM that is not one and the same.
        """
        super().__init__("selector", selector)
        self._p1, self._halves, self._order, self._seed = p1, tuple(p1_halves), order, seed
        self._check_proposers()
        self._n = _checked("n", n)
        self._train_n = self._n if train_n is None else _checked("train_n", train_n)
        self._template = Template(template, candidate_template, separator)
        self._template.check()
        if order not in _ORDERS:
            raise UserError(f"TextualRecursion.order is {order!r}; choose from {', '.join(_ORDERS)}")

    def prepare(self, examples: Sequence[Example], split: str, length: int) -> Mapping[str, Sequence[Example]]:
        """Samples candidates and shows them beside the questions, going on where an earlier run stopped.

        Args:
            examples: their "inputs" are the questions.
            split: "train", "infer" or one to evaluate on.
            length: the most tokens of inputs.

        Returns:
            The examples with questions and candidates as inputs, and with the "candidates" in them: text, count, and
            log-probability, those of most samples first.

        Raises:
            UserError: if p1 does not fit, if no sample says anything, or if a candidate has no room beside a question.
        """
        if split == "train":
            samples, drawn = self._cross_fitted(examples), self._drawn(examples)
            return {"": self._shown(examples, [_grouped(samples, row, n) for row, n in enumerate(drawn)], length)}
        most, questions = max(self._n), [example["inputs"] for example in examples]
        samples = self._p1.propose(questions, most, kept=split != "infer")
        groups = {n: [_grouped(samples, row, n) for row in range(len(questions))] for n in self._n}
        if split == "infer":
            return {"": self._shown(examples, groups[most], length, asked=True)}
        made = {"candidates": dict(self._p1.made), "n": list(self._n)}
        print(measured.measure(self._p1.directory, examples, split, self._p1.greedy(questions), groups, made))
        sets = {}
        for n in self._n:
            sets[f"@{n}"] = shown = self._shown(examples, groups[n], length)
            texts = [[one["text"] for one in example["candidates"]] for example in shown]
            sets[f"@{n}-scored"] = [
                {**example, CHOICES: candidates or [""]} for example, candidates in zip(shown, texts, strict=True)
            ]
        return sets

    def _cross_fitted(self, examples: Sequence[Example]) -> Samples:
        """Samples for training examples, each under the p1 that was trained on the half which it is not in."""
        most = max(self._train_n)
        halves = np.array([half(example["inputs"]) for example in examples])
        texts: list[list[str]] = [[]] * len(examples)
        log_probs = np.zeros((len(examples), most), np.float32)
        for trained_on, proposer in enumerate(self._halves):
            proposer.check_half(trained_on)
        for trained_on, proposer in enumerate(self._halves):
            rows = np.nonzero(halves != trained_on)[0].tolist()
            if not rows:
                continue
            found = proposer.propose([examples[row]["inputs"] for row in rows], most)
            log_probs[rows] = found.log_probs
            for row, candidates in zip(rows, found.texts, strict=True):
                texts[row] = candidates
        return Samples(texts, log_probs)

    def _drawn(self, examples: Sequence[Example]) -> list[int]:
        """An n for each example, which depends on the seed and the question alone."""
        return [choice(self._train_n, self._seed, "n", example["inputs"]) for example in examples]

    def _shown(
        self, examples: Sequence[Example], groups: Sequence[Sequence[Candidate]], length: int, asked: bool = False
    ) -> list[Example]:
        """The examples with candidates put beside their questions; a user may ask what p1 has no answer to."""
        questions = [example["inputs"] for example in examples]
        if not any(groups) and not asked:
            raise UserError(
                f"every sample is empty, for all of {len(questions)} questions, {questions[0][:60]!r} among them; was "
                "p1 trained on this task, and does Proposer.temperature suit it?"
            )
        of_all = zip(questions, groups, strict=True)
        shown = [fitting(question, group, length, input_length, self._template) for question, group in of_all]
        tell(questions, groups, shown)
        return [
            {
                **example,
                "inputs": self._template.fill(example["inputs"], self._ordered(example["inputs"], candidates)),
                "question": example["inputs"],
                "candidates": [
                    {"text": one.text, "count": one.count, "log_probability": round(one.log_prob, 4)}
                    for one in candidates
                ],
            }
            for example, candidates in zip(examples, shown, strict=True)
        ]

    def _ordered(self, question: str, candidates: Sequence[Candidate]) -> list[Candidate]:
        if self._order == "count":
            return list(candidates)
        return [candidates[place] for place in permutation(len(candidates), self._seed, "candidates", question)]

    def _check_proposers(self) -> None:
        if len(self._halves) != 2:
            raise UserError(f"TextualRecursion.p1_halves has {len(self._halves)} members; give two, one for each half")
        for proposer in (self._p1, *self._halves):
            if proposer.method.lm is not self.lm:
                raise UserError(
                    f"TextualRecursion: the LM of a proposer, {proposer.method.name}, is another one in memory than "
                    f"the selector's, {self.lm.name}; load_lm needs the same settings for both, in every scope of gin"
                )


def _grouped(samples: Samples, row: int, n: int) -> list[Candidate]:
    return grouped(samples.texts[row][:n], samples.log_probs[row, :n])


def _checked(name: str, numbers: Any) -> tuple[int, ...]:
    found = (numbers,) if isinstance(numbers, int) else tuple(numbers)
    if not found or not all(isinstance(n, int) and n > 0 for n in found):
        raise UserError(f"TextualRecursion.{name} is {numbers!r}; sample at least once: 16, or several such as (4, 16)")
    return found
