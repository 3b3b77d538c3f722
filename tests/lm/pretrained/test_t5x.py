"""T5X checkpoints: both formats, scanned trees, and files that nobody should trust."""

from __future__ import annotations

import json
import pathlib

import ml_dtypes
import msgpack
import numpy as np
import pytest

from frozen_jax.errors import UserError
from frozen_jax.lm.pretrained import t5x
from frozen_jax.lm.pretrained.load import canonical_shapes, load_lm
from frozen_jax.lm.pretrained.stored import check_arrays, fingerprint
from tests.lm.pretrained import written
from tests.lm.pretrained.written import FIXTURES, GATED

QUERY = "encoder/layers_0/attention/query/kernel"


def opened(folder: pathlib.Path, **config) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint, read whole, after the checks that `load_lm` makes."""
    checkpoint = t5x.open_checkpoint(str(folder), **config)
    check_arrays(checkpoint, canonical_shapes(checkpoint.config))
    return {name: stored.read_all() for name, stored in checkpoint.arrays.items()}


def one_line(action, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        action()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("case", ["t5_1_1_tiny_legacy", "t5_1_1_tiny_orbax", "t5_1_0_tiny_legacy"])
def test_fixtures_bit_for_bit(case):
    config = {} if "1_0" in case else {"mlp_activations": GATED}
    checkpoint = t5x.open_checkpoint(str(FIXTURES / case / "checkpoint_7"), **config)
    found = {name: stored.read_all() for name, stored in checkpoint.arrays.items()}
    written.assert_same(found, written.fixture_params(case))
    told = json.loads((FIXTURES / case / "README.json").read_text())["config"]
    for field in (
        "vocab_size",
        "emb_dim",
        "num_heads",
        "head_dim",
        "mlp_dim",
        "num_encoder_layers",
        "num_decoder_layers",
    ):
        assert getattr(checkpoint.config, field) == told[field], field
    assert checkpoint.config.mlp_activations == tuple(told["mlp_activations"])
    assert checkpoint.config.logits_via_embedding == told["logits_via_embedding"]
    assert checkpoint.config.relative_position_buckets == told["relative_position_buckets"]


def test_both_formats_have_one_fingerprint():
    cases = ("t5_1_1_tiny_legacy", "t5_1_1_tiny_orbax")
    marks = {
        fingerprint(t5x.open_checkpoint(str(FIXTURES / case / "checkpoint_7"), mlp_activations=GATED).arrays)
        for case in cases
    }
    assert len(marks) == 1


def test_reads_parts():
    checkpoint = t5x.open_checkpoint(str(FIXTURES / "t5_1_1_tiny_orbax"), mlp_activations=GATED)
    part = (slice(3, 7), slice(1, 5))
    np.testing.assert_array_equal(checkpoint.arrays[QUERY].read(part), written.fixture_params()[QUERY][part])


def test_latest_of_several_checkpoints(tmp_path):
    params = written.fixture_params("t5_1_0_tiny_legacy")
    for step in (9, 100, 20):
        leaves = {name: written.inline(array + np.float32(step)) for name, array in params.items()}
        written.legacy(tmp_path / f"checkpoint_{step}", leaves)
    (tmp_path / "checkpoint_300").mkdir()  # begun and never finished
    (tmp_path / "checkpoint_400.tmp-7").mkdir()
    expected = {name: array + np.float32(100) for name, array in params.items()}
    written.assert_same(opened(tmp_path), expected)


def test_inline_arrays_beside_zarr_and_bfloat16(tmp_path):
    params = {name: array.astype(ml_dtypes.bfloat16) for name, array in written.fixture_params().items()}
    leaves = {
        name: written.zarr(tmp_path, name, array, (4, 6)) if name == QUERY else written.inline(array)
        for name, array in params.items()
    }
    written.assert_same(opened(written.legacy(tmp_path, leaves), mlp_activations=GATED), params)


@pytest.mark.parametrize("layout", ["legacy", "orbax", "orbax without a database"])
def test_scanned_tree(tmp_path, layout):
    params = written.fixture_params()
    stacked = written.scanned(params)
    if layout == "legacy":
        written.legacy(tmp_path, {name: written.zarr(tmp_path, name, array) for name, array in stacked.items()})
    elif layout == "orbax":
        written.ocdbt(tmp_path, stacked)
    else:
        for name, array in stacked.items():
            written.zarr(tmp_path / "state", name, array)
    lm = load_lm(str(tmp_path), mlp_activations=GATED)
    assert lm.config.relative_position_bias_per_layer
    expected = {name: array for name, array in params.items() if "relpos_bias" not in name}
    for stack in ("encoder", "decoder"):
        bias = params[f"{stack}/relpos_bias/rel_embedding"]
        expected |= {f"{stack}/layers_{i}/relpos_bias/rel_embedding": bias * np.float32(i + 1) for i in range(2)}
    written.assert_same(written.loaded_params(lm), expected)


def test_scanned_and_unscanned_trees_have_one_fingerprint(tmp_path):
    stacked = written.ocdbt(tmp_path / "stacked", written.scanned(written.fixture_params(), per_layer_bias=False))
    marks = {
        fingerprint(t5x.open_checkpoint(str(folder), mlp_activations=GATED).arrays)
        for folder in (stacked, FIXTURES / "t5_1_1_tiny_legacy")
    }
    assert len(marks) == 1


def test_gated_net_without_its_activations():
    match = r'give mlp_activations=\("gelu", "linear"\)'
    one_line(lambda: t5x.open_checkpoint(str(FIXTURES / "t5_1_1_tiny_orbax")), match)


def test_config_that_disagrees_names_both_shapes():
    folder = FIXTURES / "t5_1_1_tiny_orbax"
    one_line(lambda: opened(folder, mlp_activations=GATED, mlp_dim=64), r"shape \(16, 32\) .* shape \(16, 64\)")
    one_line(lambda: opened(folder, mlp_activations=("relu",)), r"mlp/wi/kernel .* missing")


def test_heads_that_do_not_divide(tmp_path):
    params = written.fixture_params()
    params["encoder/relpos_bias/rel_embedding"] = np.zeros((5, 32), np.float32)
    folder = written.legacy(tmp_path, {name: written.inline(array) for name, array in params.items()})
    one_line(lambda: opened(folder, mlp_activations=GATED), r"12 columns, which 5 heads")


def test_checkpoint_of_another_model(tmp_path):
    folder = written.legacy(tmp_path, {"dense/kernel": written.inline(np.zeros((2, 2), np.float32))})
    one_line(lambda: opened(folder), r"is no T5: .*token_embedder/embedding; it begins with dense/kernel")


def test_folder_without_a_checkpoint(tmp_path):
    one_line(lambda: opened(tmp_path), r"holds no T5X checkpoint")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_msgpack(tmp_path, share):
    file = written.copied("t5_1_0_tiny_legacy", tmp_path) / "checkpoint"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    one_line(lambda: opened(tmp_path), r"checkpoint is corrupt or cut short")


@pytest.mark.parametrize(
    "content",
    [
        b"\xc1" * 50,
        b"\xdf\xff\xff\xff\xff",  # a map that claims four billion entries
        b"\xc6\xff\xff\xff\xff" + b"0" * 20,  # four gigabytes of bytes
        b"\x91" * 5000,  # five thousand lists in each other
    ],
)
def test_corrupt_msgpack(tmp_path, content):
    (tmp_path / "checkpoint").write_bytes(content)
    one_line(lambda: opened(tmp_path), r"checkpoint is corrupt or cut short")


@pytest.mark.parametrize("tree", [7, {"optimizer": 3}, {"optimizer": {"target": []}}])
def test_msgpack_of_something_else(tmp_path, tree):
    (tmp_path / "checkpoint").write_bytes(msgpack.packb(tree))
    one_line(lambda: opened(tmp_path), r"has no optimizer/target")


def test_tree_without_an_end(tmp_path):
    one_line(
        lambda: opened(written.legacy(tmp_path, {"a/" * 400 + "b": 1})), r"is neither an array nor the path of one"
    )


def test_inline_array_that_lies(tmp_path):
    real = np.zeros((2, 2), np.float32)
    for leaf in (
        written.inline(real, shape=(10**6, 10**6)),
        written.inline(real, shape=(-2, -2)),
        written.inline(real.astype("datetime64[s]")),
        msgpack.ExtType(1, b"\x93\x92"),
    ):
        folder = written.legacy(tmp_path, {"token_embedder/embedding": leaf})
        one_line(lambda folder=folder: opened(folder), r"array token_embedder/embedding is corrupt")


@pytest.mark.parametrize("path", ["../elsewhere/", "a/../../elsewhere/", "/etc/", "..", "link/", "."])
def test_path_that_leaves_the_folder(tmp_path, path):
    array = np.ones((2, 2), np.float32)
    spec = written.zarr(tmp_path / "elsewhere", "x", array)
    (tmp_path / "checkpoint_1").mkdir()
    (tmp_path / "checkpoint_1" / "link").symlink_to(tmp_path / "elsewhere" / "target.x")
    spec["kvstore"]["path"] = path
    folder = written.legacy(tmp_path / "checkpoint_1", {"token_embedder/embedding": spec})
    one_line(lambda: opened(folder), r"leaves the checkpoint's folder")


def broken_array(tmp_path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """A copy of a legacy checkpoint, and the folder of one of its arrays."""
    folder = written.copied("t5_1_1_tiny_legacy", tmp_path)
    return folder, folder / f"target.{QUERY.replace('/', '.')}"


def test_truncated_chunk(tmp_path):
    folder, array = broken_array(tmp_path)
    (array / "0.0").write_bytes((array / "0.0").read_bytes()[:100])
    one_line(lambda: opened(folder, mlp_activations=GATED), r"attention.query.kernel is corrupt or cut short")


def test_missing_chunk_is_not_taken_for_zeros(tmp_path):
    folder, array = broken_array(tmp_path)
    (array / "0.0").unlink()
    one_line(lambda: opened(folder, mlp_activations=GATED), r"has 0 chunks, but its shape \(16, 12\) needs 1")


def test_missing_array(tmp_path):
    folder, array = broken_array(tmp_path)
    array.rename(folder / "away")
    one_line(lambda: opened(folder, mlp_activations=GATED), r"attention.query.kernel is missing")


def test_corrupt_metadata(tmp_path):
    folder, array = broken_array(tmp_path)
    (array / ".zarray").write_text("{")
    one_line(lambda: opened(folder, mlp_activations=GATED), r"attention.query.kernel is missing, corrupt or cut short")


@pytest.mark.parametrize(("shape", "chunks"), [((10**6, 10**6), (10**6, 10**6)), ((10**6, 10**6), (1, 1))])
def test_shape_that_no_memory_holds(tmp_path, shape, chunks):
    folder, array = broken_array(tmp_path)
    metadata = json.loads((array / ".zarray").read_text()) | {"shape": shape, "chunks": chunks}
    (array / ".zarray").write_text(json.dumps(metadata))
    one_line(lambda: opened(folder, mlp_activations=GATED), r"claims shape|chunks, but its shape")


def test_scan_over_more_layers_than_any_model_has(tmp_path):
    leaf = written.inline(np.zeros((1, 100_000), np.float32))
    folder = written.legacy(tmp_path, {"encoder/encoder/mlp/wi/kernel": leaf})
    one_line(lambda: opened(folder), r"axis 1 should count layers")


@pytest.mark.parametrize("part", ["manifest.ocdbt", "d", "ocdbt.process_0/d"])
def test_corrupt_database(tmp_path, part):
    folder = written.copied("t5_1_1_tiny_orbax", tmp_path)
    place = folder / "state" / part
    for file in [place] if place.is_file() else place.iterdir():
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 20])  # most of the rest is nodes that later ones replaced
    one_line(lambda: opened(folder, mlp_activations=GATED), r"corrupt or cut short")
