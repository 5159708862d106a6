"""The feature network of the digits, trained once for all tests here."""

import pytest


@pytest.fixture(scope="package")
def feature_cache(tmp_path_factory):
    """A folder for `--cache`, `scorefield` in a folder for $XDG_CACHE_HOME."""
    return tmp_path_factory.mktemp("cache") / "scorefield"
