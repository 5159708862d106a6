"""Lazy and prepared sources under every option of shape and depth: each image is what it is in memory."""

import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from experiments.data import DataConfig, open_source, pipeline, split
from experiments.data.check import check
from experiments.data.lazy import LazyImages, Mirrored
from experiments.data.prepare import prepare
from experiments.data.records import RecordImages
from experiments.errors import DataError
from tests.experiments.data.pngs import write_png

RNG = np.random.default_rng(8)
WIDE = RNG.integers(0, 65536, (7, 9, 11, 3)).astype(np.uint16)
DEEP = RNG.integers(0, 65536, (7, 9, 11, 5)).astype(np.uint16)
PADDED = {"size": "12x8", "crop": "pad"}
SQUEEZED = {"size": "6x5", "crop": "none"}
OPTIONS = ({}, PADDED, SQUEEZED, {"bits": 16}, {"bits": 16, **PADDED}, {"bits": 16, "size": "4x6"})
KINDS = ("folder", "zip", "idx", "npz", "npz of 5")


def folder(root):
    """Pictures of 8 bits and of 16, of which one has a profile, in two classes, written a while ago."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for i, pixels in enumerate(WIDE):
        path = root / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i % 3:
            chunk = (b"iCCP", b"a\0\0" + zlib.compress(profile))
            write_png(path, pixels, 2, before=(chunk,) * (i == 4))
        else:
            Image.fromarray((pixels >> 8).astype(np.uint8)).save(path)
        age(path)
    return root


def age(path):
    os.utime(path, ns=(10**18, 10**18))


def uri_of(kind, tmp_path, bits):
    if kind in ("folder", "zip"):
        root = folder(tmp_path / "set")
        if kind == "folder":
            return f"folder:{root}"
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for file in sorted(root.rglob("*.png")):
                archive.write(file, file.relative_to(root), zipfile.ZIP_DEFLATED)
        age(tmp_path / "set.zip")
        return f"zip:{tmp_path / 'set.zip'}"
    if kind == "idx":
        (tmp_path / "set").mkdir()
        images = (WIDE[..., 0] >> 8).astype(np.uint8)
        header = struct.pack(">4I", 0x803, *images.shape)
        (tmp_path / "set" / "train-images-idx3-ubyte").write_bytes(header + images.tobytes())
        age(tmp_path / "set" / "train-images-idx3-ubyte")
        return f"idx:{tmp_path / 'set'}"
    images = WIDE if kind == "npz" else DEEP
    images = images if bits == 16 else (images >> 8).astype(np.uint8)
    np.savez(tmp_path / "set.npz", x_train=images, y_train=np.arange(7) % 3, x_test=images[:2], y_test=np.zeros(2))
    age(tmp_path / "set.npz")
    return f"npz:{tmp_path / 'set.npz'}"


def require_equal(source, eager):
    """All that is asked of a lazy source beside `eager`, the same in memory."""
    assert isinstance(source.images, LazyImages)
    assert (source.images.shape, source.images.dtype, source.images.ndim) == (
        eager.images.shape,
        eager.images.dtype,
        eager.images.ndim,
    )
    assert source.notes == eager.notes
    np.testing.assert_array_equal(source.labels, eager.labels)
    rows = np.array([[5, 0], [-1, 5]])
    again = pickle.loads(pickle.dumps(source.images))
    for chosen in (slice(None), rows, 3, np.arange(7) % 2 == 0, np.empty(0, int), slice(6, 0, -2)):
        found = again[chosen]
        assert found.dtype == eager.images.dtype
        np.testing.assert_array_equal(found, eager.images[chosen])
    whole, mirrored = np.concatenate([eager.images, eager.images[:, :, ::-1]]), Mirrored(source.images)
    assert mirrored.dtype == whole.dtype
    np.testing.assert_array_equal(mirrored[:], whole)
    one, other = (pipeline(split(part, 0.2, 3)[0], seed=1, batch_size=4, flip=True)[5] for part in (source, eager))
    assert one["image"].dtype == eager.images.dtype
    for name, values in other.items():
        np.testing.assert_array_equal(one[name], values)
    assert source.value_range == eager.value_range


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_lazy_and_prepared_images_are_those_in_memory(tmp_path, kind, options):
    bits = options.get("bits", 8)
    uri = uri_of(kind, tmp_path, bits)
    eager = open_source(uri, loading="memory", **options)
    assert eager.images.dtype == f"uint{bits}"
    config = DataConfig(source=uri, loading="lazy", **options)
    lazy, from_index = open_source(config), open_source(config)
    assert lazy.fingerprint == from_index.fingerprint
    facts = prepare(lazy, config, tmp_path / "out.records")
    assert (facts.bits, facts.shape) == (bits, eager.event_shape)
    RecordImages(tmp_path / "out.records").verify()
    for wanted in ({}, options | {"crop": "center"}):
        prepared = open_source(f"records:{tmp_path / 'out.records'}", **{"bits": bits, **wanted})
        kept = open_source(prepared.name, loading="memory", **{"bits": bits, **wanted})
        np.testing.assert_array_equal(kept.images, eager.images)
        for source in (lazy, from_index, prepared):
            require_equal(source, eager)
            if eager.held_out is not None:
                np.testing.assert_array_equal(source.held_out.images[:], eager.held_out.images)


@pytest.mark.parametrize("kind", ["folder", "zip", "idx", "npz"])
def test_fingerprints_tell_the_depth_and_the_shape(tmp_path, kind):
    uri = uri_of(kind, tmp_path, 8)
    options = ({"size": 8}, {"size": 8, "bits": 16}, *({"size": "12x8", "crop": crop} for crop in ("pad", "none")))
    sources = [open_source(uri, loading="lazy", **each) for each in (*options, *options)]
    found = [source.lazy.fingerprint for source in sources if source.lazy is not None]
    assert found[:4] == found[4:]
    assert len(set(found)) == 4


def test_records_of_another_depth_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=WIDE)
    config = DataConfig(source=f"npz:{tmp_path / 'a.npz'}", bits=16)
    prepare(open_source(config), config, tmp_path / "out.records")
    with pytest.raises(DataError, match=r"and --data\.bits is 8; give --data\.bits 16, or"):
        open_source(f"records:{tmp_path / 'out.records'}")


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_values_that_16_bits_hold_are_refused_as_bytes_whatever_is_kept_of_them(tmp_path, refused, kind):
    np.savez(tmp_path / "a.npz", x=np.full((2, 4, 4), 300, kind))
    age(tmp_path / "a.npz")
    uri = f"npz:{tmp_path / 'a.npz'}"
    assert open_source(uri, bits=16, loading="lazy").images[:].max() == 300
    assert len({refused(uri, "scale", loading=loading) for loading in ("memory", "lazy")}) == 1


@pytest.mark.parametrize("kind", ["folder", "idx", "npz"])
def test_numbers_of_16_bits_take_twice_the_room(tmp_path, kind):
    uri = uri_of(kind, tmp_path, 16 if kind == "npz" else 8)
    exact = open_source(uri, bits=16, loading="memory").points.nbytes / 2**30
    assert open_source(uri, bits=16, memory_gib=exact).lazy is None
    assert open_source(uri, bits=16, memory_gib=exact * 0.999).lazy is not None
    with pytest.raises(DataError, match="memory-gib"):
        open_source(uri, bits=16, memory_gib=exact * 0.999, loading="memory")


@pytest.mark.parametrize("options", [{}, {"bits": 16}], ids=str)
def test_a_picture_turned_behind_its_pixels_is_turned_or_refused_in_both_forms(tmp_path, refused, options):
    exif = Image.Exif()
    exif[0x0112] = 6
    write_png(tmp_path / "a.png", WIDE[0], 2, behind=((b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")),))
    uri = f"folder:{tmp_path}"
    eager, lazy = (open_source(uri, size="11x9", loading=loading, **options) for loading in ("memory", "lazy"))
    np.testing.assert_array_equal(lazy.images[:], eager.images)
    if options:
        np.testing.assert_array_equal(eager.images[0], np.rot90(WIDE[0], -1))
    assert len({refused(uri, "its header", loading=loading, **options) for loading in ("memory", "lazy")}) == 1


def test_what_is_done_to_pictures_is_said_of_padding_and_of_16_bits(tmp_path):
    config = DataConfig(source=f"folder:{folder(tmp_path / 'set')}", **PADDED)
    said = check(config).converted
    # 9 × 11 in 12 × 8 is smaller when all of it fits in, though one side is enlarged.
    assert said == {"of other proportions (padded)": 7, "reduced": 7, "of 16 bits, made 8": 4}
    wide = check(DataConfig(source=config.source, bits=16))
    assert wide.converted == {"of 8 bits, made 16": 3}
    assert any("1 colour profile ignored: of 16 bits" in note for note in wide.passed_over)


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_without_a_home_nothing_is_kept_and_nothing_lost(tmp_path, monkeypatch, kind):
    uri = uri_of(kind, tmp_path, 8)
    wanted = open_source(uri, loading="memory").images

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    np.testing.assert_array_equal(open_source(uri, loading="lazy").images[:], wanted)
