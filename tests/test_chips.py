"""TPU generations: what is published agrees with itself, and what a user may get wrong."""

import pytest

from frozen_jax import chips
from frozen_jax.errors import UserError

TILES = "xla_tpu_scoped_vmem_limit_kib"


def test_published_peaks_agree_with_published_clocks():
    clocks = {name: round(found.clock / 1e6, -1) for name, found in chips.GENERATIONS.items()}
    assert clocks == {"v4": 1050, "v5e": 1500, "v5p": 1750, "v6e": 1750}


@pytest.mark.parametrize("name", chips.GENERATIONS)
def test_slices_grow(name):
    counts = [chips.chips(f"{name}:{one}") for one in chips.GENERATIONS[name].slices]
    assert counts == sorted(counts)


@pytest.mark.parametrize("topology", ["v9:2x2", "tpu", ""])
def test_an_unknown_generation_lists_the_known(topology):
    with pytest.raises(UserError, match=r"no TPU that is known here; known are v4 .*v5e .*v5p .*4x4x4.*v6e"):
        chips.generation(topology)


@pytest.mark.parametrize(
    ("kind", "options"), [("TPU v5", {TILES: "49152"}), ("TPU v4", {}), ("TPU v99", {}), ("cpu", {})]
)
def test_room_for_tiles_goes_by_the_device(kind, options, monkeypatch):
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    assert chips.compiler_options(kind) == options


def test_libtpu_init_args_go_first(monkeypatch):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", f"--xla_enable_async_all_gather=true --{TILES}=98304")
    assert chips.compiler_options("TPU v5") == {}


@pytest.mark.parametrize("topology", ["v5p", "v5p:4xx4", "v5p:0x4", "v5p:four"])
def test_sizes_are_wanted(topology):
    with pytest.raises(UserError, match=r"write GENERATION:SIZES, such as v5p:4x4x4"):
        chips.chips(topology)


def test_without_libtpu_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed; pip install -r requirements-tpu\.txt"):
        chips.devices("v5p:4x4x4")
