import gzip
import struct

import numpy as np
import pytest

from experiments.data import open_source, split

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (7, 5, 4), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2, 3], np.uint8)


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(folder, part="train", images=IMAGES, labels: np.ndarray | None = LABELS, pack=None, dash="-"):
    end = ".gz" if pack else ""
    paths = folder / f"{part}-images{dash}idx3-ubyte{end}", folder / f"{part}-labels{dash}idx1-ubyte{end}"
    for path, array in zip(paths, (images, labels), strict=True):
        if array is not None:
            path.write_bytes((pack or bytes)(idx(array)))
    return paths


@pytest.mark.parametrize("pack", [None, gzip.compress])
@pytest.mark.parametrize("dash", ["-", "."])
def test_what_was_written_is_read(tmp_path, pack, dash):
    write(tmp_path, pack=pack, dash=dash)
    source = open_source(f"idx:{tmp_path}")
    np.testing.assert_array_equal(source.images[..., 0], IMAGES)
    np.testing.assert_array_equal(source.labels, LABELS)
    assert source.num_classes == 4
    assert source.name == f"idx:{tmp_path}"
    assert source.held_out is None


def test_gzip_is_told_by_content_and_not_by_name(tmp_path):
    images, _ = write(tmp_path, labels=None)
    plain = open_source(f"idx:{tmp_path}").fingerprint
    images.write_bytes(gzip.compress(images.read_bytes()))
    assert open_source(f"idx:{tmp_path}").fingerprint == plain


def test_images_alone_are_enough(tmp_path):
    write(tmp_path, labels=None)
    source = open_source(f"idx:{tmp_path}")
    assert source.labels is None
    assert len(source) == 7


def test_the_t10k_files_are_the_held_out_part(tmp_path):
    write(tmp_path)
    write(tmp_path, "t10k", IMAGES[:3], LABELS[:3] + 4, gzip.compress)
    train, held_out = split(open_source(f"idx:{tmp_path}", size=3), 0.5)
    assert held_out is not None
    assert (len(train), len(held_out)) == (7, 3)
    assert held_out.event_shape == (3, 3, 1)
    assert train.class_names == held_out.class_names == tuple("0123456")  # the classes of both together


@pytest.mark.parametrize("part", ["train", "t10k"])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("pack", [None, gzip.compress])
@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda content: content[:-3], "cut short"),
        (lambda content: content[:6], "cut short"),
        (lambda content: b"", "cut short"),
        (lambda content: content + b"xyz", "goes on after"),
        (lambda content: b"\0\0\x0d" + content[3:], "magic number 0x00000d0"),
        (lambda content: content[:4] + b"\xff" * 4 + content[8:], "GiB"),
    ],
)
def test_damage_is_named_with_its_file(refused, tmp_path, part, which, pack, change, word):
    write(tmp_path)
    path = write(tmp_path, part, pack=pack)[which]
    for twin in (path.with_suffix(""), path.with_suffix(".gz")):
        if twin != path and pack and twin.exists():
            twin.unlink()
    content = gzip.decompress(path.read_bytes()) if pack else path.read_bytes()
    path.write_bytes((pack or bytes)(change(content)))
    refused(f"idx:{tmp_path}", path, word, memory_gib=1.0, loading="memory")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda packed: packed[:-12], "cut short"),
        (lambda packed: packed[:40] + bytes([packed[40] ^ 0xFF]) + packed[41:], "damaged gzip"),
        (lambda packed: packed[:-8] + b"\0\0\0\0" + packed[-4:], "damaged gzip"),
        (lambda packed: packed + b"not a gzip member", "damaged gzip"),
    ],
)
def test_damage_to_the_compression_is_named_with_its_file(refused, tmp_path, change, word):
    path, _ = write(tmp_path, pack=gzip.compress)
    path.write_bytes(change(path.read_bytes()))
    refused(f"idx:{tmp_path}", path, word)


def test_images_given_for_labels_are_refused(refused, tmp_path):
    images, labels = write(tmp_path)
    labels.write_bytes(images.read_bytes())
    refused(f"idx:{tmp_path}", labels, "0x00000803", "0x00000801", "labels")


def test_labels_that_do_not_match_are_refused(refused, tmp_path):
    _, labels = write(tmp_path, labels=LABELS[:5])
    refused(f"idx:{tmp_path}", labels, "5", "7 images")


def test_parts_that_do_not_match_are_refused(refused, tmp_path):
    write(tmp_path)
    write(tmp_path, "t10k", IMAGES[:, :3])
    refused(f"idx:{tmp_path}", "train-images", "t10k-images", "5×4", "3×4", "--data.size")
    write(tmp_path, "t10k")
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    refused(f"idx:{tmp_path}", "train-images", "t10k-images", "labels")


def test_a_folder_without_the_files_and_files_without_images_are_refused(refused, tmp_path):
    refused(f"idx:{tmp_path}", tmp_path, "train-images-idx3-ubyte")
    path, _ = write(tmp_path, images=IMAGES[:0], labels=LABELS[:0])
    refused(f"idx:{tmp_path}", path, "(0, 5, 4, 1)")


def test_more_than_the_memory_limit_is_refused_before_it_is_read(refused, tmp_path):
    path, _ = write(tmp_path)
    header = path.read_bytes()[:4] + struct.pack(">3I", 60_000, 1000, 1000)
    path.write_bytes(header)
    refused(f"idx:{tmp_path}", path, "55.9 GiB", "60000×1000×1000", "--data.memory-gib 4", loading="memory")
    refused(f"idx:{tmp_path}", path, "cut short", "60,000,000,016 bytes")
    write(tmp_path)
    refused(f"idx:{tmp_path}", path, "--data.memory-gib", size=4096, memory_gib=0.1, loading="memory")


def test_what_the_system_refuses_to_read_is_named(refused, tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.mkdir()
    refused(f"idx:{tmp_path}", path, "Is a directory")
    refused(f"idx:{'x' * 300}", "x" * 40, "too long")
