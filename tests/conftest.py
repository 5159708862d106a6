"""What every test shares: four virtual devices, warnings as errors, a float64 switch."""

import os
import signal
from pathlib import Path

from experiments.compilation import add_xla_flags, compile_quickly

os.environ.setdefault("JAX_PLATFORMS", "cpu")
add_xla_flags("--xla_force_host_platform_device_count=4")
# Most of the suite's time is compilation, and most of it is done once: the workers, the processes that tests start and
# the next run find a program beside pytest's own cache. JAX reads these when it is imported.
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"
for variable, value in {
    "JAX_COMPILATION_CACHE_DIR": str(CACHE),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    # Whatever a test takes out of the environment of a command, nothing is written in the user's home.
    "SCOREFIELD_COMPILATION_CACHE": "off",
}.items():
    os.environ.setdefault(variable, value)
compile_quickly()
XLA_FLAGS = os.environ["XLA_FLAGS"]
"""The flags that this process computes with: commands that run in it add to the variable, which is read once."""


import jax  # noqa: E402 (XLA reads its flags once)
import pytest  # noqa: E402

from tests import footprint, kinds, lowering, order, tiers  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--by-kind", action="store_true", help="print what each file's tests spend processor time on")


def pytest_configure(config):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which `nohup` ignores, and whatever is started below it
    lowering.share_context()
    kinds.register(config)
    footprint.register(config)


def pytest_collection_modifyitems(config, items):
    tiers.mark(items)
    if hasattr(config, "workerinput"):
        order.dearest_first(items)


@pytest.fixture
def x64():
    """Float64 for the duration of a test: exact identities are checked to 1e-12."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def as_users_call_it():
    """Without the checks of types that the tests install: users have none, and are to be told in a sentence."""
    import jaxtyping

    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
