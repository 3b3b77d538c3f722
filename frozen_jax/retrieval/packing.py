"""Packing: passages, best first, into a text that has no more tokens than the reader can take.

    question, passages best first ──pack──▶ "Passages: ... Question: ..." of at most `length` tokens

Levine et al. 2022, figure 4: passages are added greedily until the context is full. What "full" means is our choice: a
passage that does not fit is passed over, and shorter ones behind it are still tried. No passage is cut, unless
`cut_last` allows it for one, the first that does not fit, which is then the last.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from typing import NamedTuple

from frozen_jax.errors import UserError
from frozen_jax.retrieval.base import Passage

Count = Callable[[str], int]


class Template(NamedTuple):
    """What stands around passages and question.

    Attributes:
        inputs: the whole, with {passages} and {question}.
        passage: each passage, with {text} and, if the LM shall see it, {title}.
        separator: stands between passages.
    """

    inputs: str = "{passages}\n\nQuestion: {question}"
    passage: str = "{title}: {text}"
    separator: str = "\n"

    def check(self) -> None:
        """Looks at the names in braces.

        Raises:
            UserError: for one that is unknown, one that is missing, or braces that do not match.
        """
        check("the template's inputs", self.inputs, {"passages", "question"}, {"passages", "question"})
        check("the template's passage", self.passage, {"text"}, {"text", "title"})

    def fill(self, question: str, passages: Sequence[Passage]) -> str:
        """The text that the LM reads.

        Args:
            question: as it was asked.
            passages: in the order in which they shall stand there.

        Returns:
            The text.
        """
        shown = self.separator.join(map(self.shown, passages))
        return self.inputs.format(passages=shown, question=question.strip()).strip()

    def shown(self, passage: Passage) -> str:
        """One passage as it stands in the text.

        Args:
            passage: any.

        Returns:
            Its title and text in their template.
        """
        return self.passage.format(title=passage.title, text=passage.text)


class Packed(NamedTuple):
    """A packed text.

    Attributes:
        text: what the LM reads.
        ranks: which of the passages stand in it, by their places among those that were given, from 0 on.
        tokens: how many the text has.
    """

    text: str
    ranks: list[int]
    tokens: int


def pack(
    question: str,
    passages: Sequence[Passage],
    sizes: Sequence[int],
    length: int,
    count: Count,
    template: Template = Template(),  # noqa: B008, nothing in it changes
    cut_last: bool = False,
) -> Packed:
    """Puts as many passages beside a question as fit.

    Args:
        question: as it was asked.
        passages: best first.
        sizes: how many tokens each of them has in its template, counted once for all questions and lengths.
        length: the most tokens of the text.
        count: text → how many tokens the LM makes of it.
        template: what stands around them.
        cut_last: whether the first passage that does not fit may be cut at a word's end, and be the last.

    Returns:
        The text, which holds no passage if none fits.

    Raises:
        UserError: if the question alone is too long.
    """
    if (alone := count(template.fill(question, []))) > length:
        raise UserError(
            f"the question {_shown(question)} alone has {alone} tokens in its template; only {length} are left for it "
            "and its passages: shorten it, or allow a longer input"
        )

    kept: dict[int, Passage] = {}
    tokens = alone

    def with_one_more(passage: Passage) -> int:
        return count(template.fill(question, [*kept.values(), passage]))

    for rank, (passage, size) in enumerate(zip(passages, sizes, strict=True)):
        # The size alone rules most of them out.
        if size <= length - tokens and (longer := with_one_more(passage)) <= length:
            kept[rank], tokens = passage, longer
        elif cut_last:
            if (cut := _cut(passage, lambda shorter: with_one_more(shorter) <= length)) is not None:
                tokens, kept[rank] = with_one_more(cut), cut
            break
    return Packed(template.fill(question, list(kept.values())), list(kept), tokens)


def _cut(passage: Passage, fits: Callable[[Passage], bool]) -> Passage | None:
    """The passage without as many last words as it must lose; None if not even one word is left."""
    words = [match.end() for match in re.finditer(r"\S+", passage.text)]
    low, high = 0, len(words)  # so many words fit, so many do not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(passage._replace(text=passage.text[: words[middle - 1]])) else (low, middle)
    return passage._replace(text=passage.text[: words[low - 1]]) if low else None


def check(name: str, text: str, needed: set[str], known: set[str]) -> None:
    """Looks at the names in a text's braces.

    Args:
        name: of the text, for messages.
        text: with names in braces.
        needed: names that must be there.
        known: names that may be there.

    Raises:
        UserError: for one that is unknown, one that is missing, or braces that do not match.
    """
    try:
        names = {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}
    except ValueError as error:
        raise UserError(f"{name}, {text!r}: {error}; braces that are meant as such are doubled") from error
    if wrong := sorted(names - known) or sorted(needed - names):
        raise UserError(f"{name}, {text!r}: {{{wrong[0]}}} is {'unknown' if wrong[0] not in known else 'missing'}")


def _shown(question: str) -> str:
    return repr(question if len(question) <= 60 else f"{question[:60]}...")
