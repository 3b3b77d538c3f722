"""frozen_jax: small trained modules around giant language models that stay frozen for ever."""
