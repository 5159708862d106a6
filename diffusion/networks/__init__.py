"""Networks in flax.nnx: MLP, UNet, DiT. Configurations are imported at once, and what needs flax when it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from diffusion.networks.configs import DiTConfig, JiTConfig, MLPConfig, NetworkConfig, UNetConfig

if TYPE_CHECKING:
    from diffusion.networks.dit import DiT
    from diffusion.networks.functional import Network, Params, build
    from diffusion.networks.mlp import MLP
    from diffusion.networks.unet import UNet

__all__ = [
    "MLP",
    "DiT",
    "DiTConfig",
    "JiTConfig",
    "MLPConfig",
    "Network",
    "NetworkConfig",
    "Params",
    "UNet",
    "UNetConfig",
    "build",
]

_LAZY = {
    "build": "functional",
    "Network": "functional",
    "Params": "functional",
    "MLP": "mlp",
    "UNet": "unet",
    "DiT": "dit",
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
