"""What a plan says: bytes, FLOPs and estimated seconds of a run's steps on a topology; see `planning`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from frozen_jax.program_costs import Collective

OMITTED = (
    "lookups on sparse cores, waiting for data and for the slowest host, the latency of collectives and of the network "
    "between slices, copies that do not hide behind other work, checkpoints, validation, and time lost to preemption"
)


class Shapes(NamedTuple):
    """How large batches are.

    Attributes:
        rows: of a training batch.
        lengths: of every feature, "inputs" and "targets" among them.
        eval_rows: that are scored or written at once.
        pack: whether training examples share rows.
    """

    rows: int
    lengths: Mapping[str, int]
    eval_rows: int
    pack: bool = False


@dataclasses.dataclass(frozen=True)
class Step:
    """What one compiled step costs on one chip.

    Attributes:
        temporary_bytes: of HBM, beside what goes in and out.
        peak_bytes: of HBM, all together; where it does not fit, what the compiler would have needed.
        fits: whether the compiler found room for it. If not, all other figures are 0.
        flops: of matrix products, recomputation and all.
        compute_seconds: the compiler's cycles at the chip's clock.
        collective_seconds: see `planning`.
        collectives: by kind.
        unestimated: how many instructions the compiler tells no cycles of.
        compile_seconds: here.
    """

    temporary_bytes: int = 0
    peak_bytes: int = 0
    fits: bool = True
    flops: int = 0
    compute_seconds: float = 0.0
    collective_seconds: float = 0.0
    collectives: Mapping[str, Collective] = dataclasses.field(default_factory=dict)
    unestimated: int = 0
    compile_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """Both, one behind the other."""
        return self.compute_seconds + self.collective_seconds


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run would need on a topology.

    Attributes:
        topology: its name, `v5p:4x4x4`.
        chips: how many.
        mesh: sizes of its axes.
        hbm_bytes: of a chip.
        frozen_bytes: of frozen weights, on a chip.
        trained_bytes: of trained weights, on a chip.
        optimizer_bytes: of the optimizer's state, on a chip.
        trained: how many numbers are trained.
        model_flops: of a training step, all chips together, see `model_flops`.
        peak_flops: of all chips together, published, a second.
        steps: "train", "score", "read" (inputs, and the first token) and "write" (one more token of every text), up to
            the first that does not fit.
        shapes: of the batches.
    """

    topology: str
    chips: int
    mesh: Mapping[str, int]
    hbm_bytes: int
    frozen_bytes: int
    trained_bytes: int
    optimizer_bytes: int
    trained: int
    model_flops: int
    peak_flops: float
    steps: Mapping[str, Step]
    shapes: Shapes

    @property
    def fits(self) -> bool:
        """Whether all steps do."""
        return all(step.fits for step in self.steps.values())

    @property
    def peak_bytes(self) -> int:
        """Of the step that needs the most."""
        return max(step.peak_bytes for step in self.steps.values())

    @property
    def share_of_peak(self) -> float:
        """Model FLOPs over what the chips could do in the estimated time of a training step; 0 if it does not fit."""
        return self.model_flops / (self.steps["train"].seconds * self.peak_flops) if self.seconds else 0.0

    @property
    def compute_share(self) -> float:
        """The same if collectives cost no time at all."""
        train = self.steps["train"]
        return self.model_flops / (train.compute_seconds * self.peak_flops) if train.compute_seconds else 0.0

    @property
    def seconds(self) -> float:
        """Estimated, of a training step."""
        return self.steps["train"].seconds
