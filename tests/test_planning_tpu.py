"""What the compiler for TPUs says, of TPUs that are not here. Needs libtpu, see CONTRIBUTING.md."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from frozen_jax import chips, partitioning, planning
from frozen_jax.errors import UserError

pytest.importorskip("libtpu", reason="pip install -r requirements-tpu.txt")
CHIP = chips.GENERATIONS["v5e"]


@pytest.fixture(scope="module", autouse=True)
def _flags_of_tpus():
    """XLA within libtpu ends the process at a flag that it does not know; that of CPUs has read its own by now."""
    jax.devices()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("XLA_FLAGS")
        yield


def measured(depth, width=1024):
    """A chain of products, a layer each, its kernels split two ways."""
    with partitioning.standing_in(chips.devices("v5e:2x2")):
        mesh = partitioning.make_mesh(model=2)

    def loss(kernels, x):
        def body(x, pair):
            return jnp.tanh(x @ pair[0]) @ pair[1].T, None

        return jnp.sum(jax.lax.scan(body, x, kernels)[0].astype(jnp.float32))

    def shape(*sizes, spec):
        return jax.ShapeDtypeStruct(sizes, jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

    arguments = shape(depth, 2, width, 4 * width, spec=(None, None, None, "model")), shape(2048, width, spec=("data",))
    return planning.measure(lambda options: jax.jit(loss).lower(*arguments).compile(options), CHIP)


@pytest.mark.slow
def test_twice_the_depth_is_twice_the_flops_and_the_time():
    four, eight = measured(4), measured(8)
    assert eight.flops == 2 * four.flops == 8 * 2 * (2 * 1024 * 1024 * 2048)
    assert 1.9 < eight.compute_seconds / four.compute_seconds < 2.1
    assert 1.9 < eight.collective_seconds / four.collective_seconds < 2.1
    assert eight.collectives["all-reduce"].times - four.collectives["all-reduce"].times == 4
    assert four.flops < four.compute_seconds * CHIP.peak_flops < 2 * four.flops  # large products: near the peak


@pytest.mark.slow
def test_what_does_not_fit_is_told_with_its_size(capfd):
    step = measured(40, width=8192)
    assert not step.fits
    assert step.peak_bytes > CHIP.hbm_bytes
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", chips.GENERATIONS)
def test_libtpu_names_its_devices_as_is_expected(name):
    device = chips.devices(f"{name}:{chips.GENERATIONS[name].slices[-1]}")[0]
    assert device.device_kind in chips.GENERATIONS[name].kinds


@pytest.mark.parametrize(("topology", "count"), [("v4:2x2x1", 4), ("v5e:1x1", 1), ("v5p:4x4x4", 64), ("v6e:2x4", 8)])
def test_a_device_is_a_chip(topology, count, capfd):
    assert len(chips.devices(topology)) == count
    assert capfd.readouterr().err == ""


def test_a_slice_that_libtpu_does_not_know_is_told_with_those_that_there_are():
    with pytest.raises(UserError, match=r"v5e:3x3: libtpu knows no such slice .* of v5e there are 1x1, 2x2"):
        chips.devices("v5e:3x3")
