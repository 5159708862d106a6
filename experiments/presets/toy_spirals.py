"""Two spirals by PFGM.

scorefield train --preset toy-spirals
"""

from diffusion.networks.configs import MLPConfig
from diffusion.noises import StudentT
from diffusion.prediction import Preconditioning
from diffusion.schedules import EDM
from diffusion.time_distributions import LogNormalSigma
from diffusion.weightings import MinSNRWeighting
from experiments.config import Config, DataConfig, EMAConfig, OptimizerConfig, SamplingConfig, TrainingConfig

CONFIG = Config(
    data=DataConfig(source="plane:spirals"),
    schedule=EDM(sigma_min=0.005),
    noise=StudentT(df=1.0),
    network=MLPConfig(hidden=128, layers=4, embedding=32, activation="tanh", residual=False),
    preconditioning=Preconditioning("x0", sigma_data=0.5),
    weighting=MinSNRWeighting(gamma=400.0),
    times=LogNormalSigma(mean=-1.6, std=1.4),
    optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=200, decay="cosine"),
    ema=EMAConfig(decays=(0.998,)),
    training=TrainingConfig(steps=6000, batch_size=512, log_every=500, validate_every=3000, checkpoint_every=3000),
    sampling=SamplingConfig(sampler="heun", steps=60),
)
