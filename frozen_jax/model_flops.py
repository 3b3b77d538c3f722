"""Model FLOPs: the matrix products that an algorithm asks for, before any compiler and without any recomputation.

A product of the forward pass counts once, and once more for each of its two operands that what is trained has a part
in: that gradient is a product of the same size. A frozen weight has none. So for a fine-tuned model this is the 6 N of
a token, for one that is frozen behind a prompt 4 N, and 2 N for one that reads the input and nothing trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core


def training_flops(loss: Callable[..., Any], trained: Any, *others: Any) -> int:
    """Returns the model FLOPs of one training step, over all chips.

    Args:
        loss: `(trained, *others) -> scalar, or a tree of arrays`.
        trained: what is differentiated; arrays or shapes.
        *others: the other arguments.
    """
    closed = jax.make_jaxpr(loss)(trained, *others)
    moved = [index < len(jax.tree.leaves(trained)) for index in range(len(closed.jaxpr.invars))]
    return _walk(closed.jaxpr, moved)[0]


def _walk(jaxpr: Any, moved: Sequence[bool]) -> tuple[int, list[bool]]:
    """FLOPs, and which results what is trained has a part in, given which arguments it has."""
    depends: dict[Any, bool] = dict(zip(jaxpr.invars, moved, strict=True))
    total = 0
    for equation in jaxpr.eqns:
        into = [not isinstance(var, core.Literal) and depends.get(var, False) for var in equation.invars]
        flops, out = _of_equation(equation, into)
        total += flops
        for var, is_moved in zip(equation.outvars, out, strict=True):
            depends[var] = is_moved and jnp.issubdtype(var.aval.dtype, jnp.inexact)
    return total, [not isinstance(var, core.Literal) and depends.get(var, False) for var in jaxpr.outvars]


def _of_equation(equation: Any, moved: list[bool]) -> tuple[int, list[bool]]:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        return _of_dot(equation) * (1 + sum(moved)), [any(moved)]
    if name == "scan":
        return _of_scan(parameters, moved)
    if name == "while":
        body = parameters["body_jaxpr"].jaxpr
        return _walk(body, [False] * len(body.invars))[0], [False] * len(equation.outvars)
    if name == "cond":
        found = [_walk(branch.jaxpr, moved[1:]) for branch in parameters["branches"]]
        return max(flops for flops, _ in found), [
            any(column) for column in zip(*(out for _, out in found), strict=True)
        ]
    if name == "stop_gradient":
        return 0, [False] * len(equation.outvars)
    for inner in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if inner in parameters:
            called = parameters[inner]
            return _walk(getattr(called, "jaxpr", called), moved)
    return 0, [any(moved)] * len(equation.outvars)


def _of_dot(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _of_scan(parameters: dict[str, Any], moved: list[bool]) -> tuple[int, list[bool]]:
    """What is carried may come to depend on what is trained after some rounds; two tell."""
    body, constants, carried = parameters["jaxpr"].jaxpr, parameters["num_consts"], parameters["num_carry"]
    while True:
        flops, out = _walk(body, moved)
        grown = [a or b for a, b in zip(moved[constants : constants + carried], out[:carried], strict=True)]
        if grown == moved[constants : constants + carried]:
            return parameters["length"] * flops, out
        moved = [*moved[:constants], *grown, *moved[constants + carried :]]
