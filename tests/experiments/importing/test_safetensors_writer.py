"""Files that are written are read back, by our reader and by the package, where that is installed."""

import io
import json
import re

import ml_dtypes
import numpy as np
import pytest

from experiments.errors import CheckpointError
from experiments.importing.safetensors import open_safetensors
from experiments.importing.safetensors_writer import write_safetensors

RNG = np.random.default_rng(0)
ARRAYS = {
    "b.weight": RNG.standard_normal((3, 4)).astype(np.float32),
    "b.bias": np.asarray(1.5, np.float32),
    "transposed": RNG.standard_normal((2, 5, 3)).astype(np.float32).transpose(2, 0, 1),
    "a": RNG.standard_normal(7),
    "half": RNG.standard_normal((2, 2)).astype(np.float16),
    "none": np.empty((0, 3), np.float32),
    "other order of bytes": np.arange(3.0).astype(">f4"),
    "brain": RNG.standard_normal(5).astype(ml_dtypes.bfloat16),
    "ünï": np.ones((1, 1), np.float32),
}


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        write_safetensors(file, ARRAYS, {"format": "pt", "of": '{"a": "ß"}'})
    return path


def test_our_reader_reads_it_back(written):
    file = open_safetensors(written)
    assert file.metadata == {"format": "pt", "of": '{"a": "ß"}'}
    assert set(file.entries) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert file.entries[name].shape == array.shape
        np.testing.assert_array_equal(file.read(name), array.astype(np.float32), err_msg=name)


def test_the_package_reads_it_back(written):
    """All but bfloat16, which the package does not give to numpy."""
    package = pytest.importorskip("safetensors", reason="the package safetensors is missing")
    with package.safe_open(written, "numpy") as file:
        assert file.metadata() == {"format": "pt", "of": '{"a": "ß"}'}
        for name, array in ARRAYS.items():
            if name != "brain":
                np.testing.assert_array_equal(file.get_tensor(name), array, err_msg=name)


def test_arrays_can_be_mapped_into_memory(written):
    """Each begins at a multiple of its number's size, and the header at one of eight bytes."""
    data = written.read_bytes()
    size = int.from_bytes(data[:8], "little")
    assert size % 8 == 0
    header = json.loads(data[8 : 8 + size])
    for name, array in ARRAYS.items():
        assert header[name]["data_offsets"][0] % array.dtype.itemsize == 0, name


@pytest.mark.parametrize("length", range(8))
def test_whatever_is_said_the_arrays_begin_at_a_multiple_of_eight(length):
    file = io.BytesIO()
    write_safetensors(file, {"a": np.ones(3)}, {"said": "x" * length})
    assert int.from_bytes(file.getvalue()[:8], "little") % 8 == 0


def test_what_is_no_float_is_refused():
    with pytest.raises(ValueError, match="a is of type int32; only floating-point numbers are written"):
        write_safetensors(io.BytesIO(), {"a": np.zeros(3, np.int32)}, {})
    with pytest.raises(ValueError, match="an array cannot be called __metadata__"):
        write_safetensors(io.BytesIO(), {"__metadata__": np.zeros(3)}, {})


def test_a_file_within_another_is_read_in_its_place(written, tmp_path):
    data = written.read_bytes()
    around = tmp_path / "around"
    around.write_bytes(b"12345" + data + b"67")
    file = open_safetensors(around, 5, len(data))
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(file.read(name), array.astype(np.float32), err_msg=name)
    for begin, length in ((4, len(data)), (5, len(data) - 1), (5, len(data) + 1)):
        with pytest.raises(CheckpointError, match=re.escape(str(around))):
            open_safetensors(around, begin, length)
