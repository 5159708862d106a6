"""Files of records: what is written comes back, at random; what is damaged is named; nothing is trusted unread."""

import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from experiments.data import DataConfig, divided, open_source, pipeline
from experiments.data.lazy import LazyImages
from experiments.data.records import FORMAT, MAGIC, RecordImages, write_records
from experiments.data.summary import summary
from experiments.errors import DataError

COUNT, SHAPE = 40, (7, 5, 3)
IMAGES = np.random.default_rng(0).integers(3, 250, (COUNT, *SHAPE), dtype=np.uint8)
LABELS = np.arange(COUNT, dtype=np.int32) % 3
NAMES = ("cat", "dog", "ox")


def written(path, images=IMAGES, labels=LABELS, block=16, **facts):
    names = NAMES if labels is not None else ()
    pieces = (images[i : i + block] for i in range(0, len(images), block))
    write_records(path, pieces, labels, **{"class_names": names, **facts})
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return written(tmp_path_factory.mktemp("records") / "some.records")


@pytest.mark.parametrize(
    "rows",
    [slice(None), slice(30, 3, -7), np.array([5, 0, 39, 5]), [3], np.array([-1, -40]), np.array([], int), LABELS == 1],
    ids=str,
)
def test_rows_are_those_of_the_array(path, rows):
    images = RecordImages(path)
    assert isinstance(images, LazyImages)
    assert images.shape == IMAGES.shape
    np.testing.assert_array_equal(images[rows], IMAGES[rows])


def test_one_row_is_one_image_and_new_memory(path):
    images = RecordImages(path)
    np.testing.assert_array_equal(images[7], IMAGES[7])
    images[7][:] = 0
    np.testing.assert_array_equal(images[7], IMAGES[7])


@pytest.mark.parametrize("rows", [COUNT, -COUNT - 1, np.array([0, COUNT])], ids=str)
def test_rows_that_are_not_there_are_refused(path, rows):
    with pytest.raises(IndexError, match="there are 40 images"):
        RecordImages(path)[rows]


def test_the_bytes_depend_on_the_images_and_not_on_how_they_come(path, tmp_path):
    assert written(tmp_path / "other", block=7).read_bytes() == path.read_bytes()


def test_the_fingerprint_is_of_the_images(path, tmp_path):
    changed = IMAGES.copy()
    changed[39, 6, 4, 2] ^= 1
    same, other = (RecordImages(written(tmp_path / str(i), x)) for i, x in enumerate((IMAGES, changed)))
    turned = RecordImages(written(tmp_path / "turned", IMAGES.reshape(COUNT, 5, 7, 3)))
    assert same.fingerprint == RecordImages(path).fingerprint
    assert same.fingerprint.startswith("2:")
    assert len({same.fingerprint, other.fingerprint, turned.fingerprint}) == 3


def test_threads_and_copies_of_it_read_the_same(path):
    images = pickle.loads(pickle.dumps(RecordImages(path)))
    rows = [np.random.default_rng(i).integers(COUNT, size=16) for i in range(60)]
    with ThreadPoolExecutor(4) as executor:
        for wanted, found in zip(rows, executor.map(images.__getitem__, rows), strict=True):
            np.testing.assert_array_equal(found, IMAGES[wanted])


def test_what_is_read_is_verified_record_by_record(path, tmp_path):
    # Each byte in turn would be slow: flips spread over all that is no padding, in every bit.
    content, damaged, noticed = path.read_bytes(), tmp_path / "damaged", 0
    draws, used = np.random.default_rng(1), np.flatnonzero(np.frombuffer(content, np.uint8))
    for place in draws.choice(used, size=150):
        flipped = bytearray(content)
        flipped[place] ^= 1 << draws.integers(8)
        damaged.write_bytes(flipped)
        try:
            images = RecordImages(damaged)
            read, labels = images[:], images.labels()
        except DataError:
            noticed += 1
        else:  # in what stands between the records and is not needed to read them by number
            np.testing.assert_array_equal(read, IMAGES)
            np.testing.assert_array_equal(labels, LABELS)
    assert noticed > 120


