"""The architecture of a network as plain values: hashable, printable, and known to the command line.

Each configuration is of one architecture, which its `module` imports. It knows neither the data's shape nor its
classes: `build` is given those. Nothing here imports flax before it is needed, so that a configuration can be read,
checked and shown in a moment.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

ComputeDtype = Literal["float32", "bfloat16"]


class NetworkConfig:
    """The base of every configuration of a network; a subclass is a frozen, hashable dataclass with defaults."""

    dropout: float = 0.0
    """Probability of dropping an activation in training; above 0 the network is called with keys."""
    architecture: ClassVar[str] = ""
    """The dotted name of the class of `module`, which a subclass gives unless it defines `module` itself."""
    takes_any_shape: ClassVar[bool] = False
    """Whether events may have any number of axes, points among them, and not (height, width, channels) alone."""
    indifferent: ClassVar[frozenset[str]] = frozenset(("dropout", "compute_dtype", "remat"))
    """Fields that change how the parameters are trained or the network is computed, and not which function they make:
    networks that differ in nothing else can have each other's parameters."""
    takes_augmentation: ClassVar[bool] = False
    """Whether the module takes `augment_dim`, and is called with the numbers that say how an image was augmented."""

    def resized(self, before: tuple[int, ...], after: tuple[int, ...]) -> NetworkConfig:
        """The architecture of this one, for events of shape `before`, in which its parameters fit shape `after` best.

        What is said in pixels follows the size; equal shapes give the same architecture, spelt in one way.
        """
        return self

    def settled(self, event_shape: tuple[int, ...]) -> NetworkConfig:
        """The same architecture with numbers that fit events of this shape in the place of every "auto"."""
        return self

    def module(self) -> Callable[..., Any]:
        """The architecture: module(config, event_shape, num_classes, outputs, rngs=rngs) is a `flax.nnx.Module`.

        The module is called as module(x, c_noise, labels, keys) and answers in x's shape, with `outputs` times the
        channels. It is imported when it is asked for. One that `takes_augmentation` is made with augment_dim=n as well,
        where there are such numbers, and called with them, (b, n), at the end.
        """
        if not self.architecture:
            raise NotImplementedError(f"{type(self).__name__} does not say its module; define it.")
        home, _, name = self.architecture.rpartition(".")
        return getattr(importlib.import_module(home), name)


@dataclass(frozen=True, kw_only=True)
class MLPConfig(NetworkConfig):
    """A residual multilayer perceptron on the flattened event: the network for points in the plane."""

    architecture = "diffusion.networks.mlp.MLP"
    takes_any_shape = True
    takes_augmentation = True

    hidden: int = 128
    """Width of the hidden layers."""
    layers: int = 4
    """Number of hidden blocks."""
    embedding: int = 64
    """Number of sinusoidal features of the noise level (even)."""
    activation: Literal["silu", "gelu", "tanh", "softplus"] = "silu"
    """Nonlinearity; all are smooth, so that a score has the derivatives its identities need."""
    conditioning: Literal["film", "additive"] = "film"
    """Way in which the noise level enters a block: as a scale and a shift, or as a shift alone."""
    residual: bool = True
    """Whether a block adds to its input or replaces it."""
    zero_output: bool = True
    """Whether the untrained network is exactly zero."""
    dropout: float = 0.0
    """Probability of dropping a hidden unit in training."""
    compute_dtype: ComputeDtype = "float32"
    """Type of the activations; float32 means the type of the parameters."""

    def __post_init__(self) -> None:
        _positive(hidden=self.hidden, layers=self.layers, embedding=self.embedding)
        _multiple(2, embedding=self.embedding)
        _choice(("silu", "gelu", "tanh", "softplus"), activation=self.activation)
        _choice(("film", "additive"), conditioning=self.conditioning)
        _common(self.dropout, self.compute_dtype)


