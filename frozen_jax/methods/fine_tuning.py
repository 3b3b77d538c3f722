"""Fine-tuning, the baseline: the same trainer with nothing frozen.

    x ──embed──▶ LM ──▶ y              trained: lm/**, kept in float32

A checkpoint of this method holds the whole LM, and the fingerprint of the one it started from.
"""

from __future__ import annotations

from typing import ClassVar

import gin
from jaxtyping import PRNGKeyArray

from frozen_jax.freezing import Rules
from frozen_jax.lm.base import LanguageModel
from frozen_jax.lm.layers import Dropout
from frozen_jax.methods.base import Method


@gin.configurable
class FineTuning(Method):
    """Trains the LM itself."""

    rules: Rules = ((".*", "train"),)
    packs: ClassVar[bool] = True

    def __init__(self, lm: LanguageModel, dropout_rate: float = 0.0) -> None:
        """Holds the LM.

        Args:
            lm: where training starts.
            dropout_rate: T5 was fine-tuned with 0.1; 0 is our default, measured runs are short.
        """
        super().__init__(lm)
        self.dropout_rate = dropout_rate

    def dropout(self, key: PRNGKeyArray) -> Dropout | None:
        """Returns the dropout of one training step."""
        return Dropout(key, self.dropout_rate) if self.dropout_rate else None
