"""Eight Gaussians by flow matching.

scorefield train --preset toy-gaussians
"""

from diffusion.networks.configs import MLPConfig
from diffusion.prediction import Preconditioning
from diffusion.schedules import RectifiedFlow
from diffusion.time_distributions import LogNormalSigma
from diffusion.weightings import VelocityWeighting
from experiments.config import Config, DataConfig, EMAConfig, OptimizerConfig, SamplingConfig, TrainingConfig

CONFIG = Config(
    data=DataConfig(source="plane:gaussians"),
    schedule=RectifiedFlow(),
    network=MLPConfig(hidden=128, layers=3, embedding=32),
    preconditioning=Preconditioning("velocity", sigma_data=0.5),
    weighting=VelocityWeighting(),
    times=LogNormalSigma(mean=-0.5, std=1.2),
    optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=100, decay="cosine"),
    ema=EMAConfig(decays=(0.998,)),
    training=TrainingConfig(steps=3000, batch_size=1024, log_every=200, validate_every=1500, checkpoint_every=1500),
    sampling=SamplingConfig(sampler="heun", steps=40),
)
