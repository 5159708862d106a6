"""Compile each program once for all tests here, the processes they start included, and without much effort."""

import os
import sys
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="package", autouse=True)
def quick_compilation(tmp_path_factory):
    from jax.experimental.compilation_cache import compilation_cache

    folder = tmp_path_factory.mktemp("compiled")
    options = {
        "jax_compilation_cache_dir": (None, str(folder)),
        "jax_persistent_cache_min_compile_time_secs": (1.0, 0.0),
        "jax_disable_most_optimizations": (False, True),
    }
    for name, (_, value) in options.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    compilation_cache.reset_cache()
    yield
    for name, (before, _) in options.items():
        jax.config.update(name, before)
        del os.environ[name.upper()]
    compilation_cache.reset_cache()
