"""Counts the matrix-product FLOPs of a compiled function, every loop weighted by its trip count.

The optimised HLO is read, see `hlo`: 2 * (size of the result) * (size of the contracted axes) for every `dot`, and the
same for every `convolution`, which is what TPU programs make of a `dot`. Element-wise work is left out: it is memory,
not matrix units, that it waits for.
"""

from __future__ import annotations

import math
import re

import jax
import numpy as np

from frozen_jax import hlo

_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")


def count_flops(compiled: jax.stages.Compiled) -> int:
    """Returns the FLOPs of the matrix products that one call of a compiled function makes, on one device.

    Loops whose trip count the compiler does not know (decoding until all rows have ended) count once.
    """
    return program_flops(hlo.read(compiled.as_text() or ""))


def program_flops(program: hlo.Program) -> int:
    """Returns the same of a program that has been read."""
    count = {"dot": _of_dot, "convolution": _of_convolution}
    return sum(times * count[one.op](one, around) for times, around, one in program.instructions() if one.op in count)


def _of_dot(dot: hlo.Instruction, around: hlo.Computation) -> int:
    left, contracted = around.instructions[dot.operands[0]].sizes(), _CONTRACTED.search(dot.attributes)
    places = contracted[1].split(",") if contracted else []
    return 2 * math.prod(dot.sizes()) * math.prod(left[int(axis)] for axis in places if axis)


def _of_convolution(convolution: hlo.Instruction, around: hlo.Computation) -> int:
    """Products with padding and with the holes of a dilated axis do not count: that is how batches are expressed."""
    labels = _LABELS.search(convolution.attributes)
    assert labels, f"a convolution without dim_labels: {convolution}"
    inputs, kernel, output = (
        dict(zip(names, sizes, strict=True))
        for names, sizes in zip(
            labels.groups(),
            [*(around.instructions[one].sizes() for one in convolution.operands[:2]), convolution.sizes()],
            strict=True,
        )
    )
    groups = re.search(r"batch_group_count=(\d+)", convolution.attributes)
    batch = inputs["b"] // (int(groups[1]) if groups else 1)
    window = _window(convolution.attributes)
    spatial = (
        _pairs(inputs[axis], kernel[axis], output[axis], {name: window[name][int(axis)] for name in window})
        for axis in output
        if axis.isdigit()
    )
    return 2 * batch * output["f"] * kernel["i"] * math.prod(spatial)


def _window(attributes: str) -> dict[str, list[str]]:
    """Of every spatial axis: size, stride, pad, lhs_dilate, rhs_dilate, where they are told."""
    found = re.search(r"window=\{([^}]*)\}", attributes)
    told = dict(part.split("=") for part in found[1].split()) if found else {}
    return {name: values.split("x") for name, values in told.items()}


def _pairs(inputs: int, kernel: int, output: int, window: dict[str, str]) -> int:
    """How many pairs of a place in the output and one in the kernel meet something of the input."""
    stride, holes, spread = (int(window.get(name, "1")) for name in ("stride", "lhs_dilate", "rhs_dilate"))
    before = int(window.get("pad", "0_0").split("_")[0])
    places = np.arange(output)[:, None] * stride + np.arange(kernel)[None] * spread - before
    return int(np.sum((places >= 0) & (places % holes == 0) & (places // holes < inputs)))
