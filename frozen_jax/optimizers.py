"""optax's optimizers and schedules under their own names in gin, and clipping around any of them.

train.optimizer = @optax.adafactor()
optax.adafactor.learning_rate = @optax.warmup_constant_schedule()
"""

from __future__ import annotations

import gin
import optax

for _name in (
    "adafactor",
    "adamw",
    "sgd",
    "constant_schedule",
    "linear_schedule",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
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
