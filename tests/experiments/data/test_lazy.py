"""Sources that are decoded as they are used: element n is what it is in memory, whoever decodes it."""

import gzip
import os
import pickle
import struct
import zipfile
from itertools import islice
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.data import Source, open_source, pipeline, split
from experiments.data.files import Names
from experiments.data.lazy import LazyImages, Mirrored, View
from experiments.data.pipeline import read_ahead
from experiments.data.summary import summary, warnings
from experiments.errors import DataError

RNG = np.random.default_rng(7)
COLOURS = RNG.integers(0, 256, (13, 12, 10, 3), np.uint8)
TURNED = 6  # EXIF


def folder(root, count=13):
    """Pictures of several kinds in two classes, a while ago."""
    for i, pixels in enumerate(COLOURS[:count]):
        path = root / ("cats" if i % 3 else "dogs") / f"{i:02}.{('png', 'jpg', 'webp', 'tif')[i % 4]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture, options = Image.fromarray(pixels), {}
        if i == 5:
            picture, options["exif"] = picture.rotate(90, expand=True), picture.getexif()
            options["exif"][0x0112] = TURNED
        picture.save(path, **options)
        age(path)
    return root


def age(path, seconds=100):
    status = os.stat(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - seconds * 10**9))


def zipped(root):
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for i, file in enumerate(sorted(root.rglob("*.*"))):
            kind = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)[i % 4]
            archive.write(file, file.relative_to(root), kind)
    age(path)
    return path


def idx(root):
    root.mkdir()
    images, labels = COLOURS[..., 0], np.arange(13, dtype=np.uint8) % 3
    (root / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, *images.shape) + images.tobytes())
    (root / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 13) + labels.tobytes())
    age(root / "train-images-idx3-ubyte")
    return root


def uri_of(kind, tmp_path):
    if kind == "idx":
        return f"idx:{idx(tmp_path / 'set')}"
    if kind in ("folder", "zip"):
        root = folder(tmp_path / "set")
        return f"folder:{root}" if kind == "folder" else f"zip:{zipped(root)}"
    images = {
        "npz": COLOURS,
        "npz of floats": (COLOURS / 255).astype(">f4"),
        "npz of whole floats": COLOURS.astype(np.float64),
        "npz of integers": COLOURS.astype(np.int16),
        "npz of booleans": COLOURS[..., 0] > 99,
    }[kind]
    np.savez(tmp_path / "set.npz", x_train=images, y_train=np.arange(13) % 3, x_test=images[:3], y_test=np.zeros(3))
    age(tmp_path / "set.npz")
    return f"npz:{tmp_path / 'set.npz'}"


KINDS = ("folder", "zip", "idx", "npz", "npz of floats", "npz of whole floats", "npz of integers", "npz of booleans")


def both(uri, **options) -> tuple[Any, Any]:
    return open_source(uri, loading="memory", **options), open_source(uri, loading="lazy", **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"size": 7}, {"size": 6, "crop": "none", "channels": 1}, {"channels": 3}])
def test_every_image_is_what_it_is_in_memory(tmp_path, kind, options):
    eager, lazy = both(uri_of(kind, tmp_path), **({"size": 8} if kind in ("folder", "zip") else {}) | options)
    assert isinstance(lazy.images, LazyImages)
    assert isinstance(eager.images, np.ndarray)
    assert (lazy.images.shape, lazy.images.dtype, lazy.images.ndim) == (eager.images.shape, np.uint8, 4)
    np.testing.assert_array_equal(lazy.labels, eager.labels)
    assert lazy.class_names == eager.class_names
    rows = np.array([3, 12, 0, 3])
    for chosen in (slice(None), slice(2, 9, 3), rows, rows.reshape(2, 2), 5, np.arange(13) % 2 == 0):
        np.testing.assert_array_equal(lazy.images[chosen], eager.images[chosen])
    with pytest.raises(IndexError):
        lazy.images[13]
    again = pickle.loads(pickle.dumps(lazy.images))
    np.testing.assert_array_equal(again[rows], eager.images[rows])
    if eager.held_out is not None:
        np.testing.assert_array_equal(lazy.held_out.images[:], eager.held_out.images)


