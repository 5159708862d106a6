"""The 1,797 handwritten digits of 8×8 pixels and 17 shades of grey that come with scikit-learn; no download.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), its test part.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.arrays import from_arrays
from experiments.data.config import DataConfig
from experiments.data.source import Source
from experiments.errors import DataError


def read(where: str, config: DataConfig) -> Source:
    """Grey levels v = 0..16 become (255 v + 8) // 16, which is 255 v/16 rounded (half up): 0 is 0 and 16 is 255."""
    if where:
        raise DataError(f"digits:{where} is not a source; write digits alone, it takes no path.")
    levels, labels = _levels_and_labels()
    return from_arrays(config, ((255 * levels + 8) // 16).astype(np.uint8), "digits", labels, "the labels of digits")


def _levels_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """(Grey levels (1797, 8, 8), labels (1797,)), from the file that `load_digits` reads.

    To import scikit-learn takes longer than all else that a small training does before its first step.
    """
    missing = DataError("digits needs scikit-learn; install scorefield[train].")
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise missing
    file = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
        return table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise missing from None
    digits: Any = load_digits()
    return np.asarray(digits["images"]).astype(np.int64), np.asarray(digits["target"])
