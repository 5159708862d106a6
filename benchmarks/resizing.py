"""How far apart the libraries' ways are to bring a picture to Inception's 299×299 pixels, in levels of 255.

    python -m benchmarks.resizing

It prints the table of docs/features.md, with the libraries that are installed: torch, torch-fidelity, clean-fid and
Pillow. The pictures are a photograph that scikit-learn ships, as it is and halved down to 32×32.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from experiments.evaluation.networks.resizing import resized

SIDE = 299
Resize = Callable[[np.ndarray], np.ndarray]
PACKAGES = ("torch", "torch-fidelity", "clean-fid", "pillow")


def ways() -> Iterator[tuple[str, Resize]]:
    """Each way by its name, from an image of bytes to levels."""
    yield "this project's `tf1-bilinear`, the standard of FID", lambda image: _ours(image, "tf1-bilinear")
    yield "this project's `bilinear`", lambda image: _ours(image, "bilinear")
    yield "this project's `antialiased-bicubic`", lambda image: _ours(image, "antialiased-bicubic")
    if importlib.util.find_spec("torch_fidelity") is not None:
        yield "torch-fidelity, `interpolate_bilinear_2d_like_tensorflow1x`", _torch_fidelity
    if importlib.util.find_spec("torch") is not None:
        yield "torch `interpolate`, bilinear: pytorch-fid", lambda image: _torch(image, "bilinear", False)
        yield "torch `interpolate`, bilinear, antialias", lambda image: _torch(image, "bilinear", True)
        yield "torch `interpolate`, bicubic (a = −0.75)", lambda image: _torch(image, "bicubic", False)
        yield "torch `interpolate`, bicubic, antialias (a = −0.5)", lambda image: _torch(image, "bicubic", True)
    yield "Pillow bilinear, in bytes", lambda image: _pillow(image, Image.Resampling.BILINEAR)
    yield "Pillow bicubic, in bytes", lambda image: _pillow(image, Image.Resampling.BICUBIC)
    if importlib.util.find_spec("cleanfid") is not None:
        yield "clean-fid `clean`: Pillow bicubic, in floats, clipped", _clean


def _ours(image: np.ndarray, kind: Any) -> np.ndarray:
    return np.asarray(resized(jnp.asarray(image[None], jnp.float32), kind, SIDE))[0]


def _tensor(image: np.ndarray) -> Any:
    import torch  # type: ignore[import-not-found]

    return torch.tensor(image.transpose(2, 0, 1)[None].astype(np.float32))


def _torch(image: np.ndarray, mode: str, antialias: bool) -> np.ndarray:
    import torch  # type: ignore[import-not-found]

    how = {"mode": mode, "align_corners": False, "antialias": antialias}
    return torch.nn.functional.interpolate(_tensor(image), (SIDE, SIDE), **how)[0].numpy().transpose(1, 2, 0)


def _torch_fidelity(image: np.ndarray) -> np.ndarray:
    from torch_fidelity.interpolate_compat_tensorflow import (  # type: ignore[import-not-found]
        interpolate_bilinear_2d_like_tensorflow1x,
    )

    seen = interpolate_bilinear_2d_like_tensorflow1x(_tensor(image), size=(SIDE, SIDE), align_corners=False)
    return seen[0].numpy().transpose(1, 2, 0)


def _pillow(image: np.ndarray, how: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), how), np.float32)


def _clean(image: np.ndarray) -> np.ndarray:
    from cleanfid.resize import build_resizer  # type: ignore[import-not-found]

    return build_resizer("clean")(image)


def pictures() -> dict[str, np.ndarray]:
    """The pictures by their size."""
    whole = np.ascontiguousarray(load_sample_image("china.jpg")[:, 100:527])
    small = np.asarray(Image.fromarray(whole).resize((32, 32), Image.Resampling.BOX))
    return {"32×32": small, "427×427": whole}


def table() -> list[str]:
    """The lines of the table: mean and largest difference from the standard."""
    images = pictures()
    lines = [
        "| way | " + " | ".join(f"{size}: mean | largest" for size in images) + " |",
        "|---|" + "---|---|" * len(images),
    ]
    standard = {size: _ours(image, "tf1-bilinear") for size, image in images.items()}
    for name, way in ways():
        away = [np.abs(way(image).astype(np.float64) - standard[size]) for size, image in images.items()]
        cells = " | ".join(f"{_shown(one.mean())} | {_shown(one.max())}" for one in away)
        lines.append(f"| {name} | {cells} |")
    return lines


def _shown(levels: float) -> str:
    return f"{levels:.1f}" if levels >= 0.05 else f"{levels:.1g}"


def main() -> None:
    """Print the versions and the table."""
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {package}")
    print(", ".join(versions))
    print("\n".join(table()))


if __name__ == "__main__":
    main()
