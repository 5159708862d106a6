"""Comparisons with diffusers in one process; without it, or torch, they are skipped and say so."""

import importlib.util
import warnings

import pytest

MISSING = [name for name in ("torch", "diffusers") if importlib.util.find_spec(name) is None]
if MISSING:
    collect_ignore_glob = []


def pytest_collection_modifyitems(items):
    skip = pytest.mark.skip(reason=f"{' and '.join(MISSING)} missing; install scorefield[interop]")
    for item in items:
        if MISSING and "interop" in item.path.parts:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def diffusers():
    """The package, whose imports and calls warn about its own dependencies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers
        from diffusers import DDIMPipeline, DDPMPipeline, UNet2DModel  # noqa: F401 (imported here, where it may warn)

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    return diffusers


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
