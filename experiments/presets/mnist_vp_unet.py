"""DDPM++ on MNIST under the continuous VP SDE, ε-prediction, class-conditional with dropped labels.

    scorefield train --preset mnist-vp-unet --data idx:DIR

DIR holds MNIST's four IDX files. Of the size and length of mnist-edm-unet, which takes 33 min of a CPU core's time;
only its first hundred steps have been run by us, so no result is claimed here.
"""

from diffusion.networks.configs import UNetConfig
from diffusion.prediction import Preconditioning
from diffusion.schedules import VP
from diffusion.time_distributions import UniformTime
from diffusion.weightings import SNRWeighting
from experiments.config import Config, DataConfig, EMAConfig, OptimizerConfig, SamplingConfig, TrainingConfig

CONFIG = Config(
    data=DataConfig(source="idx:mnist"),
    schedule=VP(),
    network=UNetConfig(channels=32, multipliers=(1, 2, 2), blocks=1, attention_resolutions=(7,), head_channels=32),
    preconditioning=Preconditioning("eps", sigma_data=1.0),
    weighting=SNRWeighting(),
    times=UniformTime(),
    conditional=True,
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=100, decay="cosine"),
    ema=EMAConfig(decays=(0.998,)),
    training=TrainingConfig(
        steps=1500, batch_size=64, log_every=50, validate_every=500, checkpoint_every=500, sample_every=500
    ),
    sampling=SamplingConfig(sampler="dpmpp-2m", steps=20),
)
