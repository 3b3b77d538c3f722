"""GTR's shape: transformers' T5EncoderModel, mean pooling and a projection, against folders that it wrote."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy

from frozen_jax.errors import UserError
from frozen_jax.lm.pretrained.load import load_lm
from frozen_jax.methods.dual_encoder import DualEncoder
from tests import tiny

torch = pytest.importorskip("torch")

import transformers  # noqa: E402

SHAPE = {"vocab_size": 96, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_heads": 3, "num_layers": 2}
DENSE = {
    "in_features": 16,
    "out_features": 12,
    "bias": False,
    "activation_function": "torch.nn.modules.linear.Identity",
}
POOLING = {"word_embedding_dimension": 16, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


def write_gtr(folder: pathlib.Path) -> tuple[torch.nn.Module, np.ndarray]:
    """A random T5EncoderModel and its projection in a folder laid out as sentence-transformers does."""
    torch.manual_seed(1)
    encoder = transformers.T5EncoderModel(transformers.T5Config(**SHAPE)).eval()
    for parameter in encoder.parameters():
        parameter.data.mul_(1.5).add_(0.1 * torch.randn_like(parameter))
    encoder.save_pretrained(folder)
    weight = np.random.default_rng(0).normal(size=(12, 16)).astype(np.float32)
    for name, config in (("1_Pooling", POOLING), ("2_Dense", DENSE)):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file({"linear.weight": weight}, folder / "2_Dense" / "model.safetensors")
    return encoder, weight


def test_vectors_are_those_of_transformers(tmp_path: pathlib.Path) -> None:
    encoder, weight = write_gtr(tmp_path)
    lm = load_lm(str(tmp_path))
    assert lm.config.num_decoder_layers == 0
    batch = tiny.batch(rows=6)
    mask = torch.from_numpy(batch.inputs_mask)
    with torch.no_grad():
        hidden = encoder(torch.from_numpy(batch.inputs).long(), attention_mask=mask.long()).last_hidden_state
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        expected = torch.nn.functional.normalize(mean @ torch.from_numpy(weight).T).numpy()
    found = DualEncoder(lm, projection=str(tmp_path)).vectors(batch.inputs, batch.inputs_mask)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.abs(expected - expected[0]).max() > 0.1  # far from all alike


def test_the_table_may_stand_under_the_name_of_its_copy(tmp_path: pathlib.Path) -> None:
    write_gtr(tmp_path)
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    before = load_lm(str(tmp_path)).fingerprint
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    assert load_lm(str(tmp_path)).fingerprint == before


@pytest.mark.parametrize(
    ("file", "said", "message"),
    [
        ("1_Pooling", {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, r"pools by \['cls_token'\]"),
        ("1_Pooling", {"pooling_mode": "max"}, "pools by max"),
        ("2_Dense", {"bias": True}, "has bias True"),
        ("2_Dense", {"activation_function": "torch.nn.modules.activation.Tanh"}, "activation torch.*Tanh"),
    ],
)
def test_what_is_not_of_that_shape_is_refused(tmp_path: pathlib.Path, file: str, said: dict, message: str) -> None:
    write_gtr(tmp_path)
    config = tmp_path / file / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | said))
    with pytest.raises(UserError, match=message):
        DualEncoder(tiny.t5(), projection=str(tmp_path))


def test_files_that_do_not_fit_are_named(tmp_path: pathlib.Path) -> None:
    write_gtr(tmp_path)
    with pytest.raises(UserError, match="goes from 16 to 12, not 16 to 8"):
        DualEncoder(tiny.t5(), projection=str(tmp_path), width=8)
    (tmp_path / "2_Dense" / "model.safetensors").rename(tmp_path / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pickles are never opened; where it has a pytorch_model\.bin, convert that"):
        DualEncoder(tiny.t5(), projection=str(tmp_path))
