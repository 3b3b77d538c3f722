"""optax's optimizers and schedules under their own names in gin, and clipping around any of them.

train.optimizer = @optax.adafactor()
optax.adafactor.learning_rate = @optax.warmup_constant_schedule()
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import gin
import optax

from frozen_jax.errors import UserError

for _name in (
    "adafactor",
    "adamw",
    "sgd",
    "constant_schedule",
    "linear_schedule",
    "warmup_constant_schedule",
):
    gin.external_configurable(getattr(optax, _name), name=_name, module="optax")


@gin.configurable
def clipped(
    optimizer: optax.GradientTransformation = gin.REQUIRED, max_norm: float = 1.0
) -> optax.GradientTransformation:
    """Clips the gradient of all trained parameters together before the optimizer sees it.

    Args:
        optimizer: any.
        max_norm: the greatest L2 norm that passes unchanged; 1.0 is T5X's usual choice.
    """
    return optax.chain(optax.clip_by_global_norm(max_norm), optimizer)


@gin.configurable
def by_path(
    optimizers: Sequence[tuple[str, Any]] = gin.REQUIRED,
) -> optax.GradientTransformation:
    """Gives parameters optimizers of their own: a prompt wants steps that a kernel would not survive.

    Args:
        optimizers: (regular expression, optimizer); the first that matches the whole path of a parameter has it.

    Raises:
        UserError: for something that is no pair of these; when the optimizer is started, if a parameter matches none.
    """
    for pair in optimizers:
        if len(pair) != 2 or not isinstance(pair[0], str) or not isinstance(pair[1], optax.GradientTransformation):
            wanted = "('.*', @optax.adamw()), brackets included"
            raise UserError(f"by_path.optimizers: {pair!r} is no pair like {wanted}")

    def labels(parameters: dict[str, Any]) -> dict[str, int]:
        return {path: _first_match(path, [pattern for pattern, _ in optimizers]) for path in parameters}

    return optax.partition(dict(enumerate(optimizer for _, optimizer in optimizers)), labels)


def _first_match(path: str, patterns: Sequence[str]) -> int:
    for index, pattern in enumerate(patterns):
        if re.fullmatch(pattern, path):
            return index
    raise UserError(f"by_path.optimizers: no pattern of {list(patterns)} matches the trained parameter {path!r}")


@gin.configurable
def warmup_cosine(
    peak_value: float = gin.REQUIRED, warmup_steps: int = gin.REQUIRED, train_steps: int = gin.REQUIRED
) -> optax.Schedule:
    """A learning rate that rises from 0 in a line and falls back to 0 along a cosine.

    Args:
        peak_value: the highest learning rate.
        warmup_steps: steps up to it.
        train_steps: steps of the whole run.

    Raises:
        UserError: if the run is over before the warm-up is.
    """
    if warmup_steps >= train_steps:
        raise UserError(
            f"a warm-up of {warmup_steps} steps does not fit into {train_steps} training steps; "
            "lower warmup_cosine.warmup_steps or raise TRAIN_STEPS"
        )
    return optax.warmup_cosine_decay_schedule(0.0, peak_value, warmup_steps, train_steps)
