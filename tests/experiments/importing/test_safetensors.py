"""Files of safetensors: what comes back, and what is refused by name before an array is read."""

import json
import os
import struct

import numpy as np
import pytest

from experiments.errors import CheckpointError
from experiments.importing.safetensors import open_safetensors, sha256
from tests.experiments.importing.published import write

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.asarray([0.5, -2.0], np.float64)


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "some.safetensors", {"a": A, "b": B, "half": A.astype(np.float16)}, {"config": "{}"})


def test_arrays_come_back_as_float32_under_their_names(path):
    file = open_safetensors(path)
    assert file.metadata == {"config": "{}"}
    assert {name: (entry.dtype, entry.shape) for name, entry in file.entries.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("F64", (2,)),
        "half": ("F16", (2, 3)),
    }
    for name, array in (("a", A), ("b", B), ("half", A)):
        np.testing.assert_array_equal(file.read(name), array)
        assert file.read(name).dtype == np.float32


def test_bfloat16_is_the_upper_half_of_a_float32(tmp_path):
    values = np.asarray([1.0, -3.5, 2.0**-20, 0.0], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2")
    header = json.dumps({"x": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}).encode()
    path = tmp_path / "b.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + upper.tobytes())
    np.testing.assert_array_equal(open_safetensors(path).read("x"), values)


def test_an_empty_array_and_a_scalar_are_read(tmp_path):
    arrays = {"none": np.zeros((0, 3), np.float32), "one": np.asarray(7, np.float32)}
    file = open_safetensors(write(tmp_path / "e.safetensors", arrays, None))
    assert file.read("none").shape == (0, 3)
    assert file.read("one") == 7


def test_the_digest_is_that_of_sha256sum(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("cut", [1, 20, 30, 44])
def test_a_file_that_is_cut_off_is_refused_by_the_array_that_is_not_whole(path, cut):
    path.write_bytes(path.read_bytes()[:-cut])
    name = "half" if cut <= 12 else "b" if cut <= 28 else "a"
    with pytest.raises(CheckpointError, match=f"is cut off within {name}"):
        open_safetensors(path)


def test_a_file_that_is_longer_than_its_arrays_is_refused(path):
    path.write_bytes(path.read_bytes() + b"xy")
    with pytest.raises(CheckpointError, match="2 bytes after its last array"):
        open_safetensors(path)


def test_a_file_that_becomes_shorter_while_it_is_read_is_refused(path):
    file = open_safetensors(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="ends within half"):
        file.read("half")


def described(**changed):
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changed}}


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (described(dtype="F128"), "x is of type 'F128', which is not known"),
        (described(shape=[-2]), r"x has shape \[-2\], which is none"),
        (described(shape=[3]), r"x has 8 bytes, and F32\[3\] takes 12"),
        (described(data_offsets=[4, 12]), "x does not follow the array before it"),
        (described(data_offsets=[0]), "x has no place in the file"),
        ({"x": 3}, "x is of type None"),
        ({**described(), "y": described()["x"]}, "y overlaps the array before it"),
        ([1], "its header is no table"),
        ({**described(), "__metadata__": {"a": 1}}, "metadata that are not texts"),
        (described(shape=[2**30, 2**30], data_offsets=[0, 2**62]), "is cut off within x: it has .* bytes of at least"),
        (described(shape=[2**31, 2**31], data_offsets=[0, 2**64]), r"x has no place in the file"),
        (described(shape=[2**40, 2**40], data_offsets=[0, 8]), "x has 8 bytes, and F32.* takes"),
        (described(shape=[1] * 33, data_offsets=[0, 4]), r"x has shape \[1, 1, .*, which is none"),
        (described(shape=[10**400]), "x has shape .*, which is none"),
        (described(shape=[2.0]), "x has shape .*, which is none"),
        (described(shape=[True, 2]), "x has shape .*, which is none"),
        (described(shape="2"), "x has shape '2', which is none"),
        (described(dtype=["F32"]), "x is of type .*, which is not known"),
        (described(data_offsets=[-4, 4]), "x has no place in the file"),
        (described(data_offsets=[8, 0]), "x has -8 bytes, and F32.* takes 8"),
        (described(data_offsets=[0.0, 8.0]), "x has no place in the file"),
        (
            {**described(), "z": {"dtype": "F32", "shape": [0], "data_offsets": [4, 4]}},
            "z overlaps the array before it",
        ),
        ({"\x1b[2J\n": 3}, r"'\\x1b\[2J\\n' is of type None"),
        ({"\ud800": 3}, r"'\\ud800' is of type None"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused_in_a_sentence(tmp_path, header, sentence):
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(CheckpointError, match=sentence) as refused:
        open_safetensors(path)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < len(str(path)) + 400


def test_a_name_that_is_there_twice_is_refused(tmp_path):
    one = json.dumps(described())[1:-1]
    text = f"{{{one}, {one}}}".encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(CheckpointError, match="x is there twice"):
        open_safetensors(path)


def test_a_folder_and_a_pipe_are_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(CheckpointError, match="is no file; give a file of safetensors"):
            open_safetensors(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(100), b"\xff" * 40, struct.pack("<Q", 5) + b"{]}  "])
def test_what_is_no_such_file_is_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is no file of safetensors, or is cut off"):
        open_safetensors(path)


def test_numbers_that_are_not_finite_are_refused_by_name(tmp_path):
    path = write(tmp_path / "n.safetensors", {"fine": A, "broken": np.asarray([1, np.nan], np.float32)}, None)
    file = open_safetensors(path)
    file.read("fine")
    with pytest.raises(CheckpointError, match="broken holds numbers that are not finite"):
        file.read("broken")
