"""Every bad picture is named with its reason, what is done to others is counted, and the verdict is a training's."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from experiments.data import DataConfig, divided
from experiments.data.check import check
from experiments.errors import DataError

DRAWS = np.random.default_rng(0)


def save(path, *shape, dtype=np.uint8, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = DRAWS.integers(np.iinfo(dtype).max, size=shape, dtype=dtype)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "photos"
    for i in range(6):
        save(folder / "cat" / f"{i}.png", 40, 40, 3)
        save(folder / "dog" / f"{i}.png", 40, 60, 3)
    return folder


def config(folder, **options):
    return DataConfig(source=f"folder:{folder}", **{"size": 20, **options})


def harm(folder):
    (folder / "cat" / "none.png").write_bytes(b"no picture")
    content = (folder / "dog" / "0.png").read_bytes()
    (folder / "dog" / "cut.png").write_bytes(content[: len(content) // 2])
    (folder / "dog" / "new.heic").write_bytes(b"1")
    return (
        "none.png is not a picture",
        "cut.png cannot be read",
        "new.heic is of a kind that scorefield does not read",
    )


def test_what_a_training_reads_is_what_is_said(photos):
    report = check(config(photos))
    training, held_out = divided(config(photos))
    assert held_out is not None
    assert report.ok
    assert report.refused == ()
    assert (report.images, report.held_out) == (len(training) + len(held_out), len(held_out))
    assert report.shape == training.event_shape
    assert report.classes == {"cat": 6, "dog": 6}
    assert report.converted == {"reduced": 12, "of other proportions (cut to the middle)": 6}


def test_every_bad_picture_is_named_once_with_its_reason(photos):
    said = harm(photos)
    report = check(config(photos))
    assert not report.ok
    assert len(report.refused) == len(said)
    for words in said:
        assert sum(words in sentence for sentence in report.refused) == 1, words
    with pytest.raises(DataError) as first:
        divided(config(photos))
    assert str(first.value).startswith(tuple(sentence.removesuffix(".") for sentence in report.refused))
    assert report.classes == {"cat": 6, "dog": 6}


def test_many_of_a_kind_that_is_not_read_are_named_each(photos):
    for name in ("a.heic", "b.heic", "c.cr2"):
        (photos / "cat" / name).write_bytes(b"1")
    report = check(config(photos))
    assert len(report.refused) == 3
    assert not any("more are" in sentence for sentence in report.refused)


def test_where_bad_pictures_are_left_out_the_data_are_taken(photos):
    said = harm(photos)
    report = check(config(photos, on_bad="skip"))
    assert report.ok
    assert len(report.left_out) == len(said)
    training, held_out = divided(config(photos, on_bad="skip"))
    assert held_out is not None
    assert report.images == len(training) + len(held_out) == 12


def test_several_sizes_are_refused_and_the_rest_is_still_looked_at(photos):
    harm(photos)
    report = check(config(photos, size=None))
    assert len(report.refused) == 4
    assert sum("give --data.size" in sentence for sentence in report.refused) == 1
    assert report.shape == ()
    assert report.images == 12


def test_what_is_done_to_pictures_is_counted(photos):
    save(photos / "cat" / "grey.png", 20, 20)
    save(photos / "cat" / "wide.png", 20, 20, dtype=np.uint16)
    save(photos / "cat" / "clear.png", 20, 20, 4)
    Image.new("CMYK", (20, 20)).save(photos / "cat" / "printed.jpg")
    save(photos / "cat" / "small.png", 7, 7, 3)
    turned = Image.Exif()
    turned[0x0112] = 6
    save(photos / "cat" / "turned.jpg", 20, 20, 3, exif=turned)
    save(photos / "cat" / "moving.gif", 20, 20, 3, save_all=True, append_images=[Image.new("RGB", (20, 20))])
    (photos / "notes.txt").write_text("hello")
    report = check(config(photos, crop="none"))
    assert report.ok
    assert report.converted == {
        "reduced": 12,
        "of other proportions (squeezed)": 6,
        "grey, made RGB": 2,
        "of 16 bits, made 8": 1,
        "of CMYK, made RGB": 1,
        "transparent, laid over white": 1,
        "enlarged": 1,
        "turned as the camera was held (EXIF)": 1,
        "of several frames, the first taken": 1,
    }
    assert any(".txt 1" in note for note in report.passed_over)


def test_grey_is_asked_for(photos):
    assert check(config(photos, channels=1)).converted["coloured, made grey"] == 12


def test_data_that_cannot_be_opened_are_one_sentence(tmp_path):
    report = check(config(tmp_path / "nowhere"))
    assert len(report.refused) == 1
    assert "does not exist" in report.refused[0]
    assert (report.images, report.ok) == (0, False)


def test_a_single_image_cannot_be_divided(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save(tmp_path / "one" / "a.png", 20, 20, 3)
    report = check(config(tmp_path / "one"))
    assert "has a single image and none to hold out" in report.refused[0]
    assert check(config(tmp_path / "one", held_out=0)).ok


def test_arrays_and_points_are_reported_too(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.ones((20, 8, 8), np.uint8), labels=np.arange(20) % 2)
    report = check(DataConfig(source=f"npz:{tmp_path / 'a.npz'}"))
    assert (report.ok, report.images, report.shape, report.classes) == (True, 20, (8, 8, 1), {"0": 10, "1": 10})
    assert any("every pixel" in line for line in report.warnings)
    assert check(DataConfig(source="plane:moons")).shape == (2,)


def test_compressed_arrays_are_taken_where_a_training_takes_them(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", images=np.eye(8, dtype=np.uint8)[None].repeat(20, 0) * 255)
    config = DataConfig(source=f"npz:{tmp_path / 'a.npz'}")
    assert divided(config)[0].lazy is None
    report = check(config)
    assert (report.ok, report.images, report.shape) == (True, 20, (8, 8, 1))
    lazily = replace(config, loading="lazy")
    with pytest.raises(DataError) as refused:
        divided(lazily)
    assert check(lazily).refused == (str(refused.value),)


def test_pictures_that_are_to_be_in_memory_and_too_many_are_refused(photos):
    small = config(photos, loading="memory", memory_gib=1e-6)
    with pytest.raises(DataError, match=r"above --data\.memory-gib 1e-06"):
        divided(small)
    report = check(small)
    assert len(report.refused) == 1
    assert "above --data.memory-gib 1e-06" in report.refused[0]
    assert check(replace(small, loading="auto")).ok
