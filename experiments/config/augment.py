"""How images are changed at random while training, as the command line and `config.json` say it."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.errors import Refusals


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random transformations of the training images of which the network is told, and random crops of which it is not.

    Told of them, it makes none itself: samples are drawn, and everything is measured, with the numbers of no
    transformation at all (Karras et al. 2022, arXiv:2206.00364, appendix F.2). Crops do leak into the samples.
    """

    probability: float = 0.0
    """Probability of each of the transformations, such as 0.12 for small pictures and 0.15 for faces; 0 turns them
    off."""
    flip_x: bool = True
    """Mirror left to right, with probability one half whatever the other is, unless that is 0."""
    flip_y: bool = True
    """Mirror top to bottom, with half of the probability."""
    scale: bool = True
    """Enlarge or shrink by 2^(0.2 a), a ~ N(0, 1)."""
    rotate: bool = True
    """Rotate by any angle."""
    stretch: bool = True
    """Enlarge along one axis and shrink along the other by 2^(0.2 a), a ~ N(0, 1); one time in two the axes are
    rotated."""
    translate: bool = True
    """Move each way by a/8 of the picture's side, a ~ N(0, 1)."""
    pad: int = 0
    """Pixels by which a picture is padded, by its mirror image, before it is cropped at random to its own size; the
    network is not told, so samples are moved by up to as many. 0 is off."""

    def refusals(self) -> Refusals:
        """Values with which nothing can be augmented."""
        return [
            (
                not 0 <= self.probability <= 1,
                f"--augment.probability is {self.probability}; give a probability, such as 0.12, or 0 (off).",
            ),
            (self.pad < 0, f"--augment.pad is {self.pad}; give a number of pixels, or 0 (off)."),
            (
                self.probability > 0 and self.numbers == 0,
                f"--augment.probability is {self.probability:g}, and every transformation is turned off; give 0, or "
                "leave one on.",
            ),
        ]

    @property
    def numbers(self) -> int:
        """How many numbers tell the network what was done to an image; 0 where nothing is."""
        if self.probability <= 0:
            return 0
        return self.flip_x + self.flip_y + self.scale + 2 * (self.rotate + self.stretch + self.translate)

    @property
    def on(self) -> bool:
        """Whether anything is done to the images."""
        return self.numbers > 0 or self.pad > 0
