"""Networks in flax.nnx: MLP, UNet, DiT, those of EDM and of diffusers. Only configurations are imported at once."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from diffusion.networks.configs import DiTConfig, JiTConfig, MLPConfig, NetworkConfig, UNetConfig
from diffusion.networks.edm_configs import DhariwalUNetConfig, SongUNetConfig
from diffusion.networks.unet2d_config import UNet2DConfig

if TYPE_CHECKING:
    from diffusion.networks.dhariwal_unet import DhariwalUNet
    from diffusion.networks.dit import DiT
    from diffusion.networks.functional import Network, Params, build
    from diffusion.networks.mlp import MLP
    from diffusion.networks.song_unet import SongUNet
    from diffusion.networks.unet import UNet
    from diffusion.networks.unet2d import UNet2D

__all__ = [
    "MLP",
    "DhariwalUNet",
    "DhariwalUNetConfig",
    "DiT",
    "DiTConfig",
    "JiTConfig",
    "MLPConfig",
    "Network",
    "NetworkConfig",
    "Params",
    "SongUNet",
    "SongUNetConfig",
    "UNet",
    "UNet2D",
    "UNet2DConfig",
    "UNetConfig",
    "build",
]

_LAZY = {
    "build": "functional",
    "Network": "functional",
    "Params": "functional",
    "MLP": "mlp",
    "UNet": "unet",
    "UNet2D": "unet2d",
    "DiT": "dit",
    "SongUNet": "song_unet",
    "DhariwalUNet": "dhariwal_unet",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name != "flax":
            raise
        raise ImportError(f"{name} needs flax; install scorefield[train].") from error


def __dir__() -> list[str]:
    return __all__
