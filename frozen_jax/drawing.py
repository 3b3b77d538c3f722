"""What all pictures share: a figure without a display, colours that can be told apart, and the PNG file."""

from __future__ import annotations

import io
from typing import Any


def new_figure(width: float, height: float) -> Any:
    """Returns an empty matplotlib figure, without pyplot and so without a display; in inches."""
    from matplotlib.figure import Figure  # half a second to import, and nothing else needs it

    return Figure(figsize=(width, height), layout="constrained")


def png(figure: Any) -> bytes:
    """Returns a figure as a PNG file."""
    found = io.BytesIO()
    figure.savefig(found, format="png", dpi=150)  # without pyplot this is Agg
    return found.getvalue()


def colours(count: int) -> list[Any]:
    """Returns so many colours: ten that are easy to tell apart, up to twenty in pairs of shades, then again."""
    from matplotlib import colormaps

    palette = colormaps["tab10" if count <= 10 else "tab20"].colors  # pyright: ignore[reportAttributeAccessIssue]
    return [palette[i % len(palette)] for i in range(count)]
