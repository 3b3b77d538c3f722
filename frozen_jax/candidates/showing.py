"""How candidates are shown to the LM that shall choose: as many as fit, in a template beside the question."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from frozen_jax.candidates.grouping import Candidate
from frozen_jax.errors import UserError
from frozen_jax.retrieval.packing import check


class Template(NamedTuple):
    """What stands around question and candidates.

    Attributes:
        inputs: the whole, with {question} and {candidates}.
        candidate: each of them, with {candidate} and, if the LM shall see how many samples say it, {count}.
        separator: stands between them.
    """

    inputs: str = "Question: {question}\nPossible answers: {candidates}"
    candidate: str = "{candidate}"
    separator: str = "; "

    def check(self) -> None:
        """Looks at the names in braces.

        Raises:
            UserError: for one that is unknown, one that is missing, or braces that do not match.
        """
        check("TextualRecursion.template", self.inputs, {"question", "candidates"}, {"question", "candidates"})
        check("TextualRecursion.candidate_template", self.candidate, {"candidate"}, {"candidate", "count"})

    def fill(self, question: str, candidates: Sequence[Candidate]) -> str:
        """The text that the LM reads.

        Args:
            question: as it was asked.
            candidates: in the order in which they shall stand there.

        Returns:
            The text.
        """
        shown = [self.candidate.format(candidate=one.text, count=one.count) for one in candidates]
        return self.inputs.format(question=question.strip(), candidates=self.separator.join(shown)).strip()


def fitting(
    question: str, candidates: Sequence[Candidate], length: int, count: Callable[[str], int], template: Template
) -> list[Candidate]:
    """Leaves out as many of the last candidates as it takes.

    Args:
        question: as it was asked.
        candidates: as `grouped` orders them, so that the last are of the fewest samples.
        length: the most tokens of the text.
        count: text → how many tokens the LM makes of it.
        template: what stands around them.

    Returns:
        The others.

    Raises:
        UserError: if there are candidates and not even the first has room.
    """
    fit = len(candidates)
    while (tokens := count(template.fill(question, candidates[:fit]))) > length:
        if fit <= 1:
            what = f"the candidate {candidates[0].text[:60]!r} of the question" if candidates else "the question"
            raise UserError(
                f"{what} {question[:60]!r} has no room: inputs would have {tokens} tokens, TASK_FEATURE_LENGTHS allows "
                f"{length}; allow more there, or lower Proposer.max_length"
            )
        fit -= 1
    return list(candidates[:fit])


def tell(questions: Sequence[str], found: Sequence[Sequence[Candidate]], shown: Sequence[Sequence[Candidate]]) -> None:
    """Says on stderr how much is missing; no reason to end a run.

    Args:
        questions: B of them.
        found: the candidates of each.
        shown: those of them that had room.
    """
    alone = [question for question, candidates in zip(questions, found, strict=True) if not candidates]
    if alone:
        among = f", and for {len(alone) - 1} others of {len(questions)}" if len(alone) > 1 else ""
        print(f"no sample says anything for the question {alone[0]!r}{among}", file=sys.stderr)
    if left := sum(map(len, found)) - sum(map(len, shown)):
        print(f"{left} of {sum(map(len, found))} candidates had no room and are not shown", file=sys.stderr)