@pytest.mark.parametrize("kind", ["folder", "zip", "npz"])
@pytest.mark.parametrize("flip", [False, True])
def test_the_stream_is_that_of_memory_for_any_number_of_workers(tmp_path, monkeypatch, kind, flip):
    uri = uri_of(kind, tmp_path)
    parts = [split(source, 0.2, 3)[0] for source in both(uri, size=8)]
    wanted, lazy = (pipeline(part, seed=1, batch_size=5, flip=flip) for part in parts)
    for first, workers in ((0, 1), (3, 2), (7, 5)):
        monkeypatch.setattr(os, "cpu_count", lambda workers=workers: workers)
        with read_ahead(lazy, first) as batches:
            for step, batch in enumerate(islice(batches, 9), first):
                for name in ("image", "label", "slot"):
                    np.testing.assert_array_equal(batch[name], wanted[step][name])
                    np.testing.assert_array_equal(batch[name], lazy[step][name])


def test_processes_share_a_lazy_stream_as_they_share_one_in_memory(tmp_path):
    eager, lazy = both(uri_of("folder", tmp_path), size=8)
    whole = pipeline(eager, seed=2, batch_size=6)[4]["image"]
    shares = [pipeline(lazy, seed=2, batch_size=6, process_index=p, process_count=3)[4]["image"] for p in range(3)]
    np.testing.assert_array_equal(np.concatenate(shares), whole)


@pytest.mark.parametrize("kind", ["folder", "zip", "idx", "npz"])
def test_the_limit_of_memory_is_where_lazy_sources_begin(tmp_path, kind):
    uri = uri_of(kind, tmp_path)
    size = 8 if kind in ("folder", "zip") else None
    exact = open_source(uri, size=size, loading="memory").points.nbytes / 2**30
    assert open_source(uri, size=size, memory_gib=exact).lazy is None
    assert open_source(uri, size=size, memory_gib=exact * 0.999).lazy is not None
    with pytest.raises(DataError, match="memory-gib"):
        open_source(uri, size=size, memory_gib=exact * 0.999, loading="memory")


def test_fingerprints_are_of_contents_labels_and_what_is_done_to_them(tmp_path):
    root = folder(tmp_path / "set")
    uri = f"folder:{root}"
    one = open_source(uri, size=8, loading="lazy")
    assert one.fingerprint.startswith("2:")
    assert len(one.digest) == 64
    alike = [f"zip:{zipped(root)}", uri]
    os.rename(root, tmp_path / "moved")
    for same in (alike[0], f"folder:{tmp_path / 'moved'}"):
        assert open_source(same, size=8, loading="lazy").fingerprint == one.fingerprint
    uri = f"folder:{tmp_path / 'moved'}"
    options = [{"size": 7}, {"channels": 1, "size": 8}, {"crop": "none", "size": 8}, {"rules": 1, "size": 8}]
    others = [open_source(uri, loading="lazy", **each).fingerprint for each in options]
    eager = open_source(uri, size=8, loading="memory")
    others += [eager.fingerprint, Source(images=one.images).fingerprint]
    others += [part.fingerprint for part in split(one, 0.3, 1)]
    path = sorted((tmp_path / "moved" / "cats").iterdir())[0]
    Image.fromarray(COLOURS[0]).save(path)
    others += [open_source(uri, size=8, loading="lazy").fingerprint]
    path.rename(path.with_name("zzz" + path.suffix))  # the same pictures in another order
    others += [open_source(uri, size=8, loading="lazy").fingerprint]
    assert len({one.fingerprint, *others}) == 1 + len(others)


