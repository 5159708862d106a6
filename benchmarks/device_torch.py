"""PyTorch's side of benchmarks/device.py: diffusers' UNet2DModel and DiTTransformer2DModel, trained eagerly."""

from __future__ import annotations

import time
from typing import Any

import diffusers  # type: ignore[import-not-found]
import torch  # type: ignore[import-not-found]

from diffusion.networks.configs import DiTConfig
from experiments.config.tree import Config

CHANNELS, CLASSES = 3, 10


def network_of(config: Config, side: int) -> torch.nn.Module:
    """diffusers' network of the shape of `config`'s."""
    ours: Any = config.network
    if isinstance(ours, DiTConfig):
        return diffusers.DiTTransformer2DModel(
            num_attention_heads=ours.heads,
            attention_head_dim=ours.width // ours.heads,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_layers=ours.depth,
            sample_size=side,
            patch_size=ours.patch,
            num_embeds_ada_norm=CLASSES,
            norm_num_groups=1,
        )
    attends = [side // 2**level in ours.attention_resolutions for level in range(len(ours.multipliers))]
    return diffusers.UNet2DModel(
        sample_size=side,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        layers_per_block=ours.blocks,
        block_out_channels=tuple(ours.channels * m for m in ours.multipliers),
        down_block_types=tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
        up_block_types=tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)),
        attention_head_dim=min(ours.head_channels, ours.channels),
        norm_num_groups=min(32, ours.channels),
        dropout=ours.dropout,
    )


def trained(config: Config, side: int, steps: int, warm: int) -> dict[str, Any]:
    """Images/s of a short training: denoising, clipping, AdamW and the averages of the parameters."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    network, size = network_of(config, side).to(device).train(), config.training.batch_size
    narrow = getattr(config.network, "compute_dtype", "float32") == "bfloat16" and device.type == "cuda"
    parameters = [p for p in network.parameters() if p.requires_grad]
    averages = [[p.detach().clone() for p in parameters] for _ in config.ema.decays]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    images = torch.randn(size, CHANNELS, side, side, device=device)
    labels = torch.randint(CLASSES, (size,), device=device)
    given = {"class_labels": labels} if isinstance(config.network, DiTConfig) else {}
    start = 0.0
    for step in range(steps):
        if step == warm:
            _wait(device)
            start = time.perf_counter()
        noise, t = torch.randn_like(images), torch.randint(1000, (size,), device=device)
        level = (t / 1000).reshape(-1, 1, 1, 1)
        with torch.autocast(device.type, torch.bfloat16, enabled=narrow):
            answer = network((1 - level) * images + level * noise, t, **given).sample
        loss = torch.mean((answer.float() - noise) ** 2)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            for average, decay in zip(averages, config.ema.decays, strict=True):
                torch._foreach_lerp_(average, parameters, 1 - decay)
    _wait(device)
    rate = (steps - warm) * size / (time.perf_counter() - start)
    used = {"memory GB": torch.cuda.max_memory_allocated() / 1e9} if device.type == "cuda" else {}
    count = sum(p.numel() for p in parameters)
    return {"what": f"{type(network).__name__}, {count:,} parameters, batch {size}", "images/s": rate, **used}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
