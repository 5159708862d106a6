"""DDPM++ with EDM on CIFAR-10 at the published size (56 M parameters; Karras et al. 2022): for users with GPUs.

    scorefield train --preset cifar10-ddpmpp-edm --data zip:cifar10-32x32.zip

Not run by us: it needs days of several GPUs for the published 200 M images. The paper reports FID 1.97
(unconditional, 35 network calls) for this network, loss and sampler; we report nothing that we have not measured.
"""

from diffusion.networks.configs import UNetConfig
from diffusion.prediction import Preconditioning
from diffusion.schedules import EDM
from diffusion.score_matching.times import LogNormalSigma
from diffusion.score_matching.weightings import EDMWeighting
from experiments.config.nodes import EMAConfig, OptimizerConfig, SamplingConfig, TrainingConfig
from experiments.config.tree import Config
from experiments.data.config import DataConfig

CONFIG = Config(
    data=DataConfig(source="zip:cifar10-32x32.zip", flip=True, held_out=0.02),
    schedule=EDM(),
    network=UNetConfig(
        channels=128,
        multipliers=(2, 2, 2),
        blocks=4,
        attention_resolutions=(16,),
        head_channels=256,
        dropout=0.13,
        compute_dtype="bfloat16",
    ),
    preconditioning=Preconditioning("edm", sigma_data=0.5),
    weighting=EDMWeighting(sigma_data=0.5),
    times=LogNormalSigma(mean=-1.2, std=1.2),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=20_000, b2=0.999),
    ema=EMAConfig(decays=(0.9999, 0.999)),
    training=TrainingConfig(
        steps=400_000, batch_size=512, log_every=100, validate_every=5000, checkpoint_every=5000, sample_every=10_000
    ),
    sampling=SamplingConfig(sampler="heun", steps=18),
)
