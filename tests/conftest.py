"""What every test shares: four virtual devices, warnings as errors, a float64 switch."""

import os

from experiments.compilation import add_xla_flags, compile_quickly

os.environ.setdefault("JAX_PLATFORMS", "cpu")
add_xla_flags("--xla_force_host_platform_device_count=4")
compile_quickly()  # most of the suite's time is compilation

import jax  # noqa: E402 (XLA reads its flags once)
import pytest  # noqa: E402

from tests import footprint  # noqa: E402

# And most of it is done once: the second run finds the programs of the first beside pytest's own cache.
jax.config.update("jax_compilation_cache_dir", os.path.join(os.path.dirname(__file__), "..", ".pytest_cache", "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture
def x64():
    """Float64 for the duration of a test: exact identities are checked to 1e-12."""
    with jax.enable_x64(True):
        yield


def pytest_configure(config):
    footprint.register(config)
