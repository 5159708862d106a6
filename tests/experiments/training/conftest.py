"""Compile each program once for all tests here, the processes they start included, and without much effort."""

import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def quick_compilation(tmp_path_factory):
    from jax.experimental.compilation_cache import compilation_cache

    options = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_disable_most_optimizations": True,
    }
    before = {name: getattr(jax.config, name, False) for name in options}
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in options.items():
            jax.config.update(name, value)
            monkeypatch.setenv(name.upper(), str(value))
        compilation_cache.reset_cache()
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
