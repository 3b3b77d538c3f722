"""What stands behind the T5 encoder in a sentence-transformers folder, such as GTR's: pooling and a projection.

    config.json, model.safetensors              a T5EncoderModel, read by huggingface_t5
    1_Pooling/config.json                       that tokens are averaged
    2_Dense/config.json, model.safetensors      linear.weight [W, D], neither bias nor activation

The third module, 3_Normalize, has no files.
"""

from __future__ import annotations

import pathlib

from frozen_jax import hub
from frozen_jax.errors import UserError
from frozen_jax.lm.pretrained.safetensors_files import open_tensors, read_json
from frozen_jax.lm.pretrained.stored import StoredArray, transposed

_POOLING, _DENSE = "1_Pooling", "2_Dense"
_WANTED = (f"{_POOLING}/config.json", f"{_DENSE}/config.json", f"{_DENSE}/model.safetensors")


def open_projection(source: str) -> StoredArray:
    """Opens the projection of a dual encoder of GTR's shape.

    Args:
        source: a local folder, or a hub id `organisation/name`.

    Returns:
        The matrix [D, W], from the encoder's width to that of the vectors.

    Raises:
        UserError: if there is none, it is pickled, or the folder does anything else to the encoder's output.
    """
    folder = pathlib.Path(source)
    folder = folder if folder.is_dir() else hub.fetch_snapshot(source, _WANTED)
    pooling = read_json(folder / _POOLING / "config.json")
    # Before version 6 a flag for each way to pool, since then the name of one.
    flags = [name.removeprefix("pooling_mode_").removesuffix("_tokens") for name, on in pooling.items() if on is True]
    found = pooling.get("pooling_mode", [name for name in flags if name != "include_prompt"])
    if found not in ("mean", ["mean"]):
        raise UserError(
            f"{folder / _POOLING}/config.json pools by {found}; a dual encoder of GTR's shape takes the mean"
        )
    dense = read_json(folder / _DENSE / "config.json")
    if dense.get("bias") or not str(dense.get("activation_function", "")).endswith(".Identity"):
        raise UserError(
            f"{folder / _DENSE}/config.json has bias {dense.get('bias')} and activation "
            f"{dense.get('activation_function')}; a projection of GTR's shape has neither"
        )
    if not (folder / _DENSE / "model.safetensors").is_file():
        raise UserError(
            f"{folder / _DENSE} holds no model.safetensors, and pickles are never opened; where it has a "
            "pytorch_model.bin, convert that: load the folder with sentence-transformers and save it anew"
        )
    tensors = open_tensors(str(folder / _DENSE), folder / _DENSE)
    if list(tensors) != ["linear.weight"] or len(tensors["linear.weight"].shape) != 2:
        raise UserError(f"{folder / _DENSE}/model.safetensors holds {sorted(tensors)}, expected a matrix linear.weight")
    return transposed(tensors["linear.weight"])
