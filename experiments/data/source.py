"""A data set, in memory or lazy, and its division into a training and a held-out part."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import numpy as np
from jaxtyping import Float32, Int, Int32, UInt8, UInt16

from experiments import streams
from experiments.data import randomness
from experiments.data.lazy import VERSION, LazyImages, View
from experiments.errors import UsageError

Pixels = UInt8[np.ndarray, "n height width channels"] | UInt16[np.ndarray, "n height width channels"]
"""Images of 8 bits or of 16."""
Events = Pixels | Float32[np.ndarray, "n d"]
"""Images, or points in the model's own units."""
_KINDS = {(np.dtype(np.uint8), 4), (np.dtype(np.uint16), 4), (np.dtype(np.float32), 2)}
_LOOKED_AT, _LOOKED_AT_BYTES = 256, 2**24


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Images of one shape, or points of one dimension, perhaps with a class each. The arrays are read-only."""

    images: Events | LazyImages
    """uint8 or uint16 images, in an array or decoded when rows are asked for; or float32 points (n, d), handed on
    as they are."""
    labels: Int32[np.ndarray, "n"] | None = None
    """Class of each image in 0..num_classes − 1."""
    name: str = "arrays"
    """The URI that opened it."""
    class_names: tuple[str, ...] = ()
    """Name of each class; the decimal numbers if none are given with labels."""
    held_out: Source | None = None
    """The test split that the data set itself comes with."""
    notes: tuple[str, ...] = ()
    """What a person should know of how it was read, such as "2 files passed over"; for `summary`."""
    bad: tuple[str, ...] = ()
    """Why each picture that was left out cannot be read; for `check`."""
    hint: str = ""
    """Where classes might be, if there are none, as the end of a sentence."""

    def __post_init__(self) -> None:
        lazy, labels = self.lazy is not None, self.labels
        images = self.images if lazy else np.asarray(self.images)
        if (images.dtype, images.ndim) not in _KINDS or 0 in images.shape:
            raise ValueError(
                f"images are {images.dtype} {images.shape}; give uint8 or uint16 (n, height, width, channels), or "
                "float32 points (n, d)."
            )
        if isinstance(images, np.ndarray) and images.ndim == 2 and not np.isfinite(images).all():
            raise ValueError(f"{np.sum(~np.isfinite(images))} coordinates of the points are not finite; drop those.")
        if isinstance(images, np.ndarray):
            object.__setattr__(self, "images", _read_only(images))
        if labels is None:
            return
        if np.shape(labels) != images.shape[:1] or np.min(labels) < 0:
            raise ValueError(f"labels have shape {np.shape(labels)}; give one class, from 0, per image: {len(images)}.")
        classes = int(np.max(labels)) + 1
        if not self.class_names:
            object.__setattr__(self, "class_names", tuple(map(str, range(classes))))
        if classes > len(self.class_names):
            raise ValueError(f"labels reach {classes - 1}, and only {len(self.class_names)} classes have names.")
        object.__setattr__(self, "labels", _read_only(np.asarray(labels, np.int32)))

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.event_shape))
        kinds = f" in {self.num_classes} classes" if self.num_classes else ""
        return f"Source({self.name}: {len(self):,} of {shape}{kinds})"

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int | None]:
        """Image or point i and its class."""
        return self.images[i], None if self.labels is None else int(self.labels[i])

    @property
    def event_shape(self) -> tuple[int, ...]:
        """(height, width, channels) of one image, (d,) of a point."""
        return self.images.shape[1:]

    @property
    def of_points(self) -> bool:
        """Whether these are points."""
        return len(self.event_shape) == 1

    @property
    def points(self) -> np.ndarray:
        """The points, or the images in memory, as an array. Raises TypeError where the images are lazy."""
        if not isinstance(self.images, np.ndarray):
            raise TypeError(f"the images of {self.name} are lazy, and no array; ask for rows of them.")
        return self.images

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 without labels."""
        return 0 if self.labels is None else len(self.class_names)

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Number of images of each class; without labels there are none."""
        return () if self.labels is None else tuple(np.bincount(self.labels, minlength=self.num_classes).tolist())

    @property
    def lazy(self) -> LazyImages | None:
        """The images, if they are decoded when rows are asked for."""
        return None if isinstance(self.images, np.ndarray) or not isinstance(self.images, LazyImages) else self.images

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the shape, the pixels and the labels: equal exactly when these are equal.

        The type is a part of the shape where it is uint16. Of lazy images it is of the second version, `lazy.VERSION`
        before it: of the contents of their files and what is done to them in the place of the pixels.
        """
        lazy, wide = self.lazy, (str(self.images.dtype),) * (self.images.dtype == np.uint16)
        digest = hashlib.sha256(repr((self.images.shape, self.labels is not None, *wide)).encode())
        if isinstance(self.images, np.ndarray):
            digest.update(np.ascontiguousarray(self.images, self.images.dtype.newbyteorder("<")).data)
        elif lazy is not None:
            digest.update(lazy.fingerprint.encode())
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels, "<i4").data)
        return VERSION * (lazy is not None) + digest.hexdigest()

    @property
    def digest(self) -> str:
        """The hexadecimal digits of the fingerprint alone, for the names of files."""
        return self.fingerprint.removeprefix(VERSION)

    @property
    def looked_at(self) -> range:
        """The images whose values are looked at to describe the data: all in memory, or some 256 lazy ones, spread."""
        return range(0, len(self), 1 if self.lazy is None else -(-len(self) // _LOOKED_AT))

    @cached_property
    def value_range(self) -> tuple[int, int]:
        """The least and the largest value of the images `looked_at`, of which few are in memory at a time."""
        if isinstance(self.images, np.ndarray):
            return _ends(self.images)
        rows = np.array(self.looked_at)
        some = max(1, _LOOKED_AT_BYTES // (prod(self.event_shape) * self.images.dtype.itemsize))
        ends = [_ends(self.images[rows[i : i + some]]) for i in range(0, len(rows), some)]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def take(self, rows: Int[np.ndarray, "m"], name: str | None = None) -> Source:
        """The images `rows` with their labels and all the class names, without a held-out part.

        Images in memory are copied; lazy ones are not decoded for it.
        """
        labels = None if self.labels is None else self.labels[rows]
        lazy = self.lazy
        images = self.images[rows] if lazy is None else View(lazy, np.arange(len(self))[rows])
        return replace(self, images=images, labels=labels, name=name or self.name, held_out=None)


def split(
    source: Source, held_out_fraction: float = 0.1, seed: int = 0, rules: int = 2
) -> tuple[Source, Source | None]:
    """(training part, held-out part) of `source`; each keeps the order of the source.

    A data set with a test split of its own is divided there, whatever the fraction. Otherwise the nearest number of
    images to the fraction, at least one and not all, is drawn by `seed` alone; a fraction of 0 holds out nothing.
    Of each class the image that would be drawn last stays in training, so that no class is held out whole, and others
    are drawn in their place while there are any. By `rules` 1, and where each class has a single image, classes have no
    part in it.

    Raises UsageError for a fraction outside [0, 1), a negative seed, and a single image that is to be divided.
    """
    if not 0 <= held_out_fraction < 1 or seed < 0:
        raise UsageError(f"--data.held-out {held_out_fraction} and --data.seed {seed} must be in [0, 1) and 0 or more.")
    if source.held_out is not None:
        return replace(source, held_out=None), source.held_out
    if held_out_fraction == 0:
        return source, None
    if len(source) < 2:
        raise UsageError(f"{source.name} has a single image and none to hold out; give --data.held-out 0.")
    count = min(max(1, round(held_out_fraction * len(source))), len(source) - 1)
    rows = randomness.permutation(seed, streams.SPLIT, count=len(source))
    drawn = rows[:count]
    if rules > 1 and source.labels is not None:
        classes, last = np.unique(source.labels[rows][::-1], return_index=True)
        if len(classes) < len(rows):
            drawn = np.delete(rows, len(rows) - 1 - last)[:count]
    return source.take(np.setdiff1d(rows, drawn)), source.take(np.sort(drawn), f"{source.name} (held out)")


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.setflags(write=False)
    return view


def _ends(images: Events) -> tuple[int, int]:
    return int(images.min()), int(images.max())
