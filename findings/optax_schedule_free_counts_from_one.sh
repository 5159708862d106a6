#!/usr/bin/env bash
# What one would guess: `optax.contrib.schedule_free(base, learning_rate)` weighs update n by the square of the learning
# rate that the base optimiser, given the same schedule, takes at update n.
#
# Seen (optax 0.2.8): the base counts its updates from 0 and the wrapper from 1. With γ(n) = n/10 in both, the weights of
# updates 0, 1, 2 are γ(1)², γ(2)², γ(3)² while the steps are those of γ(0), γ(1), γ(2): the average takes update n with
# the weight of the next one. With `learning_rate=lambda n: γ(n − 1)` the two agree.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet jax==0.10.1 jaxlib==0.10.1 optax==0.2.8
cat > count.py <<'PY'
import jax.numpy as jnp
import numpy as np
import optax


def gamma(n):
    return jnp.asarray(n, jnp.float32) / 10


def weights(rate):
    """Σ γ² so far, as the wrapper has it, and the steps that z makes, for gradients of 1."""
    rule = optax.contrib.schedule_free(optax.sgd(gamma), rate, b1=0.9, weight_lr_power=2.0)
    y = jnp.zeros(())
    state, sums, steps = rule.init(y), [], []
    for _ in range(3):
        before = state.z
        change, state = rule.update(jnp.ones(()), state, y)
        y = y + change
        sums.append(float(state.weight_sum))
        steps.append(float(before - state.z))
    return np.sqrt(np.diff([0.0, *sums])), np.array(steps)


for name, rate in (("γ(n)", gamma), ("γ(n − 1)", lambda n: gamma(n - 1))):
    weight, step = weights(rate)
    print(f"rate {name}: steps {step.round(3)}, square roots of the weights {weight.round(3)}")
same, mended = weights(gamma), weights(lambda n: gamma(n - 1))
np.testing.assert_allclose(same[1], [0.0, 0.1, 0.2], atol=1e-6)
np.testing.assert_allclose(same[0], [0.1, 0.2, 0.3], atol=1e-6)
np.testing.assert_allclose(mended[0], mended[1], atol=1e-6)
PY
JAX_PLATFORMS=cpu venv/bin/python count.py
