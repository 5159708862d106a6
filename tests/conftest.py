"""What every test shares: four virtual devices, warnings as errors, a float64 switch."""

import os
from importlib.metadata import version

# Small programs compile in two thirds of the time by the older code generator, and a seventh faster in one piece. XLA
# refuses flags that it does not know, and the first of these was dropped.
flags, jaxlib = ["--xla_force_host_platform_device_count=4"], tuple(map(int, version("jaxlib").split(".")[:2]))
if jaxlib < (0, 11):
    flags.append("--xla_cpu_use_fusion_emitters=false")
if jaxlib < (0, 13):
    flags.append("--xla_cpu_parallel_codegen_split_count=1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
for flag in flags:
    if flag.partition("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"

import jax  # noqa: E402 (XLA reads its flags once)
import pytest  # noqa: E402

# Most of the suite's time is compilation; results differ in rounding only.
jax.config.update("jax_disable_most_optimizations", True)
# And most of it is done once: the second run finds the programs of the first beside pytest's own cache.
jax.config.update("jax_compilation_cache_dir", os.path.join(os.path.dirname(__file__), "..", ".pytest_cache", "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture
def x64():
    """Float64 for the duration of a test: exact identities are checked to 1e-12."""
    with jax.enable_x64(True):
        yield