def test_a_flipped_bit_of_a_picture_is_refused_by_its_number(path, tmp_path):
    content, damaged = bytearray(path.read_bytes()), tmp_path / "damaged"
    content[content.index(IMAGES[11].tobytes()) + 50] ^= 4
    damaged.write_bytes(content)
    images = RecordImages(damaged)
    np.testing.assert_array_equal(images[[10, 12]], IMAGES[[10, 12]])
    with pytest.raises(DataError, match=r"is damaged \(record 11: .*restore it, or write it anew"):
        images[np.array([12, 11, 10])]
    with pytest.raises(DataError, match="record 11"):
        images.verify()


def rewritten(path, into, change):
    """The file with its records changed, each chunk's own checksum right again."""
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

    records = change(ArrayRecordReader(str(path)).read_all())
    writer = ArrayRecordWriter(str(into), "group_size:1,uncompressed")
    for record in records:
        writer.write(record)
    writer.close()
    return into


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: [r[1], r[0], *r[2:]], "image 0 does not have its checksum"),
        (lambda r: [r[0][:-1] + bytes([r[0][-1] ^ 1]), *r[1:]], "image 0 does not have its checksum"),
        (lambda r: [r[0] + b"0", *r[1:]], "image 0 has 110 bytes"),
        (lambda r: [*r[:-2], r[-2][:-1] + b"\1", r[-1]], "the record of its labels does not have its checksum"),
    ],
    ids=["exchanged", "changed", "longer", "labels"],
)
def test_our_own_checksum_holds_where_the_library_s_is_right(path, tmp_path, change, said):
    images = RecordImages(rewritten(path, tmp_path / "changed", change))
    with pytest.raises(DataError, match=said):
        assert images[:2] is images.labels()


def test_a_record_that_is_left_out_is_noticed_at_once(path, tmp_path):
    with pytest.raises(DataError, match="is damaged"):
        RecordImages(rewritten(path, tmp_path / "fewer", lambda records: records[1:]))


