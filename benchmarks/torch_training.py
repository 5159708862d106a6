"""The networks of `benchmarks/training_speed.py` in PyTorch, and a step that trains them, as its users write them."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel  # pyright: ignore[reportPrivateImportUsage]
from diffusers.models.downsampling import Downsample2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

CLASSES, SIGMA_DATA = 10, 0.6


class UNet(nn.Module):
    """diffusers' UNet2DModel with the channels, levels, heads and resampling of `mnist-edm-unet`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = UNet2DModel(
            sample_size=28,
            in_channels=1,
            out_channels=1,
            block_out_channels=(32, 64, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            attention_head_dim=32,
            norm_num_groups=8,
            resnet_time_scale_shift="scale_shift",
            num_class_embeds=CLASSES + 1,
        )
        for block in self.net.down_blocks:  # the preset's levels are pooled and repeated, without convolutions
            if block.downsamplers is not None:
                block.downsamplers = nn.ModuleList([Downsample2D(block.resnets[-1].out_channels, use_conv=False)])
        for block in self.net.up_blocks:
            if block.upsamplers is not None:
                block.upsamplers = nn.ModuleList([Upsample2D(block.resnets[-1].out_channels, use_conv=False)])

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor) -> Tensor:
        """F(x, c_noise, label)."""
        return self.net(x, c_noise, class_labels=labels, return_dict=False)[0]


class Attention(nn.Module):
    """Multi-head self-attention by PyTorch's own kernel."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """softmax(q kᵀ/√d) v in each head, then a linear map."""
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    """The adaLN-zero block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 6 * width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x + gate · attention(adaLN(x)), then x + gate · mlp(adaLN(x))."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(c))[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attention(self.norm(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm(x) * (1 + scale2) + shift2)


def sinusoids(t: Tensor, features: int) -> Tensor:
    """(cos ω_k t, sin ω_k t) for ω_k = 10000^(−2k/features)."""
    frequencies = 10_000.0 ** (-torch.arange(features // 2) / (features // 2))
    angles = t[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class DiT(nn.Module):
    """The transformer of `mnist-flow-dit`."""

    positions: Tensor

    def __init__(self, patch: int = 4, width: int = 128, depth: int = 6, heads: int = 4, side: int = 28) -> None:
        super().__init__()
        self.patch, self.rows = patch, side // patch
        self.emb = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.table = nn.Embedding(CLASSES + 1, width)
        self.first = nn.Linear(patch**2, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation, self.out = nn.Linear(width, 2 * width), nn.Linear(width, patch**2)
        axis = sinusoids(torch.arange(self.rows), width // 2)
        grid = torch.cat([axis[:, None].expand(-1, self.rows, -1), axis[None].expand(self.rows, -1, -1)], dim=-1)
        self.register_buffer("positions", grid.reshape(self.rows**2, width))
        for linear in (self.modulation, self.out, *(block.modulation for block in self.blocks)):  # pyright: ignore
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor) -> Tensor:
        """F(x, c_noise, label)."""
        b, _, h, w = x.shape
        c = self.emb(sinusoids(c_noise, 256)) + self.table(labels)
        patches = x.reshape(b, self.rows, self.patch, self.rows, self.patch).transpose(2, 3)
        h_ = self.first(patches.reshape(b, self.rows**2, -1)) + self.positions
        for block in self.blocks:
            h_ = block(h_, c)
        shift, scale = self.modulation(F.silu(c))[:, None].chunk(2, dim=-1)
        y = self.out(self.norm(h_) * (1 + scale) + shift)
        y = y.reshape(b, self.rows, self.rows, self.patch, self.patch).transpose(2, 3)
        return y.reshape(b, 1, h, w)


def edm_loss(net: nn.Module, x_0: Tensor, labels: Tensor) -> Tensor:
    """EDM's loss: σ = e^(−1.2 + 1.2 n), its preconditioning and its weighting."""
    sigma = torch.exp(-1.2 + 1.2 * torch.randn(len(x_0)))[:, None, None, None]
    total = sigma**2 + SIGMA_DATA**2
    x = x_0 + sigma * torch.randn_like(x_0)
    output = net(x / total.sqrt(), sigma.flatten().log() / 4, labels)
    denoised = SIGMA_DATA**2 / total * x + sigma * SIGMA_DATA / total.sqrt() * output
    return (total / (sigma * SIGMA_DATA) ** 2 * (denoised - x_0) ** 2).mean()


def flow_loss(net: nn.Module, x_0: Tensor, labels: Tensor) -> Tensor:
    """Flow matching along straight lines, at logit-normal times."""
    t = torch.sigmoid(torch.randn(len(x_0)))[:, None, None, None]
    noise = torch.randn_like(x_0)
    x = (1 - t) * x_0 + t * noise
    scale = ((1 - t) ** 2 * SIGMA_DATA**2 + t**2).rsqrt()
    return ((net(x * scale, torch.log(t / (1 - t)).flatten() / 2, labels) - (noise - x_0)) ** 2).mean()


def torch_calls(name: str, batch: dict[str, np.ndarray]) -> dict[str, Callable[[], Any]]:
    """A step and a forward pass of the network of a preset."""
    torch.manual_seed(0)
    net = (UNet if name == "mnist-edm-unet" else DiT)()
    loss_of = edm_loss if name == "mnist-edm-unet" else flow_loss
    parameters = list(net.parameters())
    average = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    images, labels = torch.from_numpy(batch["image"]), torch.from_numpy(batch["label"]).long()

    def train() -> float:
        x_0 = images.permute(0, 3, 1, 2).float() / 127.5 - 1
        dropped = torch.rand(len(labels)) < 0.1
        loss = loss_of(net, x_0, torch.where(dropped, CLASSES, labels))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1 - 0.998)
        return loss.item()

    x, c_noise = torch.randn(len(labels), 1, *images.shape[1:3]), torch.linspace(-1, 1, len(labels))

    def forward() -> Tensor:
        with torch.inference_mode():
            return net(x, c_noise, labels)

    return {"train": train, "forward": forward, "count": lambda: sum(p.numel() for p in parameters)}
