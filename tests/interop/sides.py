"""A network in diffusers and the same one here, and what each answers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import torch

from experiments.importing.diffusers_names import to_params, unet2d_network, wanted

CLASSES = 5
TIMES = (1, 37, 500, 999)


class PreciseSinusoids(torch.nn.Module):
    """The sinusoids of a time in float64, which diffusers computes in float32 whatever the type of its network."""

    def __init__(self, channels, flip, shift):
        super().__init__()
        self.channels, self.flip, self.shift = channels, flip, shift

    def forward(self, times):
        half = self.channels // 2
        powers = torch.arange(half, dtype=torch.float64) / (half - self.shift)
        angles = times.double()[:, None] * torch.exp(-math.log(10_000) * powers)
        parts = [angles.cos(), angles.sin()] if self.flip else [angles.sin(), angles.cos()]
        return torch.nn.functional.pad(torch.cat(parts, -1), (0, self.channels % 2))


def make(diffusers, config, seed=0):
    """diffusers' network with random weights in float64."""
    torch.manual_seed(seed)
    model = diffusers.UNet2DModel(**config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if config.get("class_embed_type") == "timestep":  # without this it can only be called in float32
        sinusoids = model.time_proj.forward
        model.time_proj.forward = lambda times: sinusoids(times).double()
    return model


def imported(model, **options):
    """The same network here: it and its parameters in float64."""
    network = unet2d_network(dict(model.config), **options)
    arrays = {name: array.detach().numpy() for name, array in model.state_dict().items()}
    return network, to_params(wanted(network), arrays)


def precise_fir_downsample(x):
    """(1, 3, 3, 1)/8 along both axes and every second pixel, in the type of x: diffusers filters in float32."""
    return torch.nn.functional.conv2d(x, _fir(x), stride=2, padding=1, groups=x.shape[1])


def precise_fir_upsample(x):
    """The adjoint of that, times 4."""
    return torch.nn.functional.conv_transpose2d(x, 4 * _fir(x), stride=2, padding=1, groups=x.shape[1])


def _fir(x):
    taps = torch.tensor([1, 3, 3, 1], dtype=x.dtype) / 8
    return torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4)


def make_precise(model):
    """Replaces by float64 what diffusers computes in float32 whatever the type of its network."""
    if model.config.time_embedding_type == "positional":
        config = model.config
        model.time_proj = PreciseSinusoids(config.block_out_channels[0], config.flip_sin_to_cos, config.freq_shift)
    if model.config.time_embedding_type == "fourier":  # of whole numbers, such as classes, it takes the log in float32
        features = model.time_proj.forward
        model.time_proj.forward = lambda times: features(times.double())
    for block in (*model.down_blocks, *model.up_blocks):
        if getattr(block, "resnet_down", None) is not None:
            block.resnet_down.downsample = block.downsamplers[0].forward = precise_fir_downsample
        if getattr(block, "resnet_up", None) is not None:
            block.resnet_up.upsample = precise_fir_upsample
        if hasattr(block, "upsampler"):
            block.upsampler.forward = precise_fir_upsample


def theirs(model, x, times, labels):
    """What diffusers' network answers, images with their channels last."""
    kind = torch.int64 if model.config.time_embedding_type == "learned" else torch.float64
    told = {} if labels is None else {"class_labels": torch.tensor(labels)}
    with torch.no_grad():
        answer = model(torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(times, dtype=kind), **told).sample
    return answer.numpy().transpose(0, 2, 3, 1)


def ours(network, params, x, times, labels):
    """What the network here answers."""
    told = None if labels is None else jnp.asarray(labels)
    call = jax.jit(network, compiler_options={"xla_backend_optimization_level": 0})
    return np.asarray(call(params, jnp.asarray(x), jnp.asarray(times, float), told))


def difference(a, b):
    """The largest difference as a part of the largest number."""
    return np.abs(a - b).max() / np.abs(b).max()
