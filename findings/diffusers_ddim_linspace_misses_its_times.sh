#!/usr/bin/env bash
# What one would guess: each step of a DDIM run ends at the time at which the next one begins, so that with a network that is
# exact the state has the noise that the network is told.
#
# Seen (diffusers 0.42.1): a step of `DDIMScheduler` ends 1000 // N below where it begins. With `timestep_spacing="linspace"`
# the times are 999/(N - 1) apart, and with "trailing" and an N that does not divide 1000 they are rounded, so that the next
# step begins elsewhere. For data that are all 0 and their exact network, ten steps by "linspace" come to time 0 with 5.8 times
# the noise that belongs to it, thirty by "trailing" to their last time with 1.04 times; by "leading" it is always 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 diffusers==0.42.1
cat > gaps.py <<'PY'
import torch
from diffusers import DDIMScheduler


def largest(spacing, steps):
    """The largest ratio of the state's noise to that of the time that the network is told."""
    scheduler = DDIMScheduler(timestep_spacing=spacing, clip_sample=False)
    scheduler.set_timesteps(steps)
    sigmas = (1 - scheduler.alphas_cumprod.double()).sqrt()
    times = scheduler.timesteps.tolist()
    unit, worst = torch.ones(1, 1, 1, 1, dtype=torch.float64), 0.0
    x = unit * sigmas[times[0]]
    for time in times:
        worst = max(worst, float(x / sigmas[time]))
        x = scheduler.step(x / sigmas[time], time, x).prev_sample
    return worst


found = {(spacing, steps): largest(spacing, steps) for spacing in ("leading", "trailing", "linspace") for steps in (10, 30)}
for key, ratio in found.items():
    print(*key, round(ratio, 4))
assert all(abs(found["leading", steps] - 1) < 1e-3 for steps in (10, 30))
assert abs(found["trailing", 10] - 1) < 1e-3 < found["trailing", 30] - 1
assert 5 < found["linspace", 10] < 7 and found["linspace", 30] > 1.5
PY
venv/bin/python gaps.py
