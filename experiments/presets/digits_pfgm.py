"""PFGM on digits: one extra dimension, which is Cauchy noise, and a stable target; the network of `digits-ddpm`.

    scorefield train --preset digits-pfgm
    scorefield evaluate --run runs/digits-pfgm --samples 300 --no-bits-per-dim

2026-11-28, 2 CPU cores shared with other work, Python 3.11, jax 0.10.1: 3 min 44 s of processor time, Heun's method
with 71 calls. Fréchet distance to 180 held-out digits in the features cnn64@ae7eab1f: 2.30 ± 0.61 (training data 0.89 ±
0.76, noise 60.4 ± 2.9; `digits-pfgmpp` 0.94 ± 0.61), precision 0.672, recall 0.861. Most digits are legible; two of
the seeds 0 to 39 give noise, those with the longest tails. With σ_min = 0.002, times as in `digits-pfgmpp` and 35 calls
the distance was 1.62 ± 0.65, and three in sixty-four were noise.
"""

from diffusion.networks.configs import UNetConfig
from diffusion.noises import StudentT
from diffusion.prediction import Preconditioning
from diffusion.schedules import EDM
from diffusion.score_matching.times import LogNormalSigma
from diffusion.score_matching.weightings import EDMWeighting
from experiments.config.nodes import Denoising, EMAConfig, OptimizerConfig, SamplingConfig, TrainingConfig
from experiments.config.tree import Config
from experiments.data.config import DataConfig

CONFIG = Config(
    data=DataConfig(source="digits", held_out=0.1),
    schedule=EDM(sigma_min=2e-4),
    noise=StudentT(df=1.0),
    objective=Denoising(reference=512),
    network=UNetConfig(channels=32, multipliers=(1, 2), blocks=1),
    preconditioning=Preconditioning("edm", sigma_data=0.5),
    weighting=EDMWeighting(sigma_data=0.5),
    times=LogNormalSigma(mean=-1.6, std=1.8),
    optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=100, decay="cosine"),
    ema=EMAConfig(decays=(0.999,)),
    training=TrainingConfig(steps=650, batch_size=128, log_every=50, validate_every=325, checkpoint_every=325),
    sampling=SamplingConfig(sampler="heun", steps=36),
)
