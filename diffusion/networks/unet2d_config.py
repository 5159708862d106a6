"""The architecture of diffusers' `UNet2DModel` as plain values, under the names of its `config.json`.

What that file says of the data is not here: its `sample_size` and `in_channels` are the shape of an image, and
`out_channels` is `outputs` times `in_channels`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, get_args

from diffusion.networks.configs import ComputeDtype, NetworkConfig, _choice, _common, _positive, _positives

DownBlockType = Literal[
    "DownBlock2D",
    "AttnDownBlock2D",
    "ResnetDownsampleBlock2D",
    "SkipDownBlock2D",
    "AttnSkipDownBlock2D",
]
UpBlockType = Literal[
    "UpBlock2D",
    "AttnUpBlock2D",
    "ResnetUpsampleBlock2D",
    "SkipUpBlock2D",
    "AttnSkipUpBlock2D",
]
Activation = Literal["silu", "swish", "mish", "gelu", "relu"]


@dataclass(frozen=True, kw_only=True)
class UNet2DConfig(NetworkConfig):
    """The U-Net of DDPM, of NCSN++ and of what others have trained with diffusers, block by block.

    Raises ValueError for a value or a block that it does not know, and for blocks that cannot stand together.

    Source: Ho et al. 2020, appendix B (Down, Up and their attention forms); Dhariwal & Nichol 2021, section 3
    (ResnetDownsample, ResnetUpsample, "scale_shift"); Song et al. 2021, appendix H (SkipDown, SkipUp, "fourier").
    """

    architecture = "diffusion.networks.unet2d.UNet2D"

    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    """Number of channels at each level; each level but the last halves the size."""
    down_block_types: tuple[DownBlockType, ...] = (
        "DownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
    )
    """The block of each level on the way down."""
    mid_block_type: Literal["UNetMidBlock2D"] | None = "UNetMidBlock2D"
    """The block between the ways down and up, or none."""
    up_block_types: tuple[UpBlockType, ...] = (
        "AttnUpBlock2D",
        "AttnUpBlock2D",
        "AttnUpBlock2D",
        "UpBlock2D",
    )
    """The block of each level on the way up, the smallest size first."""
    layers_per_block: int = 2
    """Residual blocks at each level (one more on the way up)."""
    mid_block_scale_factor: float = 1.0
    """The number by which sums of the block in the middle are divided."""
    downsample_padding: int = 1
    """Pixels of zeros around an image before a convolution that halves it: 1 on every side, or for 0 one pixel at its
    right and lower side."""
    downsample_type: Literal["conv", "resnet"] = "conv"
    """Means of halving the size in AttnDown blocks."""
    upsample_type: Literal["conv", "resnet"] = "conv"
    """Means of doubling the size in AttnUp blocks."""
    dropout: float = 0.0
    """Probability of dropping an activation in a residual block in training."""
    act_fn: Activation = "silu"
    """Nonlinearity of residual blocks; that of the embeddings and of the output is always silu."""
    attention_head_dim: int | None = 8
    """Number of channels of an attention head; None for one head of all channels."""
    norm_num_groups: int = 32
    """Groups of a normalisation; Skip blocks have a quarter of their channels, 32 at most."""
    attn_norm_num_groups: int | None = None
    """Groups of the normalisation before attention in the middle; None for norm_num_groups, and with "scale_shift" for
    no normalisation there."""
    norm_eps: float = 1e-5
    """What a normalisation adds to the variance."""
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    """Way in which the embedding enters a residual block: as a shift, or as a scale and a shift after the norm."""
    add_attention: bool = True
    """Whether the block in the middle has attention."""
    time_embedding_type: Literal["positional", "fourier", "learned"] = "positional"
    """What the network knows of the time: sinusoids, random Fourier features of its logarithm, or a table."""
    time_embedding_dim: int | None = None
    """Width of the embedding; None for four times the channels of the first level."""
    freq_shift: int = 0
    """s of the frequencies 10000^(−k/(n − s)), k < n."""
    flip_sin_to_cos: bool = True
    """Whether the cosines stand before the sines."""
    num_train_timesteps: int | None = None
    """Rows of a learned table of times."""
    class_embed_type: Literal["timestep", "identity"] | None = None
    """How a class is embedded: as a number like the time, or as a vector that is added as it is; None for a table, if
    num_class_embeds says so, or for no classes."""
    num_class_embeds: int | None = None
    """Rows of the table of classes: as many as there are, or one more, which then is that of "no label"."""
    center_input_sample: bool = False
    """Whether x is taken to be in [0, 1], and the network is given 2x − 1."""
    time_factor: float = 1.0
    """f of the time f·c_noise + o that the network is told."""
    time_offset: float = 0.0
    """o of the time f·c_noise + o that the network is told: −1 for a network that counts from 0 where a chain counts
    from 1."""
    time_is_log: bool = False
    """Whether that is the logarithm of the time of "fourier", and the answer is not divided by the time."""
    remat: bool = False
    """Whether what a residual block computes is computed again for the gradient and not kept."""
    compute_dtype: ComputeDtype = "float32"
    """Type of the activations; float32 means the type of the parameters."""

    def __post_init__(self) -> None:
        _positives(block_out_channels=self.block_out_channels)
        if not self.block_out_channels:
            raise ValueError("block_out_channels is empty; give one positive integer for each level, such as (64, 128)")
        _positive(
            layers_per_block=self.layers_per_block,
            mid_block_scale_factor=self.mid_block_scale_factor,
            norm_num_groups=self.norm_num_groups,
            norm_eps=self.norm_eps,
        )
        for name in (
            "attention_head_dim",
            "attn_norm_num_groups",
            "time_embedding_dim",
            "num_train_timesteps",
            "num_class_embeds",
        ):
            if (value := getattr(self, name)) is not None:
                _positive(**{name: value})
        _choice(("conv", "resnet"), downsample_type=self.downsample_type, upsample_type=self.upsample_type)
        _choice(get_args(Activation), act_fn=self.act_fn)
        _choice(("default", "scale_shift"), resnet_time_scale_shift=self.resnet_time_scale_shift)
        _choice(("positional", "fourier", "learned"), time_embedding_type=self.time_embedding_type)
        if self.class_embed_type is not None:
            _choice(("timestep", "identity"), class_embed_type=self.class_embed_type)
        if self.mid_block_type is not None:
            _choice(("UNetMidBlock2D",), mid_block_type=self.mid_block_type)
        if self.downsample_padding not in (0, 1):
            raise ValueError(
                f"downsample_padding is {self.downsample_padding}; give 0 or 1, with which a convolution halves a size."
            )
        if self.time_embedding_type == "learned" and self.num_train_timesteps is None:
            raise ValueError("num_train_timesteps is None; give the number of times that a learned embedding knows.")
        if self.time_embedding_type == "positional" and self.freq_shift == self.block_out_channels[0] // 2:
            raise ValueError(f"freq_shift is {self.freq_shift}, the number of frequencies; give 0 or 1.")
        if self.time_is_log and self.time_embedding_type != "fourier":
            raise ValueError(
                f"time_is_log goes with time_embedding_type fourier, and it is {self.time_embedding_type}."
            )
        self._check_blocks()
        _common(self.dropout, self.compute_dtype)

    def _check_blocks(self) -> None:
        levels = len(self.block_out_channels)
        for name, known in (("down_block_types", get_args(DownBlockType)), ("up_block_types", get_args(UpBlockType))):
            types = getattr(self, name)
            if len(types) != levels:
                raise ValueError(f"{name} has {len(types)} blocks, and block_out_channels {levels}; give as many.")
            for block in types:
                _choice(known, **{name: block})
        # The image itself is halved and doubled beside the features by Skip blocks alone.
        down, up = self.down_block_types[: levels - 1], self.up_block_types
        if any("Skip" not in a and "Skip" in b for a, b in itertools.pairwise(down)):
            raise ValueError(
                f"down_block_types is {down}; a Skip block that halves the size needs Skip blocks before it."
            )
        first = next((i for i, block in enumerate(up[:-1]) if "Skip" in block), levels)
        if any("Skip" not in block for block in up[first:]):
            raise ValueError(f"up_block_types is {up}; a Skip block that doubles the size needs Skip blocks after it.")
