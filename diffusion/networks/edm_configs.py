"""The architectures of the networks that EDM's authors published, as plain values: `SongUNet` and `DhariwalUNet`.

Both may be trained here like any other, and hold the parameters of theirs array by array, under their names.

Source: Song et al. 2021, arXiv:2011.13456, appendix H (DDPM++ and NCSN++); Dhariwal & Nichol 2021, arXiv:2105.05233,
section 3 (ADM); in the forms of Karras et al. 2022, arXiv:2206.00364, appendix F.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffusion.networks.configs import ComputeDtype, NetworkConfig, _choice, _common, _multiple, _positive, _positives


@dataclass(frozen=True, kw_only=True)
class SongUNetConfig(NetworkConfig):
    """The U-Net of score-based modelling by SDEs: DDPM++ as by default.

    NCSN++ has fourier embeddings of twice as many features, an encoder that sees the image again at each level
    (residual), and filters (1, 3, 3, 1).
    """

    architecture = "diffusion.networks.song_unet.SongUNet"
    takes_augmentation = True

    channels: int = 128
    """Number of channels that the multipliers multiply."""
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Number of channels at each level, as a multiple of `channels`; each level halves the size."""
    blocks: int = 4
    """Residual blocks at each level (one more on the way up)."""
    attention_resolutions: tuple[int, ...] = (16,)
    """Levels with self-attention, given by their longer side in pixels."""
    embedding: Literal["positional", "fourier"] = "positional"
    """Sinusoids of the noise level: of fixed frequencies, or of random ones that are not trained."""
    noise_multiplier: int = 1
    """Number of these sinusoids, as a multiple of `channels`."""
    embedding_multiplier: int = 4
    """Width of the vector that modulates the blocks, as a multiple of `channels`."""
    encoder: Literal["standard", "skip", "residual"] = "standard"
    """Whether the image itself is halved beside the features, and added at each level (skip), or its features are."""
    decoder: Literal["standard", "skip"] = "standard"
    """Whether the answer is that of the last level, or the sum of one at each, doubled on the way."""
    resample_filter: tuple[int, ...] = (1, 1)
    """Taps, up to a factor, of the filter by which sizes are halved and doubled; an even number of them."""
    augment_numbers: int = 0
    """How many numbers the network was told of an image's augmentation; with --augment as many as that tells."""
    dropout: float = 0.10
    """Probability of dropping an activation in a residual block in training."""
    remat: bool = False
    """Whether what a block computes is computed again for the gradient and not kept: less memory, more time."""
    compute_dtype: ComputeDtype = "float32"
    """Type of the activations; float32 means the type of the parameters."""

    def __post_init__(self) -> None:
        _levels(self)
        _positive(noise_multiplier=self.noise_multiplier, embedding_multiplier=self.embedding_multiplier)
        _multiple(2, channels=self.channels)
        _choice(("positional", "fourier"), embedding=self.embedding)
        _choice(("standard", "skip", "residual"), encoder=self.encoder)
        _choice(("standard", "skip"), decoder=self.decoder)
        _positives(resample_filter=self.resample_filter)
        if len(self.resample_filter) % 2 or not self.resample_filter:
            raise ValueError(f"resample_filter is {self.resample_filter}; give an even number of taps, such as (1, 1).")


@dataclass(frozen=True, kw_only=True)
class DhariwalUNetConfig(NetworkConfig):
    """The U-Net of classifier guidance, ADM: as by default that of ImageNet at 64×64 pixels."""

    architecture = "diffusion.networks.dhariwal_unet.DhariwalUNet"
    takes_augmentation = True

    channels: int = 192
    """Number of channels that the multipliers multiply, and of sinusoids of the noise level (even)."""
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    """Number of channels at each level, as a multiple of `channels`; each level halves the size."""
    blocks: int = 3
    """Residual blocks at each level (one more on the way up)."""
    attention_resolutions: tuple[int, ...] = (32, 16, 8)
    """Levels with self-attention, given by their longer side in pixels."""
    head_channels: int = 64
    """Number of channels of an attention head."""
    embedding_multiplier: int = 4
    """Width of the vector that modulates the blocks, as a multiple of `channels`."""
    augment_numbers: int = 0
    """How many numbers the network was told of an image's augmentation; with --augment as many as that tells."""
    dropout: float = 0.10
    """Probability of dropping an activation in a residual block in training."""
    remat: bool = False
    """Whether what a block computes is computed again for the gradient and not kept: less memory, more time."""
    compute_dtype: ComputeDtype = "float32"
    """Type of the activations; float32 means the type of the parameters."""

    def __post_init__(self) -> None:
        _levels(self)
        _positive(head_channels=self.head_channels, embedding_multiplier=self.embedding_multiplier)
        _multiple(2, channels=self.channels)


EDMConfig = SongUNetConfig | DhariwalUNetConfig


def _levels(config: EDMConfig) -> None:
    """Raise ValueError for what neither architecture can have."""
    _positive(channels=config.channels, blocks=config.blocks)
    _positives(multipliers=config.multipliers)
    if config.attention_resolutions:
        _positives(attention_resolutions=config.attention_resolutions)
    if not config.multipliers:
        raise ValueError("multipliers is empty; give one positive integer for each level, such as (1, 2, 2).")
    if config.augment_numbers < 0:
        raise ValueError(f"augment_numbers is {config.augment_numbers}; give 0 for a network that is not told.")
    _common(config.dropout, config.compute_dtype)
