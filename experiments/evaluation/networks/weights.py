"""From a file of weights to a network of features: which one it is, told by its arrays, and whether it is whole."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.errors import CheckpointError, UsageError
from experiments.evaluation.networks import dinov2, efficientnet_lite, inception
from experiments.evaluation.networks.known import FILES, KnownFile
from experiments.evaluation.networks.layers import Images, getter, laid_out, shapes_of
from experiments.evaluation.networks.resizing import Kind, resized
from experiments.importing.arrays import check_arrays
from experiments.importing.safetensors import SafeTensors, open_safetensors, sha256
from experiments.importing.torch_file import read_torch
from experiments.names import listed

Params = dict[str, Any]
PICKLES = (".pth", ".pt", ".bin", ".pkl", ".ckpt")
_COUNTER = ".num_batches_tracked"


@dataclass(frozen=True)
class Preprocessing:
    """What is done to levels of 0 to 255 before a network sees them: resized, clipped or not, (u − mean)/spread."""

    name: str
    kind: Kind
    mean: tuple[float, ...]
    spread: tuple[float, ...]
    clip: bool = False

    def described(self, side: int) -> str:
        """The rule, for a report."""
        middle, spread = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.spread))
        clipped = ", clipped to 0..255" if self.clip else ""
        return f"{self.name}: {self.kind} to {side}×{side}{clipped}, (u − ({middle}))/({spread})"


_IMAGENET = tuple(255 * m for m in (0.485, 0.456, 0.406)), tuple(255 * s for s in (0.229, 0.224, 0.225))
FID_PREPROCESSING = "tf1"
INCEPTION = (
    Preprocessing(FID_PREPROCESSING, "tf1-bilinear", (128,), (128,)),
    Preprocessing("pytorch-fid", "bilinear", (127.5,), (127.5,)),
    Preprocessing("clean-fid", "antialiased-bicubic", (128,), (128,), clip=True),
)
"""For Inception: that of FID's own graph, which is the standard one and the first, and those of two libraries."""
DINOV2 = (Preprocessing("imagenet", "antialiased-bicubic", *_IMAGENET),)
LITE = (Preprocessing("lite", "antialiased-bicubic", (127,), (128,)),)


@dataclass(frozen=True, eq=False)
class Network:
    """A network of features with its parameters."""

    title: str
    path: Path
    sha256: str
    """Of the file."""
    known: KnownFile | None
    preprocessing: Preprocessing
    side: int
    """Pixels of a side of the images that it takes."""
    width: int
    """The number of features."""
    body: Callable[[Params, Images], Float[Array, "b d"]]
    params: Params = dataclasses.field(repr=False)

    @property
    def is_fid(self) -> bool:
        """Whether a Fréchet distance in these features is FID: those weights, and that preprocessing."""
        return self.known is not None and self.known.fid and self.preprocessing.name == FID_PREPROCESSING

    def prepared(self, images: Images) -> Images:
        """What the network sees of images of levels 0 to 255."""
        x = resized(images, self.preprocessing.kind, self.side)
        x = jnp.clip(x, 0, 255) if self.preprocessing.clip else x
        mean, spread = (jnp.asarray(values, x.dtype) for values in (self.preprocessing.mean, self.preprocessing.spread))
        return (x - mean) / spread


def open_network(path: Path, preprocessing: str | None = None) -> Network:
    """The network whose weights are in the file at `path`, with its standard preprocessing unless one is named.

    Which network it is, is told by the names and shapes of the arrays. Raises CheckpointError for a file that is not
    whole, or of no network that is known here, and UsageError for a pickle and an unknown preprocessing.
    """
    file, digest, read = _opened(path)
    title, side, width, body, wanted, choices, assembled = _recognised(file)
    chosen = choices[0]
    if preprocessing is not None:
        named = {one.name: one for one in choices}
        if preprocessing not in named:
            raise UsageError(f"--preprocessing is {preprocessing!r}; {title} knows {', '.join(named)}.")
        chosen = named[preprocessing]
    check_arrays([file], wanted, title)
    known = FILES.get(digest)
    return Network(title, path, digest, known, chosen, side, width, body, assembled(read))


def _opened(path: Path) -> tuple[SafeTensors, str, Callable[[str], np.ndarray]]:
    """(what a file holds without what counts batches, its SHA-256, what reads an array of it)."""
    if path.is_file() and path.suffix.lower() in PICKLES:
        digest = sha256(path)
        if digest not in FILES:
            # What is too long for an error's line loses the middle of its longest word: the path.
            raise UsageError(
                f"{path} is a pickle not known here by its SHA-256. If you trust it, run there: python -c "
                f"\"import torch as t, safetensors.torch as s; n='{path.stem}'; s.save_file({{k: v.contiguous() "
                f"for k, v in t.load(n+'{path.suffix}', weights_only=True).items()}}, n+'.safetensors')\""
            )
        arrays = read_torch(path)
        file = SafeTensors(path, {name: _entry(name, array) for name, array in arrays.items()}, {})
        return _counted(file), digest, lambda name: np.asarray(arrays[name], np.float32)
    file = open_safetensors(path)
    return _counted(file), sha256(path), file.read


def _entry(name: str, array: np.ndarray) -> Any:
    from experiments.importing.safetensors import Entry

    kinds = {"<f4": "F32", "<f8": "F64", "<f2": "F16"}
    return Entry(name, kinds.get(array.dtype.str, "I64"), array.shape, 0, array.nbytes)


def _counted(file: SafeTensors) -> SafeTensors:
    """Without the numbers of batches that norms have seen, which no feature needs."""
    kept = {name: entry for name, entry in file.entries.items() if not name.endswith(_COUNTER)}
    return dataclasses.replace(file, entries=kept)


def _recognised(file: SafeTensors) -> Any:
    """(title, side, width, body, arrays, preprocessings, what assembles the parameters) of the network of a file."""
    if "Conv2d_1a_3x3.conv.weight" in file.entries:
        return _of_layers("FID's Inception", inception, 2048, INCEPTION)
    if "_conv_stem.weight" in file.entries:
        return _of_layers("EfficientNet-Lite0", efficientnet_lite, 1280, LITE)
    if dinov2.is_dinov2(file):
        shape = dinov2.shape_of(file)
        arrays = dinov2.wanted(shape) | {name: file.entries[name].shape for name in dinov2.unused(file)}
        body = functools.partial(dinov2.features, shape)
        assembled = functools.partial(dinov2.assembled, shape)
        return shape.title, dinov2.SIDE, shape.channels, body, arrays, DINOV2, assembled
    some = listed(sorted(file.entries)[:3])
    raise CheckpointError(
        f"{file.path} is of no network of features that is known here (it has {some or 'no arrays'}); give the weights "
        "of FID's Inception, of a DINOv2 or of EfficientNet-Lite0, under their authors' names."
    )


def _of_layers(title: str, module: Any, width: int, choices: tuple[Preprocessing, ...]) -> Any:
    wanted = _shapes(module)

    def assembled(read: Callable[[str], np.ndarray]) -> Params:
        return {name: laid_out(read(name)) for name in wanted}

    def body(params: Params, x: Images) -> Float[Array, "b d"]:
        return module.features(getter(params), x)

    return title, module.SIDE, width, body, {**wanted, **module.UNUSED}, choices, assembled


@functools.cache
def _shapes(module: Any) -> dict[str, tuple[int, ...]]:
    return shapes_of(module.features, (module.SIDE, module.SIDE, 3))
