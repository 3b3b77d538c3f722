"""LoRA (Hu et al. 2021), a control: low-rank maps beside the linear maps of a frozen LM, one pass, nothing in front.

    x ──embed──▶ frozen LM in which  x W  is  x W + (x A) B * alpha / rank ──▶ y

    low_rank/decoder/layers/mlp/wo/a      [L, F, rank]    trained, from a normal
    low_rank/decoder/layers/mlp/wo/b      [L, rank, D]    trained, from zeros: the first outputs are the frozen LM's
    low_rank/...                                          two for every other map that is chosen
    lm/**                                                 frozen

The one method that looks into the LM: the seam has no place for what stands beside a single map. So `low_rank` has the
paths of the LM's own maps (what takes the LM's decoder apart takes it apart as well), and every call goes through a
copy of the LM's structure in which the two are joined. The copy holds the same arrays; `lm` stays the frozen LM alone.
W + A B is never formed, so neither is its gradient.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gin
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from frozen_jax.errors import UserError
from frozen_jax.lm.backward import product
from frozen_jax.lm.base import LanguageModel
from frozen_jax.lm.layers import Dense
from frozen_jax.methods.base import Method
from frozen_jax.types import Array


class LowRank(nnx.Module):
    """x [..., in] @ a [in, rank] @ b [rank, out] * scale; with an axis L in front where the LM's layers are stacked."""

    def __init__(self, shape: Sequence[int], rank: int, scale: float, *, rngs: nnx.Rngs) -> None:
        """Makes the map beside a kernel of that shape; a's standard deviation is a kernel's, in**-0.5: our choice."""
        *layers, inputs, outputs = shape
        self.scale = scale
        self.a = nnx.Param(jax.random.normal(rngs.params(), (*layers, inputs, rank)) * inputs**-0.5)
        self.b = nnx.Param(jnp.zeros((*layers, rank, outputs)))

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """Applies the map in the dtype of x."""
        return product(product(x, self.a[...].astype(x.dtype)), self.b[...].astype(x.dtype)) * self.scale


class _Sum(nnx.Module):
    """A linear map and the low-rank map beside it, called as the one was."""

    def __init__(self, dense: Dense, low_rank: LowRank) -> None:
        self.dense, self.low_rank = dense, low_rank

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """Returns the sum of what the two make of x."""
        return self.dense(x) + self.low_rank(x)


@gin.configurable
class LoRA(Method):
    """Low-rank maps beside the attention and MLP maps of a frozen LM."""

    packs: ClassVar[bool] = True

    def __init__(
        self, lm: LanguageModel, rank: int = 8, alpha: float = 16.0, maps: Sequence[str] = (".*",), seed: int = 0
    ) -> None:
        """Makes the low-rank maps: rank * L * (in + out) parameters each.

        Args:
            lm: the frozen LM.
            rank: of every map; 8 is a usual choice, and ours.
            alpha: the maps are multiplied by alpha / rank, so that another rank wants no other learning rate; 16 is a
                usual choice, and ours.
            maps: regular expressions; a map of the LM's layers has a low-rank map beside it if one matches the whole of
                its path, such as `decoder/layers/self_attention/query`. Head and embeddings are no such maps.
            seed: of everything random here.

        Raises:
            UserError: for a pattern that matches no map, a rank that is none or larger than a side of a map, or an
                alpha with which nothing would be learnt.
        """
        super().__init__(lm)
        if not alpha > 0:
            raise UserError(f"LoRA.alpha is {alpha}; it must be more than 0")
        self.settings = (("alpha", alpha),)
        self.low_rank, rngs = nnx.Dict(), nnx.Rngs(seed)
        for path, dense in _chosen(_maps(lm), maps, lm.name).items():
            _check_rank(rank, path, dense)
            *parents, name = path.split("/")
            node = functools.reduce(lambda node, parent: node.setdefault(parent, nnx.Dict()), parents, self.low_rank)
            node[name] = LowRank(dense.kernel.shape, rank, alpha / rank, rngs=rngs)

    @property
    def wrapped(self) -> LanguageModel:
        """The LM with the low-rank maps beside its own: another structure around the same arrays."""
        graphdef, state = nnx.split(self)
        joined = nnx.merge(graphdef, state)
        modules: list[tuple[Any, Any]] = list(nnx.iter_modules(joined.low_rank))
        for path, low_rank in modules:
            if isinstance(low_rank, LowRank):
                parent = functools.reduce(_child, path[:-1], joined.lm)
                setattr(parent, path[-1], _Sum(getattr(parent, path[-1]), low_rank))
        return joined.lm


def _child(node: Any, name: str | int) -> Any:
    """One step of a path; layers that stand apart are numbered."""
    return node[name] if isinstance(name, int) else getattr(node, name)


def _maps(lm: LanguageModel) -> dict[str, Dense]:
    """The linear maps of an LM's layers by their paths."""
    found = {path: module for path, module in nnx.iter_modules(lm) if isinstance(module, Dense) and "layers" in path}
    return {"/".join(map(str, path)): module for path, module in found.items()}


def _chosen(maps: Mapping[str, Dense], patterns: Sequence[str], name: str) -> dict[str, Dense]:
    """Those that a pattern matches, and every pattern matches some."""
    for pattern in patterns or ("",):
        if not any(re.fullmatch(pattern, path) for path in maps):
            close = " or ".join(difflib.get_close_matches(pattern, maps, n=2, cutoff=0.0))
            raise UserError(f"LoRA.maps: {pattern!r} matches no linear map in the layers of {name}; try {close}")
    return {path: dense for path, dense in maps.items() if any(re.fullmatch(pattern, path) for pattern in patterns)}


def _check_rank(rank: int, path: str, dense: Dense) -> None:
    inputs, outputs = dense.kernel.shape[-2:]
    if not 1 <= rank <= min(inputs, outputs):
        raise UserError(
            f"LoRA.rank is {rank}; from 1 to {min(inputs, outputs)} fit beside {path}, {inputs} x {outputs}"
        )
