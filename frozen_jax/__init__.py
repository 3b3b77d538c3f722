"""frozen_jax: small trained modules around giant language models that stay frozen for ever."""

from frozen_jax.lm.pretrained.load import load_lm

__all__ = ["load_lm"]
