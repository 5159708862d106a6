"""A diffusion transformer on MNIST, trained by flow matching along straight lines.

    scorefield train --preset mnist-flow-dit --data idx:DIR

DIR holds MNIST's four IDX files. Written for one accelerator; only its first steps have been run by us, so no
training time and no result are claimed here.
"""

from diffusion.networks.configs import DiTConfig
from diffusion.prediction import Preconditioning
from diffusion.schedules import RectifiedFlow
from diffusion.time_distributions import LogNormalSigma
from diffusion.weightings import VelocityWeighting
from experiments.config import Config, DataConfig, EMAConfig, OptimizerConfig, SamplingConfig, TrainingConfig

CONFIG = Config(
    data=DataConfig(source="idx:mnist"),
    schedule=RectifiedFlow(),
    network=DiTConfig(patch=4, width=128, depth=6, heads=4),
    preconditioning=Preconditioning("velocity", sigma_data=0.6),
    weighting=VelocityWeighting(),
    times=LogNormalSigma(mean=0.0, std=1.0),
    conditional=True,
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=200, decay="cosine"),
    ema=EMAConfig(decays=(0.998,)),
    training=TrainingConfig(
        steps=4000, batch_size=64, log_every=50, validate_every=1000, checkpoint_every=1000, sample_every=1000
    ),
    sampling=SamplingConfig(sampler="heun", steps=25),
)
