import json
import struct
import zipfile
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.data import open_source

RNG = np.random.default_rng(5)
GREY = RNG.integers(0, 256, (5, 4), np.uint8)


def save(path, array=GREY, **options: Any):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


NAMES = ["00000/img0.png", "00000/img1.png", "00001/img2.PNG"]


@pytest.fixture
def zipped(tmp_path):
    """Write three pictures, and perhaps labels, to a zip; returns its URI."""

    def write(labels=None, names=NAMES, **extra):
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for i, name in reversed(list(enumerate(names))):
                archive.write(save(tmp_path / f"{i}.png", GREY + np.uint8(i)), name)
            if labels is not None:
                text = labels if isinstance(labels, str) else json.dumps({"labels": labels})
                archive.writestr("dataset.json", text)
            for name, content in extra.items():
                archive.writestr(name, content)
        return f"zip:{tmp_path / 'set.zip'}"

    return write


def test_a_zip_is_read_in_the_order_of_its_names(zipped):
    source = open_source(zipped(**{"__MACOSX/00000/._img0.png": b"junk", ".DS_Store": b"", "notes.txt": b""}))
    np.testing.assert_array_equal(source.images[..., 0], [GREY, GREY + np.uint8(1), GREY + np.uint8(2)])
    assert source.class_names == ("00000", "00001")  # as of a folder
    assert open_source(zipped(), rules=1).labels is None


def test_labels_of_the_edm_layout_are_read(zipped, tmp_path):
    pairs = [["00001/img2.PNG", 0], ["00000/img0.png", 3], ["00000/img1.png", 1]]
    source = open_source(zipped(pairs))
    np.testing.assert_array_equal(source.labels, [3, 1, 0])
    assert source.num_classes == 4
    assert open_source(zipped("{}")).labels is None
    assert open_source(zipped('{"labels": null}')).labels is None
    assert open_source(zipped("{}")).hint == "; dataset.json has null for labels"
    uri = zipped(pairs)
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    assert open_source(f"folder:{tmp_path / 'unpacked'}").fingerprint == open_source(uri).fingerprint


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([[NAMES[0], 1], [NAMES[1], 0]], [NAMES[2]]),
        ([*([name, 0] for name in NAMES), ["z.png", 1]], ["4 labels", "3 images", "z.png"]),
        ([*([name, 0] for name in NAMES), [NAMES[0], 1]], ["4 labels", "3 images"]),
        ([[name, -1] for name in NAMES], [NAMES[0], "-1"]),
        ([[name, 70_000] for name in NAMES], [NAMES[0], "70000"]),
        ([[name, [0.0, 1.0]] for name in NAMES], [NAMES[0], "[0.0, 1.0]"]),
        ([[name, True] for name in NAMES], [NAMES[0], "True"]),
        ([[name, "cat"] for name in NAMES], [NAMES[0], "'cat'"]),
        (NAMES, ["labels"]),
        (3, ["labels"]),
        ("[]", ["labels"]),
        ("{", ["labels"]),
        ("\ufeff\udcff".encode("utf-8", "surrogatepass").decode("latin-1"), ["labels"]),
    ],
)
def test_labels_that_do_not_match_are_refused(refused, zipped, labels, words):
    refused(zipped(labels), "set.zip/dataset.json", *words)


