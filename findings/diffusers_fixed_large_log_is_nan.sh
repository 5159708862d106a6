#!/usr/bin/env bash
# What one would guess: `variance_type="fixed_large_log"`, one of the six that the documentation of `DDPMScheduler` offers, is
# the variance of "fixed_large", given by its logarithm.
#
# Seen (diffusers 0.42.1): the logarithm, which is negative, is taken for the variance, and its root is NaN. The first step
# of a run makes a state of NaN, without a word. "fixed_small_log" is exponentiated, and is "fixed_small".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 diffusers==0.42.1
cat > variance.py <<'PY'
import torch
from diffusers import DDPMScheduler


def first_step(variance):
    """x after the first of a hundred steps from noise, with a network that predicts no noise."""
    scheduler = DDPMScheduler(variance_type=variance, clip_sample=False)
    scheduler.set_timesteps(100)
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    first = int(scheduler.timesteps[0])
    generator = torch.Generator().manual_seed(1)
    return scheduler.step(torch.zeros_like(x), first, x, generator=generator).prev_sample


made = {name: first_step(name) for name in ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")}
for name, x in made.items():
    print(name, "finite" if bool(x.isfinite().all()) else "NaN", float(x.std()))
assert torch.allclose(made["fixed_small"], made["fixed_small_log"], atol=1e-5)
assert bool(made["fixed_large"].isfinite().all()) and bool(made["fixed_large_log"].isnan().all())
PY
venv/bin/python variance.py
