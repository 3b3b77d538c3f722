"""How much of P3's data a run takes. Known without seqio, since token files are told apart by it."""

from __future__ import annotations

from typing import Any

import gin

from frozen_jax.errors import UserError

MOST_EXAMPLES = 500_000  # T0's (Sanh et al. 2022, section 5)


@gin.configurable("p3")
def most_examples(most_examples: Any = MOST_EXAMPLES) -> int:
    """The most training examples of one data set, over all of its templates; see `tasks.p3`.

    Args:
        most_examples: how many, bound in gin as `p3.most_examples`.

    Returns:
        The same.

    Raises:
        UserError: if it is not a positive whole number.
    """
    if not isinstance(most_examples, int) or most_examples < 1:
        raise UserError(f"p3.most_examples is {most_examples!r}; give a whole number of examples, at least 1")
    return most_examples