@dataclass(frozen=True, kw_only=True)
class UNetConfig(NetworkConfig):
    """The U-Net of DDPM++ and ADM: residual blocks with FiLM, attention, and skips between equal sizes."""

    architecture = "diffusion.networks.unet.UNet"
    takes_augmentation = True

    channels: int = 64
    """Number of channels at full resolution, and of sinusoidal features of the noise level (even)."""
    multipliers: tuple[int, ...] | Literal["auto"] = (1, 2, 2)
    """Number of channels at each level, as a multiple of `channels`; each level halves the size. auto has levels down
    to 8 pixels or fewer, two at least: 1 for the first and for those above 32 pixels, and 2 for the others."""
    blocks: int = 2
    """Residual blocks at each level (one more on the way up)."""
    attention_resolutions: tuple[int, ...] | Literal["auto"] = ()
    """Levels with self-attention, given by their longer side in pixels (16 means the 16×16 level). auto has those of 16
    pixels or fewer but the first."""
    head_channels: int = 64
    """Number of channels of an attention head."""
    dropout: float = 0.0
    """Probability of dropping an activation in a residual block in training."""
    resampling: Literal["pool", "conv"] = "pool"
    """Means of halving and doubling the size: average pool and nearest neighbour, or convolutions as in DDPM."""
    skip_rescale: bool = True
    """Whether a residual sum is divided by √2, as in DDPM++, to keep its variance."""
    remat: bool = False
    """Whether what a block computes is computed again for the gradient and not kept: less memory, more time."""
    compute_dtype: ComputeDtype = "float32"
    """Type of the activations; float32 means the type of the parameters."""

    def __post_init__(self) -> None:
        _positive(channels=self.channels, blocks=self.blocks, head_channels=self.head_channels)
        _multiple(2, channels=self.channels)
        for name, value in (("multipliers", self.multipliers), ("attention_resolutions", self.attention_resolutions)):
            if isinstance(value, str):
                _choice(("auto",), **{name: value})
            else:
                _positives(**{name: value})
        if not self.multipliers:
            raise ValueError("multipliers is empty; give one positive integer for each level, such as (1, 2, 2).")
        _choice(("pool", "conv"), resampling=self.resampling)
        _common(self.dropout, self.compute_dtype)

    def settled(self, event_shape: tuple[int, ...]) -> UNetConfig:
        """The levels, and those with attention, that fit images of this shape, as the fields say."""
        if len(event_shape) != 3 or "auto" not in (self.multipliers, self.attention_resolutions):
            return self
        multipliers = self.multipliers
        if isinstance(multipliers, str):
            longer, shorter = max(event_shape[:2]), min(event_shape[:2])
            multipliers = (1,)
            while shorter > 1 and (longer > 8 or len(multipliers) < 2):
                longer, shorter = -(-longer // 2), -(-shorter // 2)
                multipliers = (*multipliers, 1 if longer > 32 else 2)
        attended = self.attention_resolutions
        if isinstance(attended, str):
            attended = tuple(side for side in _sides(event_shape, len(multipliers))[1:] if side <= 16)
        return replace(self, multipliers=multipliers, attention_resolutions=attended)

    def resized(self, before: tuple[int, ...], after: tuple[int, ...]) -> UNetConfig:
        """Attention stays at its levels, whose sides are other ones."""
        if len(before) != 3 or len(after) != 3:
            return self
        own = self.settled(before)
        old, new = (_sides(shape, len(own.multipliers)) for shape in (before, after))
        attended = tuple(side for side, was in zip(new, old, strict=True) if was in tuple(own.attention_resolutions))
        return replace(own, attention_resolutions=attended)


@dataclass(frozen=True, kw_only=True)
class DiTConfig(NetworkConfig):
    """The diffusion transformer: patches as tokens, adaLN-zero blocks.

    The defaults are the network of Peebles & Xie 2023; `JiTConfig` has others.
    """

    architecture = "diffusion.networks.dit.DiT"
    takes_augmentation = True

    patch: int = 2
    """Side of a patch in pixels."""
    width: int = 256
    """Number of channels of a token (a multiple of 4 and of `heads`)."""
    depth: int = 8
    """Number of transformer blocks."""
    heads: int = 4
    """Number of attention heads."""
    mlp_ratio: float = 4.0
    """Hidden width of a block's perceptron, as a multiple of `width`; `swiglu` has two thirds of it."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """Perceptron of a block: two matrices with GELU between, or three (SwiGLU), with as many parameters in all."""
    norm: Literal["layer", "rms"] = "layer"
    """Normalisation before each branch: by mean and variance, or by the root mean square with a learned scale."""
    qk_norm: bool = False
    """Whether queries and keys are normalised in each head, which bounds the logits of attention."""
    positions: Literal["fixed", "rotary", "both"] = "fixed"
    """How a patch knows its place: sinusoids added to it, queries and keys turned by row and column, or both."""
    bottleneck: int = 0
    """Number of channels through which a patch passes on its way to `width`; 0 for one linear map."""
    class_tokens: int = 0
    """Number of tokens that carry the class into attention, beside the modulation of the blocks."""
    class_tokens_from: int = 0
    """Number of blocks before the class tokens join (JiT: a third of them)."""
    registers: int = 0
    """Number of learned tokens that stand for no patch, in which attention can keep what concerns the whole image."""
    remat: bool = False
    """Whether what a block computes is computed again for the gradient and not kept: less memory, more time."""
    dropout: float = 0.0
    """Probability of dropping an activation at the end of each branch in training."""
    compute_dtype: ComputeDtype = "float32"
    """Type of the activations; float32 means the type of the parameters."""
    position_grid: int = 0
    """Patches that the longer side counts as: positions are spread over so many, such as those of the smaller images
    that the parameters were trained on; 0 counts them as they are."""

    def __post_init__(self) -> None:
        _positive(patch=self.patch, width=self.width, depth=self.depth, heads=self.heads)
        _positive(mlp_ratio=self.mlp_ratio)
        _multiple(4, width=self.width)
        _multiple(self.heads, width=self.width)
        _choice(("gelu", "swiglu"), mlp=self.mlp)
        _choice(("layer", "rms"), norm=self.norm)
        _choice(("fixed", "rotary", "both"), positions=self.positions)
        _counts(
            bottleneck=self.bottleneck,
            class_tokens=self.class_tokens,
            class_tokens_from=self.class_tokens_from,
            registers=self.registers,
        )
        if self.positions != "fixed" and self.width % (4 * self.heads):
            raise ValueError(
                f"width is {self.width} with {self.heads} heads; rotary positions turn heads of a multiple of 4 "
                f"channels, so give a multiple of {4 * self.heads}."
            )
        if self.class_tokens_from >= self.depth:
            raise ValueError(
                f"class_tokens_from is {self.class_tokens_from}, and there are {self.depth} blocks; give a smaller one."
            )
        if self.hidden < 1:
            raise ValueError(f"mlp_ratio is {self.mlp_ratio}; give one that leaves the perceptron a hidden unit.")
        _common(self.dropout, self.compute_dtype)
        if self.position_grid < 0:
            raise ValueError(
                f"position_grid is {self.position_grid}; give a number of patches, or 0 for those there are."
            )

    def resized(self, before: tuple[int, ...], after: tuple[int, ...]) -> DiTConfig:
        """Positions are spread over the patches that the parameters know."""
        if len(before) != 3 or len(after) != 3:
            return self
        known, there = self.position_grid or self._patches(before), self._patches(after)
        return replace(self, position_grid=0 if there == known else known)

    def _patches(self, shape: tuple[int, ...]) -> int:
        return -(-max(shape[:2]) // self.patch)

    @property
    def hidden(self) -> int:
        """Hidden width of a block's perceptron: mlp_ratio · width, rounded, and two thirds of that for "swiglu".

        With three matrices instead of two, ⌊2/3⌋ keeps the number of parameters (Shazeer 2020, arXiv:2002.05202).
        """
        hidden = round(self.mlp_ratio * self.width)
        return hidden if self.mlp == "gelu" else 2 * hidden // 3


@dataclass(frozen=True, kw_only=True)
class JiTConfig(DiTConfig):
    """The pixel transformer of Li & He 2025 (JiT, arXiv:2511.13720), in its size B for patches of 16 pixels."""

    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp: Literal["gelu", "swiglu"] = "swiglu"
    norm: Literal["layer", "rms"] = "rms"
    qk_norm: bool = True
    positions: Literal["fixed", "rotary", "both"] = "both"
    bottleneck: int = 128
    class_tokens: int = 32
    class_tokens_from: int = 4


def _sides(event_shape: tuple[int, ...], levels: int) -> list[int]:
    """The longer side of each level of a U-Net: half of the last, rounded up."""
    sides = [max(event_shape[:2])]
    for _ in range(levels - 1):
        sides.append(-(-sides[-1] // 2))
    return sides


def _positive(**fields: int | float) -> None:
    for name, value in fields.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; give a positive number.")


def _positives(**fields: tuple[int, ...]) -> None:
    for name, values in fields.items():
        if not (isinstance(values, tuple) and all(isinstance(value, int) and value > 0 for value in values)):
            raise ValueError(f"{name} is {values!r}; give a tuple of positive integers.")


def _counts(**fields: int) -> None:
    for name, value in fields.items():
        if not value >= 0:
            raise ValueError(f"{name} is {value}; give 0 for none, or a positive number.")


def _multiple(factor: int, **fields: int) -> None:
    for name, value in fields.items():
        if value % factor:
            raise ValueError(f"{name} is {value}; give a multiple of {factor}.")


def _choice(choices: tuple[str, ...], **fields: str) -> None:
    for name, value in fields.items():
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices)}.")


def _common(dropout: float, compute_dtype: str) -> None:
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; give a probability from 0 up to, but not including, 1.")
    _choice(("float32", "bfloat16"), compute_dtype=compute_dtype)
