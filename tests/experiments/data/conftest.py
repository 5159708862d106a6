"""What every test of a source needs: a check of the sentences by which bad data is refused."""

import pytest

from experiments.data import open_source
from experiments.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache folder of the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "scorefield"


@pytest.fixture
def refused():
    """Open a URI that must be refused, in one sentence with a remedy that contains all the words."""

    def check(uri, *words, **options):
        with pytest.raises(DataError) as caught:
            open_source(uri, **options)
        sentence = str(caught.value)
        assert "\n" not in sentence
        assert sentence.endswith(".")
        assert ";" in sentence, "no remedy"
        for word in words:
            assert str(word) in sentence
        assert caught.value.exit_status == 3
        return sentence

    return check
