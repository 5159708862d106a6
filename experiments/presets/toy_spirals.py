"""Two spirals in the plane by PFGM++ (D = 16) with EDM's preconditioning; the law is known exactly.

    scorefield train --preset toy-spirals
    scorefield sample --run runs/toy-spirals --seeds 0-1999 --batch 2000

2026-11-28, 2 CPU cores shared with another training, Python 3.11, jax 0.10.1: 183 s, of which 183 s are processor time
on both cores. `scorefield evaluate`, against 1,000 held-out points: KL(data‖model) 0.014 ± 0.005 nats (negative
log-likelihood 0.471, entropy 0.457), energy distance 0.0061 (p = 0.01) and sliced W2 0.069 (p = 0.015), training data
0.0005 and 0.033, a Gaussian 0.0075 and 0.102. The starting noise of these seeds is an odd draw: at `--seed` 1, 5000 and
100000 the energy distance is −0.0009, 0.0016, −0.0009 (p = 0.86, 0.13, 0.89). Both arms are crisp from end to end; one
point in a hundred strays between them.

PFGM itself (D = 1) did not get there in two settings: with preconditioning "edm" the network must answer the distance
to the arms over σ, which under Cauchy noise grows without bound as σ falls (KL 0.49 after 7,000 steps of 1,024 points),
and with "x0" and stable targets KL is 0.24 after 10,000 steps of 256.
"""

from diffusion.networks.configs import MLPConfig
from diffusion.noises import StudentT
from diffusion.prediction import Preconditioning
from diffusion.schedules import EDM
from diffusion.score_matching.times import LogNormalSigma
from diffusion.score_matching.weightings import EDMWeighting
from experiments.config.nodes import EMAConfig, OptimizerConfig, SamplingConfig, TrainingConfig
from experiments.config.tree import Config
from experiments.data.config import DataConfig

CONFIG = Config(
    data=DataConfig(source="plane:spirals"),
    schedule=EDM(),
    noise=StudentT(df=16.0),
    network=MLPConfig(hidden=128, layers=4, embedding=32),
    preconditioning=Preconditioning("edm", sigma_data=0.5),
    weighting=EDMWeighting(sigma_data=0.5),
    times=LogNormalSigma(mean=-2.2, std=1.2),
    optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=100, decay="cosine"),
    ema=EMAConfig(decays=(0.998,)),
    training=TrainingConfig(steps=4000, batch_size=1024, log_every=200, validate_every=2000, checkpoint_every=2000),
    sampling=SamplingConfig(sampler="heun", steps=40),
)
