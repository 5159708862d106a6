"""Known PyTorch files, read without unpickling: both forms, strides and offsets, and anything else refused."""

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from experiments.errors import CheckpointError
from experiments.importing.torch_file import read_torch

VALUES = np.arange(24, dtype="<f4")
COUNTS = np.array([7], "<i8")
TENSORS = {
    "plain.weight": ("0", 0, (4, 6), (6, 1)),
    "turned": ("0", 0, (6, 4), (1, 6)),
    "behind": ("0", 5, (3,), (2,)),
    "count": ("1", 0, (), ()),
}
STORAGES = {"0": VALUES, "1": COUNTS}


@pytest.fixture
def as_torch(monkeypatch):
    """What pickles a table of arrays as PyTorch does, by a stand-in for the few names of it that a file has."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    kinds = {name: type(name, (), {"__module__": "torch"}) for name in ("FloatStorage", "LongStorage")}
    for name, kind in kinds.items():
        setattr(torch, name, kind)

    def _rebuild_tensor_v2(*given):
        raise AssertionError("something was called")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    setattr(utils, "_rebuild_tensor_v2", _rebuild_tensor_v2)  # noqa: B010
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    class Storage:
        def __init__(self, key):
            self.key = key

    class Tensor:
        def __init__(self, key, *rest):
            self.given = (Storage(key), *rest, False, OrderedDict())

        def __reduce__(self):
            return _rebuild_tensor_v2, self.given

    class Writer(pickle.Pickler):
        old = False

        def persistent_id(self, obj):
            if not isinstance(obj, Storage):
                return None
            kind = kinds["FloatStorage" if STORAGES[obj.key].dtype.kind == "f" else "LongStorage"]
            return ("storage", kind, obj.key, "cpu", STORAGES[obj.key].size, *((None,) if self.old else ()))

    def pickled(protocol, old):
        table = OrderedDict((name, Tensor(*rest)) for name, rest in TENSORS.items())
        table.__dict__["_metadata"] = OrderedDict({"": {"version": 1}})
        out = io.BytesIO()
        writer = Writer(out, protocol)
        writer.old = old
        writer.dump(table)
        return out.getvalue()

    return pickled


def zipped(path, main, storages=STORAGES):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", main)
        for key, values in storages.items():
            archive.writestr(f"archive/data/{key}", values.tobytes())
    return path


def stream(path, main):
    parts = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps({"little_endian": True}, 2)]
    parts += [main, pickle.dumps(list(STORAGES), 2)]
    for values in STORAGES.values():
        parts += [values.size.to_bytes(8, "little"), values.tobytes()]
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("old", [False, True])
def test_arrays_come_back_as_their_strides_say(tmp_path, as_torch, old, protocol):
    main = as_torch(protocol, old)
    found = read_torch((stream if old else zipped)(tmp_path / "x.pth", main))
    assert list(found) == list(TENSORS)
    np.testing.assert_array_equal(found["plain.weight"], VALUES.reshape(4, 6))
    np.testing.assert_array_equal(found["turned"], VALUES.reshape(4, 6).T)
    np.testing.assert_array_equal(found["behind"], VALUES[[5, 7, 9]])
    assert found["count"].shape == ()
    assert found["count"] == 7
    assert found["turned"].flags.c_contiguous


def test_an_array_beyond_its_storage_is_refused(tmp_path, as_torch):
    short = {"0": VALUES[:-1], "1": COUNTS}
    with pytest.raises(CheckpointError, match="reaches beyond its storage"):
        read_torch(zipped(tmp_path / "x.pth", as_torch(2, False), short))


class Harmful:
    def __reduce__(self):
        return (print, ("called",))


@pytest.mark.parametrize("what", [{"a": Harmful()}, Harmful(), [1.5], "text", {"a": 1}])
def test_anything_else_is_refused_and_nothing_is_called(tmp_path, capsys, what):
    with pytest.raises(CheckpointError, match="cannot be read as arrays of PyTorch"):
        read_torch(zipped(tmp_path / "x.pth", pickle.dumps(what, 2)))
    assert capsys.readouterr().out == ""


def test_a_torn_file_is_refused(tmp_path, as_torch):
    path = stream(tmp_path / "x.pth", as_torch(2, True))
    for length in (0, 3, 60, len(path.read_bytes()) - 40):
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(CheckpointError):
            read_torch(path)
