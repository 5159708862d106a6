"""Files of safetensors, written with numpy alone: the inverse of `safetensors`, which says what they look like.

The header is filled up with spaces to a multiple of 8 bytes, so that the arrays can be mapped into memory, and the
arrays lie in the order of their sizes and names, the widest numbers first, as the package of that name writes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO

import numpy as np

from experiments.importing.safetensors import METADATA, NUMPY

_NAMES = {"bfloat16": "BF16", **{np.dtype(numpy).name: name for name, numpy in NUMPY.items() if name != "BF16"}}
"""The names of the types that are written."""
_ALIGNED = 8


def write_safetensors(file: IO[bytes], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays of bfloat16, float16, float32 or float64 by name, and texts beside them, into an open file.

    Raises ValueError for an array of another type, and for one that is called as the metadata are.
    """
    ordered = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, object] = {METADATA: dict(metadata)} if metadata else {}
    begin = 0
    for name in ordered:
        array = arrays[name]
        dtype = _NAMES.get(array.dtype.name)
        if dtype is None:
            raise ValueError(f"{name} is of type {array.dtype}; only floating-point numbers are written")
        if name == METADATA:
            raise ValueError(f"an array cannot be called {METADATA}")
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [begin, begin + array.nbytes]}
        begin += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for name in ordered:
        # Its rows in order, however they lie in memory: the format knows no strides.
        whole = np.ascontiguousarray(arrays[name]).reshape(-1)
        whole = whole if whole.dtype.byteorder in "=|" else whole.astype(whole.dtype.newbyteorder("="))
        file.write(whole.view(np.uint8).data)
