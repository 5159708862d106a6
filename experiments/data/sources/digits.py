"""The 1,797 handwritten digits of 8×8 pixels and 17 shades of grey that come with scikit-learn; no download.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), its test part.
"""

from __future__ import annotations

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
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise DataError("digits needs scikit-learn; install scorefield[train].") from None
    digits: Any = load_digits()
    images = ((255 * np.asarray(digits["images"]).astype(np.int64) + 8) // 16).astype(np.uint8)
    return from_arrays(config, images, "digits", np.asarray(digits["target"]), "the labels of digits")
