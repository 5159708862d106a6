"""scikit-learn's digits, read from its file: the same as its own reader gives, without what that imports."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.data.sources import digits

ROOT = Path(digits.__file__).parents[3]


@pytest.mark.parametrize("there", [True, False])
def test_they_are_those_of_scikit_learn(there, monkeypatch):
    from sklearn.datasets import load_digits

    if not there:  # in a version that keeps them elsewhere
        monkeypatch.setattr(Path, "is_file", lambda path: False)
    levels, labels = digits._levels_and_labels()
    own = load_digits()
    np.testing.assert_array_equal(levels, own["images"])
    np.testing.assert_array_equal(labels, own["target"])
    assert levels.dtype == np.int64


def test_scikit_learn_is_not_imported_for_them():
    program = (
        "import sys; from experiments.data.sources.digits import _levels_and_labels; _levels_and_labels(); "
        "print(*(name for name in ('sklearn', 'scipy') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""
