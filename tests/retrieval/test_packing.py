"""What is packed fits, best first, and nothing is cut unless that is allowed."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from frozen_jax.errors import UserError
from frozen_jax.retrieval.base import Passage
from frozen_jax.retrieval.packing import Packed, Template, pack

PLAIN = Template(inputs="{passages} ? {question}", passage="{text}", separator=" ")


def words(text: str) -> int:
    return len(text.split())


def passages(*lengths: int) -> list[Passage]:
    """Passage n is made of the word n."""
    return [Passage(str(n), f"title {n}", " ".join([str(n)] * length)) for n, length in enumerate(lengths)]


def packed(length: int, *lengths: int, cut_last: bool = False) -> Packed:
    return pack("who", passages(*lengths), lengths, length, words, PLAIN, cut_last)


def test_passages_are_added_best_first_until_the_text_is_full() -> None:
    assert packed(10, 4, 4, 4) == Packed("0 0 0 0 1 1 1 1 ? who", [0, 1], 10)
    assert packed(9, 4, 4, 4).ranks == [0]


def test_one_that_does_not_fit_is_passed_over() -> None:
    assert packed(9, 4, 9, 3, 3).ranks == [0, 2]


def test_only_where_it_is_allowed_the_first_that_does_not_fit_is_cut_and_is_the_last() -> None:
    assert packed(8, 4, 9, 1, cut_last=True) == Packed("0 0 0 0 1 1 ? who", [0, 1], 8)
    assert packed(6, 4, 9, 1, cut_last=True).ranks == [0]


def test_a_question_without_passages_is_left_alone() -> None:
    assert packed(2) == Packed("? who", [], 2)
    assert packed(5, 4).ranks == []


def test_a_question_that_is_too_long_is_named() -> None:
    with pytest.raises(UserError, match=r"the question 'who' alone has 2 tokens in its template; only 1 are left"):
        packed(1, 4)


@hypothesis.given(st.integers(2, 40), st.lists(st.integers(1, 12), max_size=12), st.booleans())
def test_it_always_fits_and_shows_whole_passages(length: int, lengths: list[int], cut_last: bool) -> None:
    found = packed(length, *lengths, cut_last=cut_last)
    assert found.tokens == words(found.text) <= length
    assert found.ranks == sorted(found.ranks)
    for rank in found.ranks[: -1 if cut_last else None]:
        assert found.text.split().count(str(rank)) == lengths[rank]
    if not cut_last:  # none that was left out would still fit
        assert all(found.tokens + n > length for rank, n in enumerate(lengths) if rank not in found.ranks)


def test_title_and_text_stand_where_the_template_says() -> None:
    template = Template(inputs="Q: {question} P: {passages}", passage="[{title}] {text}")
    found = pack("who?", [Passage("1", "Rome", "A city {not a field}.")], [6], 99, words, template)
    assert found.text == "Q: who? P: [Rome] A city {not a field}."


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (Template(inputs="{question}"), r"the template's inputs, '{question}': {passages} is missing"),
        (Template(inputs="{passages} {question} {x}"), "{x} is unknown"),
        (Template(passage="{title}"), "{text} is missing"),
        (Template(passage="{text"), "braces that are meant as such are doubled"),
    ],
)
def test_templates_are_looked_at(template: Template, message: str) -> None:
    with pytest.raises(UserError, match=message):
        template.check()
