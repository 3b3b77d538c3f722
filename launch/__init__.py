"""Starts frozen_jax on TPU pods, from any machine with Python 3.11: the standard library alone, no JAX."""
