#!/usr/bin/env bash
# What one would guess: the last step of an ancestral run has no noise, whatever the spacing of its times: what it makes is
# the picture.
#
# Seen (diffusers 0.42.1): `DDPMScheduler` leaves the noise out at time 0 alone. With `timestep_spacing="trailing"` the last
# time is not 0, and noise of that step's own standard deviation is added to the finished picture: with `fixed_large` and ten
# steps 0.32 on pixels of [-1, 1], with `fixed_small` 1e-10, what its clamp leaves. With `leading` the end is clean.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 diffusers==0.42.1
cat > end.py <<'PY'
import torch
from diffusers import DDPMScheduler


def end(variance, spacing):
    """(Last time, standard deviation of the picture) where x and the predicted noise are 0: that of the added noise."""
    scheduler = DDPMScheduler(variance_type=variance, timestep_spacing=spacing, clip_sample=False)
    scheduler.set_timesteps(10)
    last, x = int(scheduler.timesteps[-1]), torch.zeros(1, 1, 128, 128)
    made = scheduler.step(torch.zeros_like(x), last, x, generator=torch.Generator().manual_seed(0)).prev_sample
    return last, float(made.std())


for variance in ("fixed_small", "fixed_large"):
    for spacing in ("leading", "trailing"):
        print(variance, spacing, *end(variance, spacing))
betas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
expected = float((1 - betas[99]).sqrt())
assert end("fixed_large", "leading") == (0, 0.0)
last, noise = end("fixed_large", "trailing")
assert last == 99 and abs(noise / expected - 1) < 0.03, (noise, expected)
assert 0 < end("fixed_small", "trailing")[1] < 1e-9
PY
venv/bin/python end.py
