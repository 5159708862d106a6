#!/usr/bin/env bash
# What one would guess: the rows of a `flax.nnx.Embed` without a `dtype` are in the type of its parameters, as what the
# other layers answer is, and as its documentation says.
#
# Seen (flax 0.12.8): the type is that of the parameters with which the table was made, float32. A module whose parameters
# are replaced by ones of float64, as a checkpoint or a test of derivatives does, answers in float64 from `nnx.Linear` and in
# float32 from `nnx.Embed`, silently: the rows lose half of their digits. With `promote_dtype=lambda arrays, **_: arrays`
# they keep them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet jax==0.10.1 jaxlib==0.10.1 flax==0.12.8
cat > wide.py <<'PY'
import jax
import jax.numpy as jnp
from flax import nnx

jax.config.update("jax_enable_x64", True)


def answer(module, *arguments):
    """What a module says once its parameters are thirds in float64: (type, error)."""
    graph, state = nnx.split(module)
    thirds = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 1 / 3, jnp.float64), state)
    said = nnx.merge(graph, thirds)(*arguments)
    return str(said.dtype), abs(float(said[0, 0]) - 1 / 3)


rngs = nnx.Rngs(0)
row = jnp.zeros(1, int)
linear = answer(nnx.Linear(1, 1, use_bias=False, rngs=rngs), jnp.ones((1, 1)))
embed = answer(nnx.Embed(2, 1, rngs=rngs), row)
kept = answer(nnx.Embed(2, 1, promote_dtype=lambda arrays, **_: arrays, rngs=rngs), row)
print("Linear", *linear)
print("Embed", *embed)
print("Embed with promote_dtype", *kept)
assert linear == kept == ("float64", 0.0), (linear, kept)
assert embed[0] == "float32", embed
assert 1e-9 < embed[1] < 1e-7, embed
PY
venv/bin/python wide.py