def test_parts_are_views_that_decode_nothing(tmp_path, monkeypatch):
    eager, lazy = both(uri_of("folder", tmp_path), size=8)
    monkeypatch.setattr("experiments.data.pictures.LazyPictures._picture", lambda self, i: 1 / 0)
    parts = split(lazy, 0.3, 5)
    taken = parts[0].take(np.array([4, 1]))
    monkeypatch.undo()
    for part, same in zip(parts, split(eager, 0.3, 5), strict=True):
        np.testing.assert_array_equal(part.images[:], same.images)
        np.testing.assert_array_equal(part.labels, same.labels)
    assert isinstance(taken.images, View)
    assert not isinstance(taken.images.images, View)  # a view of a view is one
    np.testing.assert_array_equal(taken.images[:], split(eager, 0.3, 5)[0].images[[4, 1]])


def test_mirror_images_follow_the_images(tmp_path):
    eager, lazy = both(uri_of("folder", tmp_path), size=8)
    wanted, mirrored = np.concatenate([eager.images, eager.images[:, :, ::-1]]), Mirrored(lazy.images)
    assert mirrored.shape == wanted.shape
    for rows in (slice(None), np.array([0, 25, 13, 12]), 20, 2):
        np.testing.assert_array_equal(mirrored[rows], wanted[rows])


def test_few_images_are_looked_at_at_a_time():
    class Images:
        shape, dtype, ndim, fingerprint = (600, 4, 4, 3), np.dtype(np.uint8), 4, "2:0"
        asked = ()

        def __len__(self):
            return 600

        def __getitem__(self, rows):
            self.asked = (*self.asked, *[rows.tolist()])
            return np.full((len(rows), 4, 4, 3), rows[:, None, None, None] // 3, np.uint8)

    images = Images()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.data.source._LOOKED_AT_BYTES", 500)  # of ten images, and a bit
        assert Source(images=images).value_range == (0, 199)
    assert max(map(len, images.asked)) == 10
    assert [row for rows in images.asked for row in rows] == list(range(0, 600, 3))


def test_the_line_says_that_some_were_looked_at(tmp_path, monkeypatch):
    eager, lazy = both(uri_of("folder", tmp_path), size=8)
    assert summary(eager, None) == summary(lazy, None)  # of a few, all are
    monkeypatch.setattr("experiments.data.source._LOOKED_AT", 4)
    assert "in 4 images looked at" in summary(lazy, None)
    assert "looked at" not in summary(eager, None)
    dark = Source(images=View(lazy.images, np.zeros(1, np.int64)))
    assert not list(warnings(dark, None))


def test_files_that_change_or_vanish_are_refused_by_name(tmp_path):
    source = open_source(uri_of("folder", tmp_path), size=8, loading="lazy")
    first, second, third, *_ = sorted((tmp_path / "set" / "cats").iterdir())
    before = source.images[:]
    age(first)  # the same contents
    np.testing.assert_array_equal(source.images[:], before)
    content = second.read_bytes()
    Image.fromarray(COLOURS[0]).save(second)
    with pytest.raises(DataError, match=rf"{second} has changed.*; restore it"):
        source.images[:]
    second.write_bytes(content)
    third.unlink()
    with pytest.raises(DataError, match=rf"{third} cannot be read \(No such file.*; restore"):
        source.images[:]


@pytest.mark.parametrize("kind", ["zip", "idx", "npz"])
def test_a_file_of_all_images_that_changes_is_refused_by_name(tmp_path, kind):
    uri = uri_of(kind, tmp_path)
    source = open_source(uri, size=8, loading="lazy")
    path = tmp_path / ("set/train-images-idx3-ubyte" if kind == "idx" else f"set.{kind}")
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(200))
    with pytest.raises(DataError, match=str(path)):
        source.images[:]


