"""EDM on MNIST: Karras et al.'s preconditioning, noise levels and weighting, sampled by Heun's method in 35 calls.

    scorefield train --preset mnist-edm-unet --data idx:DIR

DIR holds MNIST's four IDX files. Written for one accelerator; only its first steps have been run by us, so no
training time and no result are claimed here.
"""

from diffusion.networks.configs import UNetConfig
from diffusion.prediction import Preconditioning
from diffusion.schedules import EDM
from diffusion.time_distributions import LogNormalSigma
from diffusion.weightings import EDMWeighting
from experiments.config import Config, DataConfig, EMAConfig, OptimizerConfig, SamplingConfig, TrainingConfig

CONFIG = Config(
    data=DataConfig(source="idx:mnist"),
    schedule=EDM(),
    network=UNetConfig(channels=32, multipliers=(1, 2, 2), blocks=1, attention_resolutions=(7,), head_channels=32),
    preconditioning=Preconditioning("edm", sigma_data=0.6),
    weighting=EDMWeighting(sigma_data=0.6),
    times=LogNormalSigma(mean=-1.2, std=1.2),
    conditional=True,
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=100, decay="cosine"),
    ema=EMAConfig(decays=(0.998,)),
    training=TrainingConfig(
        steps=1500, batch_size=64, log_every=50, validate_every=500, checkpoint_every=500, sample_every=500
    ),
    sampling=SamplingConfig(sampler="heun", steps=18),
)
