"""PFGM++ on MNIST with D = 2048 extra dimensions: EDM's network, loss and sampler, under Student-t noise.

    scorefield train --preset mnist-pfgmpp --data idx:DIR

DIR holds MNIST's four IDX files. It differs from `mnist-edm-unet` in the noise alone, and costs the same, about 33 min
of processor time on 2 CPU cores. Not run to its end by us.
"""

from diffusion.networks.configs import UNetConfig
from diffusion.noises import StudentT
from diffusion.prediction import Preconditioning
from diffusion.schedules import EDM
from diffusion.time_distributions import LogNormalSigma
from diffusion.weightings import EDMWeighting
from experiments.config import Config, DataConfig, EMAConfig, OptimizerConfig, SamplingConfig, TrainingConfig

CONFIG = Config(
    data=DataConfig(source="idx:mnist"),
    schedule=EDM(),
    noise=StudentT(df=2048.0),
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
