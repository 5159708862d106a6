"""Where the images come from and what is done to them, as the command line and `config.json` say it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from experiments.errors import Refusals

MOST_CHANNELS = 64
"""Channels that an image may have."""
MOST_PIXELS = 2**16
"""Pixels that a side of an image may have; a JPEG file holds one less."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data set, and how its images are prepared."""

    source: str = "digits"
    """The data set as a URI, such as digits or folder:DIR."""
    size: int | str | None = None
    """Height and width in pixels to which every image is resized, as 64 or, height first, as 48x64; without it all
    images must have one shape."""
    crop: Literal["center", "none", "pad"] = "center"
    """Treatment of an image of other proportions than the size: its middle is taken, all of it is squeezed, or all of
    it is fitted in and the pixels at its edges fill the rest."""
    channels: int | None = None
    """1 for grey, 3 for RGB; by default grey if every image is grey. Arrays of another number, up to 64, are taken as
    they are, and other numbers say that this is meant."""
    bits: Literal[8, 16] = 8
    """Bits of each number: 16 keeps those of pictures and arrays that have them, and widens others."""
    flip: bool = False
    """Mirror each image left to right with probability one half while training."""
    held_out: float = 0.1
    """Fraction of the images held out from training, unless the data set has a test split of its own."""
    label_column: str | None = None
    """Column of a Hugging Face data set that holds the classes, as numbers or as texts. [one of classes, or `label`]"""
    seed: int = 0
    """Seed that chooses the images held out; the order of training follows the run's own seed."""
    memory_gib: float = 4.0
    """Largest data set that is decoded into memory, in GiB of pixels; a larger one is decoded while it is used."""
    loading: Literal["auto", "memory", "lazy"] = "auto"
    """Images are decoded into memory once, or (lazy) each time that they are used; auto is by --data.memory-gib."""
    on_bad: Literal["refuse", "skip"] = "refuse"
    """What becomes of pictures that cannot be read: the data are refused, or such pictures left out."""
    rules: Literal[1, 2] = 2
    """How pictures are read, numbered and held out: 1 is the way of runs that were made before it was recorded, and a
    run that goes on keeps to its own."""

    unrecorded: ClassVar[Mapping[str, Any]] = {"rules": 1, "loading": "memory"}
    """What a field means that is absent from the file of a run, which was made before there was such a field."""

    def __post_init__(self) -> None:
        """A size of equal sides is a number; one of two has the form 48x64."""
        size: Any = self.size
        if isinstance(size, tuple | list) and len(size) == 2:
            size = f"{size[0]}x{size[1]}"
        if isinstance(size, str):
            sides = re.fullmatch(r"0*(\d{1,9})(?:[xX×]0*(\d{1,9}))?", size.strip())
            if sides is not None:
                height, width = sides[1], sides[2] or sides[1]
                size = int(height) if height == width else f"{height}x{width}"
        object.__setattr__(self, "size", size)

    @property
    def shape(self) -> tuple[int, int] | None:
        """Height and width to which every image is brought, or None for those that it has."""
        if self.size is None:
            return None
        if isinstance(self.size, int):
            return self.size, self.size
        height, _, width = self.size.partition("x")
        return int(height), int(width)

    def _is_size(self) -> bool:
        try:
            return self.shape is None or min(self.shape) >= 1
        except (ValueError, AttributeError):
            return False

    def refusals(self) -> Refusals:
        """Values with which no data set can be read."""
        return [
            (not self.source, "--data.source is empty; give for example digits or folder:DIR."),
            (
                not self._is_size(),
                f"--data.size is {self.size}; give a number of pixels above 0, or height and width as 48x64.",
            ),
            (
                max((self._is_size() and self.shape) or (0,)) > MOST_PIXELS,
                f"--data.size is {self.size}; give at most {MOST_PIXELS} pixels a side.",
            ),
            (
                self.crop not in ("center", "none", "pad"),
                f"--data.crop is {self.crop!r}; give center, none or pad.",
            ),
            (
                self.channels is not None and not 1 <= self.channels <= MOST_CHANNELS,
                f"--data.channels is {self.channels}; give 1 (grey), 3 (RGB) or, of arrays, 2 to {MOST_CHANNELS}.",
            ),
            (self.bits not in (8, 16), f"--data.bits is {self.bits}; give 8 or 16."),
            (
                not 0 <= self.held_out < 1,
                f"--data.held-out is {self.held_out}; give a fraction from 0 up to, not including, 1.",
            ),
            (self.seed < 0, f"--data.seed is {self.seed}; give 0 or more."),
            (self.rules not in (1, 2), f"--data.rules is {self.rules}; give 2, or 1 to read as older runs did."),
            (
                self.loading not in ("auto", "memory", "lazy"),
                f"--data.loading is {self.loading!r}; give auto, memory or lazy.",
            ),
            (self.on_bad not in ("refuse", "skip"), f"--data.on-bad is {self.on_bad!r}; give refuse or skip."),
            (not self.memory_gib > 0, f"--data.memory-gib is {self.memory_gib}; give a number above 0."),
        ]
