"""What every test shares: four virtual devices, warnings as errors, a float64 switch."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"

import jax
import pytest

# Most of the suite's time is compilation; results differ in rounding only.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def x64():
    """Float64 for the duration of a test: exact identities are checked to 1e-12."""
    with jax.enable_x64(True):
        yield
