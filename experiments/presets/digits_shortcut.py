"""A shortcut model of scikit-learn's digits: images in one call, or in a few, from a single network and no teacher.

    scorefield train --preset digits-shortcut
    scorefield sample --run runs/digits-shortcut --seeds 0-35 --steps 1

2026-12-01, 2 CPU cores shared with other work, Python 3.11, jax 0.10.1: 5 min 42 s. `scorefield evaluate
--samples 500 --no-bits-per-dim`, against 180 held-out digits in the features cnn64@ae7eab1f (training data 1.24 ± 0.73,
noise 60.4 ± 2.9): Fréchet distance 2.01 ± 0.77 in one call, 1.70 ± 0.81 in two, 1.33 ± 0.81 in four; precision 0.761,
0.778 and 0.761, recall 0.933, 0.967 and 0.967. A seed is the same digit in one call, two and four; in one call a few
are faint, or have grey around them.
"""

from diffusion.networks.configs import UNetConfig
from diffusion.prediction import Preconditioning
from diffusion.schedules import RectifiedFlow
from diffusion.score_matching.times import LogNormalSigma
from diffusion.score_matching.weightings import VelocityWeighting
from experiments.config.nodes import EMAConfig, FlowMap, OptimizerConfig, SamplingConfig, TrainingConfig
from experiments.config.tree import Config
from experiments.data.config import DataConfig

CONFIG = Config(
    data=DataConfig(source="digits", held_out=0.1),
    schedule=RectifiedFlow(),
    objective=FlowMap(loss="shortcut", power=0.0),
    network=UNetConfig(channels=32, multipliers=(1, 2), blocks=1),
    preconditioning=Preconditioning("velocity", sigma_data=0.5),
    weighting=VelocityWeighting(),
    times=LogNormalSigma(mean=0.0, std=1.2),
    optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=100, decay="cosine"),
    ema=EMAConfig(decays=(0.999,)),
    training=TrainingConfig(steps=1300, batch_size=128, log_every=50, validate_every=650, checkpoint_every=650),
    sampling=SamplingConfig(sampler="flow-map", steps=1),
)
