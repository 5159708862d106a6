#!/usr/bin/env bash
# What one would guess: `jnp.max(x, axis=0, initial=0.0)` of an x without rows is the constant 0, and its derivative 0; so
# it is of `jnp.sum`, and of a maximum with rows that are all below the initial value.
#
# Seen (jax 0.10.1, on a CPU, in forward mode by `jax.jvp` and in `jax.linearize`): the value is 0 and the tangent NaN. In
# a loop the NaN goes wherever that maximum goes, with no warning, and every value stays right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet jax==0.10.1 jaxlib==0.10.1
cat > try.py <<'PY'
import jax
import jax.numpy as jnp


def largest(x):
    return jnp.max(x, axis=0, initial=0.0)


none, rows = jnp.zeros((0, 3)), -jnp.ones((2, 3))
value, tangent = jax.jvp(largest, (none,), (none,))
print("a maximum over no rows:", value, "its tangent:", tangent)
assert (value == 0).all() and jnp.isnan(tangent).all(), (value, tangent)
again = jax.linearize(largest, none)[1](none)
assert jnp.isnan(again).all(), again
for name, function, x in (("sum", lambda x: jnp.sum(x, axis=0), none), ("rows below", largest, rows)):
    value, tangent = jax.jvp(function, (x,), (jnp.ones_like(x),))
    print(f"{name}:", value, "its tangent:", tangent)
    assert jnp.isfinite(tangent).all() and (tangent == 0).all(), (name, tangent)
PY
venv/bin/python try.py
