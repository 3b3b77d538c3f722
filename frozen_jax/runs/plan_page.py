"""The page of a plan: what one would put into a proposal, as a table, a picture and what they leave out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from frozen_jax import drawing
from frozen_jax.plans import OMITTED, Plan, Step
from frozen_jax.runs import report

_PARTS = ("frozen weights", "trained weights", "optimizer", "temporaries, inputs and program")


def text(plans: Sequence[Plan], train_steps: int) -> str:
    """Returns a table, a column a topology, and below it what to change where something does not fit.

    Args:
        plans: to compare.
        train_steps: of the run.
    """
    columns = [_figures(plan, train_steps) for plan in plans]
    rows = [[name, *(column.get(name, "") for column in columns)] for name in {n: None for c in columns for n in c}]
    lines = [report.markdown(["a chip, unless it says otherwise", *(plan.topology for plan in plans)], rows)]
    for plan in plans:
        lines += [f"{plan.topology}: {line}" for line in advice(plan)]
    return "\n".join(lines)


def page(table: str, method: Any, train_steps: int) -> str:
    """Returns the whole page, in Markdown.

    Args:
        table: see `text`.
        method: that is planned.
        train_steps: of the run.
    """
    return "\n".join(
        [
            f"# Plan: {type(method).__name__} around {method.lm.name}, {train_steps:,} steps",
            "",
            table,
            "",
            "![HBM a chip](plan.png)",
            "",
            "Compiled for these TPUs without having them. Bytes are the compiler's. **Times are estimates**: the",
            "cycles that the compiler expects of every instruction, at the chip's clock, loops weighted by how often",
            "they run; and collectives, of which it says nothing, at the published speed of the links along one axis,",
            f"as if nothing else went on meanwhile. They leave out {OMITTED}.",
            "The share of peak is model FLOPs, recomputation not counted, over the estimated time and the published",
            "bfloat16 peak.",
            "",
        ]
    )


def over_the_run(plan: Plan, train_steps: int) -> dict[str, float]:
    """Returns examples and tokens a second, and tokens and hours of all steps; the times are 0 if it does not fit.

    Args:
        plan: of the run.
        train_steps: in all.
    """
    tokens = plan.shapes.rows * (plan.shapes.lengths["inputs"] + plan.shapes.lengths["targets"])
    rate = 1 / plan.seconds if plan.seconds else 0.0
    return {
        "examples_per_second": plan.shapes.rows * rate,
        "tokens_per_second": tokens * rate,
        "tokens": tokens * train_steps,
        "hours": plan.seconds * train_steps / 3600,
    }


def advice(plan: Plan) -> list[str]:
    """Returns what to change: where a step does not fit, and where chips would do the same work."""
    found, ways = [], plan.mesh["data"]
    if plan.shapes.eval_rows % ways:
        found.append(
            f"the data axis of {ways} does not divide the {plan.shapes.eval_rows} rows of an evaluation batch, so that "
            f"every chip computes all of them; set evaluate.batch_size to a multiple of {ways}"
        )
    for name, step in plan.steps.items():
        if not step.fits:
            over = (step.peak_bytes - plan.hbm_bytes) / 2**30
            found.append(f"the step {name!r} does not fit, by {over:.1f} GiB a chip; {_cure(plan, name)}")
    return found


def _cure(plan: Plan, step: str) -> str:
    held, model = plan.frozen_bytes + plan.trained_bytes + plan.optimizer_bytes, plan.mesh["model"]
    larger = "or take a larger slice (--smallest looks for one)"
    if held > plan.hbm_bytes / 2:
        return f"most of it is weights: raise make_mesh.model from {model}, set sharding_for.rules = '2d', {larger}"
    if step == "train":
        return f"most of it is activations: raise train.accumulation_steps, lower BATCH_SIZE, {larger}"
    return f"lower evaluate.batch_size from {plan.shapes.eval_rows}, {larger}"


def _figures(plan: Plan, train_steps: int) -> dict[str, str]:
    mesh = " x ".join(f"{size} {axis}" for axis, size in plan.mesh.items())
    found = {
        "chips": str(plan.chips),
        "mesh": mesh,
        "fits": "yes" if plan.fits else "NO",
        "HBM of the chip": _gib(plan.hbm_bytes),
        "frozen weights": _gib(plan.frozen_bytes),
        "trained weights": _gib(plan.trained_bytes),
        "optimizer": _gib(plan.optimizer_bytes),
    }
    for name, step in plan.steps.items():
        found[f"{name}: peak"] = f"{_gib(step.peak_bytes)}, {100 * step.peak_bytes / plan.hbm_bytes:.0f}%"
    return found | (_times(plan, train_steps) if plan.fits else {})


def _times(plan: Plan, train_steps: int) -> dict[str, str]:
    train, run = plan.steps["train"], over_the_run(plan, train_steps)
    found = {
        "temporaries of train": _gib(train.temporary_bytes),
        "FLOPs of a step": f"{train.flops:.3g}",
        "model FLOPs of a step, all chips": f"{plan.model_flops:.3g}",
        "estimated step": f"{1e3 * train.seconds:.1f} ms",
        "  of it computing": f"{1e3 * train.compute_seconds:.1f} ms",
        "  of it collectives": f"{1e3 * train.collective_seconds:.1f} ms",
        "estimated share of peak": f"{100 * plan.share_of_peak:.1f}%",
        "  were collectives free": f"{100 * plan.compute_share:.1f}%",
        "examples/s, all chips": f"{run['examples_per_second']:.1f}",
        "tokens/s, all chips": f"{run['tokens_per_second']:,.0f}",
        "tokens of the run, padding too": f"{run['tokens']:.3g}",
        f"hours of {train_steps:,} steps": f"{run['hours']:.2f}",
    }
    return found | _reading(plan.steps, plan.shapes.eval_rows) | _collectives(train)


def _reading(steps: Mapping[str, Step], rows: int) -> dict[str, str]:
    names = {
        "score": "examples scored/s, all chips",
        "read": "inputs read/s, all chips",
        "write": "tokens written/s, all chips",
    }
    return {title: f"{rows / steps[name].seconds:,.0f}" for name, title in names.items() if name in steps}


def _collectives(train: Step) -> dict[str, str]:
    return {
        f"{kind} of train": f"{sent.times} x, {_gib(sent.bytes_sent)} sent" for kind, sent in train.collectives.items()
    }


def _gib(count: int) -> str:
    return f"{count / 2**30:.3g} GiB" if count >= 2**27 else f"{count / 2**20:.3g} MiB"


def picture(plans: Sequence[Plan]) -> bytes:
    """Draws what fills a chip's HBM in training, a bar a topology, and what there is. Returns a PNG file."""
    figure = drawing.new_figure(9.0, 1.6 + 0.6 * len(plans))
    place = figure.subplots()
    left = [0.0] * len(plans)
    for part, colour in zip(_PARTS, drawing.colours(len(_PARTS)), strict=True):
        widths = [_parts(plan)[part] / 2**30 for plan in plans]
        place.barh(range(len(plans)), widths, left=left, label=part, color=colour)
        left = [begin + width for begin, width in zip(left, widths, strict=True)]
    for row, plan in enumerate(plans):
        place.vlines(plan.hbm_bytes / 2**30, row - 0.45, row + 0.45, color="black", linewidth=2)
    place.set_yticks(range(len(plans)), [plan.topology for plan in plans])
    place.invert_yaxis()
    place.set_xlabel("GiB of HBM on a chip; the black line is what it has")
    figure.legend(loc="outside upper center", ncols=len(_PARTS), frameon=False)
    return drawing.png(figure)


def _parts(plan: Plan) -> dict[str, int]:
    sizes = (plan.frozen_bytes, plan.trained_bytes, plan.optimizer_bytes)
    return dict(zip(_PARTS, (*sizes, max(0, plan.steps["train"].peak_bytes - sum(sizes))), strict=True))
