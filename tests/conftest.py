"""The settings that every test runs under: eight CPU devices, strict JAX, shapes and types checked.

They are stricter than what users run with, so that a silent promotion, a forgotten axis or a wrong shape fails here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tests.xla_flags import COMPILED_QUICKLY

# Read when JAX is imported, and inherited by every process that a test starts.
_CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {COMPILED_QUICKLY}".strip()
    ),
    "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(_CACHE)),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    # A bound is what makes JAX lock the cache, and the tests' processes share one.
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**30),
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TOKENIZERS_PARALLELISM": "false",
}
os.environ.update(_ENVIRONMENT)

import hypothesis  # noqa: E402
import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

jaxtyping.install_import_hook("frozen_jax", "beartype.beartype")

# Not by context managers: threads and fixtures of any scope are to be strict as well.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples in every run, and no deadline: the first example of a shape compiles.
hypothesis.settings.register_profile("frozen_jax", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("frozen_jax")


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs_dropped() -> Iterator[None]:
    """Forgets each file's compiled programs: a process that keeps thousands runs out of memory maps, and crashes."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _loose_promotion(request: pytest.FixtureRequest) -> Iterator[None]:
    """Gives tests marked `loose_promotion` JAX's ordinary rules: optax's optimizers raise under the strict ones."""
    if request.node.get_closest_marker("loose_promotion") is None:
        yield
        return
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
