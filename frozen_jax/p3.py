"""How much of P3's data a run takes. Known without seqio, since token files are told apart by it."""

from __future__ import annotations

from typing import Any, NamedTuple

import gin

from frozen_jax.errors import UserError

PREFIX = "p3."  # with which the names of its tasks begin


class Limits(NamedTuple):
    """How many examples `tasks.p3` makes.

    Attributes:
        most_examples: see `limits`.
        most_evaluated: see `limits`.
    """

    most_examples: int
    most_evaluated: int | None


@gin.configurable("p3")
def limits(most_examples: Any = 500_000, most_evaluated: Any = 100) -> Limits:
    """How many examples `tasks.p3` makes; bound in gin as `p3.most_examples` and `p3.most_evaluated`.

    Args:
        most_examples: the most training examples of one data set, over all of its templates. 500,000 is T0's (Sanh et
            al. 2022, section 5).
        most_evaluated: the most examples of a template's validation split, and of its test split. None is all, as T0
            has it; 100 is our choice.

    Returns:
        The same.

    Raises:
        UserError: if one is not a positive whole number.
    """
    _check("most_examples", most_examples)
    if most_evaluated is not None:
        _check("most_evaluated", most_evaluated)
    return Limits(most_examples, most_evaluated)


def _check(name: str, value: Any) -> None:
    if not isinstance(value, int) or value < 1:
        raise UserError(f"p3.{name} is {value!r}; give a whole number of examples, at least 1")
