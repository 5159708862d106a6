"""EDM on pictures of one's own at 32 × 32, grey or coloured: for two CPU cores.

    scorefield train --preset photos-cpu --data folder:photos

Each picture is cut to its central square and resized; sub-folders are classes with --conditional. Levels and attention
follow the size, and sigma_data is that of the data. In colour 1.1 M parameters and 1.4 GFLOP an image.

On Fashion-MNIST, with --data idx:fashion-mnist --data.no-flip, 2026-11-30, Python 3.11, jax 0.10.1: 138 min on two
cores that did other work too, 170 min of processor time. On cores with nothing else to do it is about an hour, by the
1.38 s that a step of 64 images of 28 × 28 takes there (docs/benchmarks.md). Held-out loss 0.192 after 500 steps, 0.161
after 2,000 and 0.154 in the end. Of 64 samples some fifty are garments and shoes, many with patches in their cloth, and
the others cannot be named. Fréchet distance of 300 samples 2.45 ± 1.32, in the features of a classifier of these
garments (of as many training images 0.51 ± 0.57, of noise 51.04 ± 1.73).

Cut down these were run as well, by the same versions, with

    --data.size 16 --network.channels 16 --network.head-channels 16 --training.sample-every 0

- 1,000 steps on 10,000 crops of five photographs (scikit-learn's china and flower, scikit-image's astronaut, coffee and
  motorcycle), with 1,000 crops of two others (chelsea, rocket) held out: 10 min, 5 min 17 s of them processor time.
  Held-out loss 0.588 after 125 steps and 0.303 in the end. The samples have the colours and the grain of the five
  photographs, and nothing in them can be named. Two photographs are no measure of a distance: by it the training images
  (13.9 ± 0.6) are farther from them than 300 samples (10.7 ± 0.5), and noise 20.6 ± 0.7.
- 500 steps on Fashion-MNIST: 10 min, 3 min 31 s of them processor time. Held-out loss 0.473 after 125 steps and 0.305
  in the end. About half of the samples are garments with ragged edges, and the others are none. Fréchet distance of 300
  samples 5.8 ± 0.8 (of as many training images 1.7 ± 1.1, of noise 71.1 ± 2.1).

Seven photographs say nothing about others.
"""

import math

from diffusion.networks.configs import UNetConfig
from diffusion.prediction import Preconditioning
from diffusion.schedules import EDM
from diffusion.score_matching.times import LogNormalSigma
from diffusion.score_matching.weightings import EDMWeighting
from experiments.config.nodes import EMAConfig, OptimizerConfig, SamplingConfig, TrainingConfig
from experiments.config.tree import Config
from experiments.data.config import DataConfig


def at(size: int) -> Config:
    """The configuration for pictures whose longer side has `size` pixels."""
    return Config(
        data=DataConfig(source="folder:photos", size=size, flip=True, held_out=0.1),
        schedule=EDM(),
        network=UNetConfig(channels=32, multipliers="auto", blocks=1, attention_resolutions="auto", head_channels=32),
        preconditioning=Preconditioning("edm"),
        weighting=EDMWeighting(),
        sigma_data="auto",
        times=LogNormalSigma(mean=-1.2 + max(0.0, math.log(size / 64)), std=1.2),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=100, decay="cosine"),
        ema=EMAConfig(decays=(0.998,)),
        training=TrainingConfig(
            steps=4000, batch_size=32, log_every=50, validate_every=500, checkpoint_every=500, sample_every=1000
        ),
        sampling=SamplingConfig(sampler="heun", steps=18),
    )


CONFIG = at(32)
