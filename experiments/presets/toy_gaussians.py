"""Eight Gaussians on a circle by flow matching along straight lines; the law is known exactly.

    scorefield train --preset toy-gaussians
    scorefield sample --run runs/toy-gaussians --seeds 0-1999 --batch 2000

2026-11-28, 2 CPU cores shared with another training, Python 3.11, jax 0.10.1: 121 s, of which 114 s are processor time
on both cores. `scorefield evaluate`, against 1,000 held-out points: KL(data‖model) 0.027 ± 0.007 nats (negative
log-likelihood −1.023, entropy −1.050), energy distance 0.0006 (p = 0.25; training data 0.0003, a Gaussian 0.029),
sliced W2 0.066 (p = 0.12; training data 0.062, a Gaussian 0.155). The modes are round; one point
in a hundred strays between neighbours.
"""

from diffusion.networks.configs import MLPConfig
from diffusion.prediction import Preconditioning
from diffusion.schedules import RectifiedFlow
from diffusion.score_matching.times import LogNormalSigma
from diffusion.score_matching.weightings import VelocityWeighting
from experiments.config.nodes import EMAConfig, OptimizerConfig, SamplingConfig, TrainingConfig
from experiments.config.tree import Config
from experiments.data.config import DataConfig

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
