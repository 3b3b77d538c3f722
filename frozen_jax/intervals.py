"""How sure a measured figure is: 95% intervals over the examples of a test set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Int

from frozen_jax.ordering import random_bits

Interval = tuple[float, float]
Z = 1.959964  # 95% of a normal distribution lie within so many standard deviations


def wilson(hits: int, count: int) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927): sound for few examples and for proportions near 0 and 1.

    Args:
        hits: how many of the examples were right.
        count: how many examples there are.

    Returns:
        The lowest and highest proportion.
    """
    share, spread = hits / count, Z * Z / count
    centre = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def of_mean(values: Float[np.ndarray, " N"], samples: int = 1000) -> Interval:
    """The interval of a mean: Wilson's where every example is right or wrong, else a percentile bootstrap.

    Args:
        values: one for each example; right ones may count 1 or 100.
        samples: of the bootstrap.

    Returns:
        The lowest and highest mean.
    """
    scale = 100.0 if values.max() == 100 else 1.0
    if set(np.unique(values)) <= {0.0, scale}:
        low, high = wilson(round(values.sum() / scale), len(values))
        return low * scale, high * scale
    return bootstrap(lambda rows: {"mean": float(values[rows].mean())}, len(values), samples)["mean"]


def of_ratio(above: Float[np.ndarray, " N"], below: Int[np.ndarray, " N"], samples: int = 1000) -> Interval:
    """The interval of sum(above) / sum(below), nats per token for instance: a percentile bootstrap over the examples.

    Args:
        above: one for each example.
        below: the same.
        samples: of the bootstrap.

    Returns:
        The lowest and highest ratio.
    """
    return bootstrap(lambda rows: {"ratio": float(above[rows].sum() / below[rows].sum())}, len(above), samples)["ratio"]


def bootstrap(
    measure: Callable[[Int[np.ndarray, " N"]], Mapping[str, float]], count: int, samples: int = 200
) -> dict[str, Interval]:
    """Percentile bootstrap: measures again on examples drawn with replacement, always the same draws.

    Args:
        measure: gives figures for some examples.
        count: how many examples there are.
        samples: how often to measure.

    Returns:
        For each figure its 2.5th and 97.5th percentile.
    """
    found = [measure((random_bits(count, "bootstrap", i) % np.uint64(count)).astype(np.int64)) for i in range(samples)]
    percentiles = {name: np.percentile([figures[name] for figures in found], [2.5, 97.5]) for name in found[0]}
    return {name: (float(low), float(high)) for name, (low, high) in percentiles.items()}