def test_a_file_that_is_cut_short_is_refused_wherever(path, tmp_path):
    content, cut = path.read_bytes(), tmp_path / "cut"
    for length in (*range(8, 200, 16), *range(200, len(content), len(content) // 30), len(content) - 1):
        cut.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"is cut short, or damaged at its end; restore it, or write it anew"):
            RecordImages(cut)[:]


def test_verify_compares_all_with_the_fingerprint(path, tmp_path):
    RecordImages(path).verify()
    images = RecordImages(path)
    images.facts = replace(images.facts, fingerprint="2:0")
    with pytest.raises(DataError, match="not those of its fingerprint"):
        images.verify()


def test_files_that_are_no_such_files_are_refused(path, tmp_path):
    for content in (b"", b"hello", MAGIC[:-1] + bytes(90_000)):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(DataError, match="no ArrayRecord file; give one that `scorefield data prepare` has written"):
            open_source(f"records:{tmp_path / 'other'}")
    with pytest.raises(DataError, match="does not exist; correct the path after records:"):
        open_source(f"records:{tmp_path / 'none'}")
    rewritten(path, tmp_path / "foreign", lambda records: [b"abc", b"def"])
    with pytest.raises(DataError, match=r"is damaged|no file of prepared images"):
        open_source(f"records:{tmp_path / 'foreign'}")


@pytest.mark.parametrize(
    "facts",
    [
        {"held_out": 1.5},
        {"class_names": 7},
        {"class_names": "abc"},
        {"class_names": (1, 2, 3)},
        {"notes": None},
        {"hint": 1},
        {"prepared": []},
    ],
    ids=str,
)
def test_facts_of_other_types_are_refused(tmp_path, facts):
    with pytest.raises(DataError, match="do not fit what it says of them"):
        open_source(f"records:{written(tmp_path / 'odd', **facts)}")


def test_names_that_are_no_text_come_back(tmp_path):
    names = ("cat", "cl\udcff\udcfe", "ö")  # as the folder of a disk may be called
    assert open_source(f"records:{written(tmp_path / 'odd', class_names=names)}").class_names == names


def test_a_later_layout_is_not_guessed_at(path, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.data.records.FORMAT", FORMAT + 1)
    later = written(tmp_path / "later")
    monkeypatch.undo()
    with pytest.raises(DataError, match="has the layout 2, and 1 is read"):
        RecordImages(later)


def test_the_source_has_classes_and_the_test_split(tmp_path):
    file = written(tmp_path / "split.records", held_out=10, notes=("2 files passed over",))
    source = open_source(f"records:{file}")
    held_out = source.held_out
    assert held_out is not None
    for part, rows in ((source, slice(0, 30)), (held_out, slice(30, 40))):
        np.testing.assert_array_equal(part.images[:], IMAGES[rows])
        np.testing.assert_array_equal(part.labels, LABELS[rows])
        assert part.class_names == NAMES
    assert source.name == f"records:{file}"
    assert "40 images of 7×5×3 in 3 classes" in (said := summary(*divided(DataConfig(source=source.name))))
    assert "10 held out; 2 files passed over; brightest value 249" in said


def test_the_stream_and_the_split_are_those_of_the_array(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    file = written(tmp_path / "a.records")
    arrays, records = (divided(DataConfig(source=uri)) for uri in (f"npz:{tmp_path / 'a.npz'}", f"records:{file}"))
    for ours, theirs in zip(records, arrays, strict=True):
        assert ours is not None
        assert theirs is not None
        one, other = (pipeline(part, seed=5, batch_size=6, flip=True) for part in (ours, theirs))
        for step in (0, 4, 100, 10**9):
            for key, value in other[step].items():
                np.testing.assert_array_equal(one[step][key], value)
    assert records[0].fingerprint.startswith("2:")
    assert records[0].fingerprint != records[1].fingerprint


@pytest.mark.parametrize(
    ("option", "value", "remedy"),
    [
        ("size", 8, "leave that out"),
        ("size", "5x7", "leave that out"),
        ("channels", 1, "leave that out"),
        ("bits", 16, "give --data.bits 8"),
    ],
)
def test_other_sizes_channels_and_bits_are_refused(path, option, value, remedy):
    with pytest.raises(DataError, match=f"7×5×3 and 8 bits, and --data.{option} is {value}; {remedy}, or"):
        open_source(f"records:{path}", **{option: value})


def test_the_same_size_and_channels_may_be_given(tmp_path):
    file = written(tmp_path / "square", np.ascontiguousarray(IMAGES[:, :5, :5]))
    assert open_source(f"records:{file}", size=5, channels=3).event_shape == (5, 5, 3)


def test_a_bare_path_is_recognised(path, tmp_path):
    other = tmp_path / "named-otherwise"
    shutil.copy(path, other)
    with pytest.raises(DataError, match=f"write records:{other}"):
        open_source(str(other))


def test_without_labels_there_are_no_classes(tmp_path):
    source = open_source(f"records:{written(tmp_path / 'plain', labels=None, hint='; x')}")
    assert (source.labels, source.num_classes, source.hint) == (None, 0, "; x")


def test_opening_reads_no_picture(path, tmp_path):
    content, damaged = path.read_bytes(), tmp_path / "damaged"
    first, last = content.index(IMAGES[0].tobytes()), content.index(IMAGES[-1].tobytes())
    damaged.write_bytes(content[:first] + bytes(last - first) + content[last:])
    assert len(open_source(f"records:{damaged}")) == COUNT


def test_another_process_reads_a_source_that_was_sent_to_it(path):
    program = (
        "import pickle, sys, hashlib\n"
        "images = pickle.loads(sys.stdin.buffer.read())\n"
        "print(hashlib.sha256(images[[3, 1]].tobytes()).hexdigest())"
    )
    sent = pickle.dumps(RecordImages(path))
    found = subprocess.run([sys.executable, "-c", program], input=sent, capture_output=True, check=True)
    assert found.stdout.decode().strip() == hashlib.sha256(IMAGES[[3, 1]].tobytes()).hexdigest()


def test_the_facts_are_json_for_others_too(path):
    from array_record.python.array_record_module import ArrayRecordReader

    facts = json.loads(ArrayRecordReader(str(path)).read_all()[-1][4:])
    assert facts["scorefield_records"] == FORMAT
    assert (facts["images"], facts["shape"], facts["class_names"]) == (COUNT, list(SHAPE), list(NAMES))
