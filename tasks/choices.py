"""Examples of multiple choice. The answer itself is what is scored and what is learnt, not its letter: our choice.

Where the answers belong to the question ("which of these ...") they are listed behind it, so that a model can compare
them, as UnifiedQA does (Khashabi et al. 2020):

    Answer the question with one of the choices. Question: Where is milk kept cold? Choices: (A) in a fridge (B) in bed

Where they only go on with a text, or stand in it already, they are not.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

from tasks.common import Example


def example(inputs: str, choices: Sequence[str], right: int) -> Example:
    """An example with answer choices.

    Args:
        inputs: what the model reads.
        choices: the answers; one that is there twice counts once.
        right: the place of the right one.

    Returns:
        The example, all texts with single spaces.
    """
    return {"inputs": tidy(inputs), "targets": tidy(choices[right]), "choices": distinct(choices)}


def listed(question: str, choices: Sequence[str], right: int) -> Example:
    """An example that lists its answer choices behind the question.

    Args:
        question: the question.
        choices: the answers; one that is there twice is listed once.
        right: the place of the right one.

    Returns:
        The example.
    """
    letters = zip(string.ascii_uppercase, distinct(choices), strict=False)
    lettered = " ".join(f"({letter}) {choice}" for letter, choice in letters)
    instruction = "Answer the question with one of the choices."
    return example(f"{instruction} Question: {question} Choices: {lettered}", choices, right)


def distinct(choices: Sequence[str]) -> list[str]:
    """Each answer once.

    Args:
        choices: answers.

    Returns:
        The same in their order, with single spaces.
    """
    return list(dict.fromkeys(tidy(choice) for choice in choices))


def tidy(text: str) -> str:
    """A text in one line.

    Args:
        text: any text.

    Returns:
        Its words, with single spaces.
    """
    return " ".join(text.split())
