"""A checkerboard by PFGM++.

scorefield train --preset toy-checkerboard
"""

from diffusion.networks.configs import MLPConfig
from diffusion.noises import StudentT
from diffusion.prediction import Preconditioning
from diffusion.schedules import EDM
from diffusion.time_distributions import LogNormalSigma
from diffusion.weightings import EDMWeighting
from experiments.config import Config, DataConfig, EMAConfig, OptimizerConfig, SamplingConfig, TrainingConfig

CONFIG = Config(
    data=DataConfig(source="plane:checkerboard"),
    schedule=EDM(),
    noise=StudentT(df=4.0),
    network=MLPConfig(hidden=128, layers=4, embedding=32),
    preconditioning=Preconditioning("edm", sigma_data=0.5),
    weighting=EDMWeighting(sigma_data=0.5),
    times=LogNormalSigma(mean=-1.7, std=1.2),
    optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=100, decay="cosine"),
    ema=EMAConfig(decays=(0.998,)),
    training=TrainingConfig(steps=3000, batch_size=1024, log_every=200, validate_every=1500, checkpoint_every=1500),
    sampling=SamplingConfig(sampler="heun", steps=40),
)
