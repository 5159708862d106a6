"""Arrays of the few PyTorch files whose every byte is known, read without unpickling anything.

Such a file is recognised by its SHA-256 before anything in it is looked at. The names and places of its arrays stand in
a pickle, of which the opcodes are read as text by `pickletools`: nothing is imported, called or built but texts,
numbers and tuples. Both forms are read, that before PyTorch 1.6 (pickles one after the other, and then each storage
behind its length) and the zip.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.errors import CheckpointError

_TYPES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8"}
_MARK = object()


@dataclass(frozen=True)
class _Call:
    """What a pickle would call, and with what; it is not called."""

    what: str
    given: tuple[Any, ...]


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a state dictionary by name, in the order of rows.

    Raises CheckpointError for what is not of this form.
    """
    content = path.read_bytes()
    try:
        table, storages = _of_zip(content) if content[:2] == b"PK" else _of_stream(content)
        return {name: _array(tensor, storages) for name, tensor in table}
    except (ValueError, KeyError, IndexError, TypeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} cannot be read as arrays of PyTorch ({error}).") from None


def _of_zip(content: bytes) -> tuple[list[tuple[str, _Call]], dict[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        [main] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        stem = main.removesuffix("data.pkl") + "data/"
        storages = {name.removeprefix(stem): archive.read(name) for name in archive.namelist() if name.startswith(stem)}
        return _pairs(_said(io.BytesIO(archive.read(main)))), storages


def _of_stream(content: bytes) -> tuple[list[tuple[str, _Call]], dict[str, bytes]]:
    file = io.BytesIO(content)
    for _ in range(3):  # a number that marks the form, its version, and what the machine was
        _said(file)
    table, keys = _pairs(_said(file)), _said(file)
    widths = {call.given[0].given[2]: np.dtype(_TYPES[call.given[0].given[1]]).itemsize for _, call in table}
    storages = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        storages[key] = file.read(count * widths[key])
    return table, storages


def _pairs(said: Any) -> list[tuple[str, _Call]]:
    """The names and tensors of a state dictionary."""
    if not isinstance(said, list) or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in said):
        raise ValueError("it holds no table of arrays")
    for name, tensor in said:
        if not (isinstance(name, str) and isinstance(tensor, _Call) and tensor.what.startswith("_rebuild_tensor")):
            raise ValueError(f"{name!r} is no array")
    return said


def _array(tensor: _Call, storages: dict[str, bytes]) -> np.ndarray:
    storage, begin, shape, strides = tensor.given[:4]
    _, kind, key = storage.given[:3]
    values = np.frombuffer(storages[key], _TYPES[kind])
    last = begin + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and not 0 <= begin <= last < len(values):
        raise ValueError("an array reaches beyond its storage")
    steps = tuple(stride * values.itemsize for stride in strides)
    view = np.lib.stride_tricks.as_strided(values[begin:], shape, steps, writeable=False)
    return view.copy(order="C")


def _said(file: io.BytesIO) -> Any:
    """What the next pickle says: a table as a list of pairs, and of what it would call the name and arguments."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for code, argument, _ in pickletools.genops(file):
        if code.name == "STOP":
            return stack.pop()
        _step(code.name, argument, stack, memo)
    raise ValueError("a pickle has no end")


def _step(name: str, argument: Any, stack: list[Any], memo: dict[Any, Any]) -> None:
    """One opcode of those that tables of arrays are made of; raises ValueError for any other."""
    if name in ("PROTO", "FRAME"):
        return
    if name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
        memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET", "GET"):
        stack.append(memo[argument])
    elif name in ("GLOBAL", "STACK_GLOBAL"):
        stack.append(argument.split()[-1] if name == "GLOBAL" else list(_popped(stack, 2))[1])
    elif name in ("NEWTRUE", "NEWFALSE", "NONE"):
        stack.append({"NEWTRUE": True, "NEWFALSE": False, "NONE": None}[name])
    elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "MARK"):
        stack.append({"EMPTY_TUPLE": (), "MARK": _MARK}.get(name, []))
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        stack.append(tuple(_popped(stack, int(name[-1]))))
    elif name == "TUPLE":
        stack.append(tuple(_marked(stack)))
    elif name in ("APPEND", "APPENDS"):
        values = _popped(stack, 1) if name == "APPEND" else _marked(stack)
        stack[-1].extend(values)
    elif name in ("SETITEM", "SETITEMS"):
        flat = list(_popped(stack, 2) if name == "SETITEM" else _marked(stack))
        stack[-1].extend(zip(flat[::2], flat[1::2], strict=True))
    elif name == "BINPERSID":
        stack.append(_Call("storage", stack.pop()))
    elif name == "REDUCE":
        what, given = _popped(stack, 2)
        stack.append([] if what == "OrderedDict" else _Call(str(what), given))
    elif name == "BUILD":
        stack.pop()  # the versions of the modules
    elif isinstance(argument, str | int):
        stack.append(argument)
    else:
        raise ValueError(f"it has the opcode {name}")


def _popped(stack: list[Any], count: int) -> Iterator[Any]:
    values = stack[-count:]
    del stack[-count:]
    return iter(values)


def _marked(stack: list[Any]) -> list[Any]:
    place = max(i for i, value in enumerate(stack) if value is _MARK)
    values = stack[place + 1 :]
    del stack[place:]
    return values
