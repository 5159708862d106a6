"""The pictures are those that are said, every competitor makes whole batches of them, and the bars are held to."""

import itertools

import numpy as np
import pytest
from PIL import Image

from benchmarks import data
from experiments.data import DataConfig, open_source
from experiments.data.prepare import prepare


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data.make_pictures(tmp_path / "photos", 20)
    config = DataConfig(source=f"folder:{tmp_path / 'photos'}", size=data.SIZE, channels=3, loading="lazy")
    prepare(open_source(config), config, tmp_path / "photos.records")
    return tmp_path


def test_the_pictures_are_jpegs_in_classes_the_same_each_time(made, tmp_path):
    data.make_pictures(tmp_path / "again", 20)
    files = sorted((made / "photos").rglob("*.jpg"))
    assert len(files) == 20
    assert len({path.parent for path in files}) == data.CLASSES
    for path in files:
        with Image.open(path) as picture:
            assert picture.size == (data.SIDE, data.SIDE)
        again = tmp_path / "again" / path.relative_to(made / "photos")
        assert again.read_bytes() == path.read_bytes()


def test_all_of_ours_make_whole_batches_of_the_same_images(made):
    competitors = data.competition(made / "photos", made / "photos.records", with_torchvision=False)
    for start in competitors.values():
        assert list(itertools.islice(start(), 3)) == [data.BATCH] * 3
    folder, records = (
        open_source(f"{kind}", size=data.SIZE, channels=3, loading="lazy").images[:]
        for kind in (f"folder:{made / 'photos'}", f"records:{made / 'photos.records'}")
    )
    np.testing.assert_array_equal(folder, records)


def test_a_speed_is_images_over_time(monkeypatch):
    clock = iter(np.arange(0, 100, 0.5))
    monkeypatch.setattr(data.time, "perf_counter", lambda: next(clock))
    assert data.speed(lambda: iter(x for x in itertools.repeat(64)), seconds=2.0) == pytest.approx(3 * 64 / 2.0)


@pytest.mark.parametrize(("records", "met"), [(12_000.0, 3), (9_999.0, 2), (3_999.0, 1)])
def test_the_bars_are_held_to_the_best_of_torchvision(records, met):
    found = {"records": [records, 1.0, 10**9], "folder": [1_000.0] * 3}
    found |= {"torchvision, 0 workers": [600.0] * 3, "torchvision, 2 workers": [990.0, 1000.0, 1001.0]}
    assert data.summed_up(found)["torchvision"] == 1_000
    assert data.table(found).count(": met") == met
