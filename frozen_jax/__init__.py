"""frozen_jax: small trained modules around giant language models that stay frozen for ever."""

from frozen_jax import cloud_storage  # noqa: F401  (first: it chooses who serves gs://)
from frozen_jax.lm.pretrained.load import load_lm

__all__ = ["load_lm"]