@pytest.mark.parametrize("kind", ["idx", "npz", "columns"])
def test_what_cannot_be_read_in_place_is_to_be_prepared(tmp_path, refused, kind):
    if kind == "idx":
        uri, path = f"idx:{idx(tmp_path / 'set')}", tmp_path / "set" / "train-images-idx3-ubyte"
        path.with_suffix(".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    else:
        uri = f"npz:{tmp_path / 'set.npz'}"
        save = np.savez if kind == "columns" else np.savez_compressed
        save(tmp_path / "set.npz", x=np.asfortranarray(COLOURS) if kind == "columns" else COLOURS)
    refused(uri, kind if kind == "columns" else "compressed", "scorefield data prepare", "records:", memory_gib=1e-6)


@pytest.mark.parametrize(
    ("values", "word"),
    [(np.full((3, 4, 4), 7.5), "not all of them whole"), (np.full((3, 4, 4), 300), "scale"), ([[[np.nan]]], "finite")],
)
def test_values_that_are_no_pixels_are_refused_in_place_as_in_memory(tmp_path, refused, values, word):
    np.savez(tmp_path / "a.npz", x=values)
    said = {refused(f"npz:{tmp_path / 'a.npz'}", word, loading=loading) for loading in ("memory", "lazy")}
    assert len(said) == 1


def test_pictures_of_different_shapes_are_refused_as_in_memory(tmp_path, refused):
    root = folder(tmp_path / "set")
    Image.fromarray(COLOURS[0][:5]).save(root / "cats" / "x.png")
    assert len({refused(f"folder:{root}", "5×10", loading=loading) for loading in ("memory", "lazy")}) == 1


@pytest.mark.parametrize("loading", ["memory", "lazy"])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_bad_pictures_are_refused_or_left_out_and_named(tmp_path, refused, loading, kind):
    root = folder(tmp_path / "set")
    whole = open_source(f"folder:{root}", size=8, loading="memory")
    bad = [root / "cats" / "01.jpg", root / "dogs" / "06.webp", root / "cats" / "08.png"]
    bad[0].write_bytes(b"no picture")
    bad[1].write_bytes(bad[1].read_bytes()[:-20])
    bad[2].write_bytes(bad[2].read_bytes()[:90])
    (root / "cats" / "raw.heic").write_bytes(b"?")
    uri = f"folder:{root}" if kind == "folder" else f"zip:{zipped(root)}"
    refused(uri, "raw.heic", size=8, loading=loading)
    (root / "cats" / "raw.heic").unlink() if kind == "folder" else None
    if kind == "folder":  # in the zip the other file is still there
        refused(uri, ", or remove it, or leave such pictures out with --data.on-bad skip.", size=8, loading=loading)
    left = open_source(uri, size=8, loading=loading, on_bad="skip")
    order = sorted(path.relative_to(root) for path in root.rglob("*.*") if path.suffix != ".heic")
    rows = [i for i, path in enumerate(order) if root / path not in bad]
    np.testing.assert_array_equal(left.images[:], whole.images[rows])
    np.testing.assert_array_equal(left.labels, whole.labels[rows])
    notes = "; ".join(left.notes)
    assert "3 pictures left out" in notes
    assert all(path.name in notes for path in bad)
    assert ("1 picture left out of kinds" in notes) == (kind == "zip")
    before = left.fingerprint
    good = root / order[rows[2]]
    good.write_bytes(b"bad since")
    uri = f"folder:{root}" if kind == "folder" else f"zip:{zipped(root)}"
    assert open_source(uri, size=8, loading=loading, on_bad="skip").fingerprint != before
    for path in root.rglob("*.*"):
        path.write_bytes(b"bad all")
    uri = f"folder:{root}" if kind == "folder" else f"zip:{zipped(root)}"
    refused(uri, "none of the pictures", size=8, loading=loading, on_bad="skip")


def test_names_are_kept_whatever_they_are():
    texts = ["a", "", "ä/µ.png", "bad\udcff.png", "\U0001f600"]
    names = Names(texts)
    assert list(names) == texts
    assert names[-1] == texts[-1]
    assert names[1:3] == texts[1:3]
    assert list(names.take(np.array([3, 0]))) == [texts[3], "a"]
    assert names.same(Names(texts))
    assert not names.same(Names(["aä", *texts[2:], ""]))