def test_a_damaged_zip_is_refused(refused, zipped, tmp_path):
    path = tmp_path / "set.zip"
    uri = zipped()
    content = path.read_bytes()
    for wrong in (b"", b"hello", content[:-30], content[: len(content) // 2]):
        path.write_bytes(wrong)
        refused(uri, path, "not a whole zip")
    middle = content.index(b"IDAT") + 8
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    refused(uri, path, "img2.PNG", "CRC")


@pytest.mark.parametrize("loading", ["memory", "lazy"])
def test_a_name_that_changed_in_the_table_of_contents_is_refused(refused, zipped, tmp_path, loading):
    uri = zipped(names=["ä/0.png", "b/1.png", "b/2.png"])
    assert open_source(uri, loading=loading).class_names == ("b", "ä")
    before, _, after = (tmp_path / "set.zip").read_bytes().rpartition(b"b/2.png")
    (tmp_path / "set.zip").write_bytes(before + b"c/2.png" + after)
    refused(uri, "set.zip", "another name", loading=loading)


def test_a_changed_name_of_a_file_that_is_no_picture_is_refused_too(refused, zipped, tmp_path):
    """Or labels would be lost with a note alone."""
    uri = zipped([["00001/img2.PNG", 0], ["00000/img0.png", 3], ["00000/img1.png", 1]])
    before, _, after = (tmp_path / "set.zip").read_bytes().rpartition(b"dataset.json")
    (tmp_path / "set.zip").write_bytes(before + b"datasex.json" + after)
    refused(uri, "set.zip", "another name")
    assert open_source(uri, rules=1).labels is None  # as runs have read it


def test_an_encrypted_zip_is_refused(refused, zipped, tmp_path):
    uri = zipped()
    content = bytearray((tmp_path / "set.zip").read_bytes())
    start = content.index(b"PK\x01\x02")  # the flags in the central directory
    content[start + 8] |= 1
    (tmp_path / "set.zip").write_bytes(content)
    refused(uri, "set.zip/00001/img2.PNG", "encrypted", "without a password")


def test_a_file_that_unpacks_to_gigabytes_is_refused(refused, zipped, tmp_path):
    uri = zipped()
    content = bytearray((tmp_path / "set.zip").read_bytes())
    start = content.index(b"PK\x01\x02")
    content[start + 24 : start + 28] = struct.pack("<I", 2**31)
    (tmp_path / "set.zip").write_bytes(content)
    refused(uri, "set.zip/00001/img2.PNG", "2,147,483,648")


def test_a_zip_without_pictures_and_one_with_a_name_twice_are_refused(refused, zipped, tmp_path):
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    refused(f"zip:{tmp_path / 'empty.zip'}", "empty.zip", ".png")
    with pytest.warns(UserWarning, match="Duplicate name"):
        uri = zipped(names=["a.png", "a.png"])
    refused(uri, "a.png", "twice")


@pytest.mark.parametrize("kind", ["zip", "npz", "png", "jpg", "idx"])
def test_a_flipped_byte_or_a_cut_is_read_or_refused_but_never_crashes(zipped, tmp_path, refused, kind):
    noise = RNG.integers(0, 256, (6, 6, 3), np.uint8)
    uri, path = {"zip": (zipped([[name, 0] for name in NAMES]), tmp_path / "set.zip")}.get(kind, ("", tmp_path))
    if kind == "npz":
        path = tmp_path / "set.npz"
        np.savez_compressed(path, x=noise[None], y=np.array([1]))
        uri = f"npz:{path}"
    if kind in ("png", "jpg"):
        path = save(tmp_path / "only" / f"a.{kind}", noise)
        uri = f"folder:{tmp_path / 'only'}"
    if kind == "idx":
        path = tmp_path / "train-images-idx3-ubyte"
        path.write_bytes(struct.pack(">4I", 0x803, 1, 6, 6) + noise[..., 0].tobytes())
        uri = f"idx:{tmp_path}"
    content = path.read_bytes()
    rng = np.random.default_rng(3)
    refusals = 0
    for trial in range(60):
        damaged = bytearray(content)
        place = int(rng.integers(len(content)))
        if trial % 4:
            damaged[place] ^= int(rng.integers(1, 256))
        else:
            del damaged[place:]
        path.write_bytes(damaged)
        try:
            assert len(open_source(uri, size=6, memory_gib=0.5)) >= 1
        except Exception:
            refused(uri, size=6, memory_gib=0.5)
            refusals += 1
    assert refusals >= 15  # every cut at least
