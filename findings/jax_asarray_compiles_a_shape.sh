#!/usr/bin/env bash
# What one would guess: `jnp.asarray` of a NumPy array copies it to the device, and only operations compile programs.
#
# Seen (Linux, CPU): so it was up to jax 0.9.0. With jax 0.10.1 and 0.12.0.1 the call traces, lowers and compiles a
# program of its own ("stage") for each new shape and type: 20 ms of two cores where `jax.device_put` takes 0.1 ms.
# Who brings 1,000 arrays of different lengths to the device waits 20 s and holds 1,000 programs. `jnp.array` did so
# before already. `jax.device_put(x)` compiles nothing in any of these versions and gives the same array.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > count.py <<'PY'
import sys

import jax
import jax.numpy as jnp
import numpy as np

SHAPES = 10
compiled = 0


def heard(event, seconds, **kwargs):
    global compiled
    compiled += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(heard)
ways = {"jnp.asarray": jnp.asarray, "jnp.array": jnp.array, "jax.device_put": jax.device_put}
expected = dict(zip(ways, map(int, sys.argv[1:]), strict=True))
for i, (name, way) in enumerate(ways.items()):
    compiled = 0
    for k in range(SHAPES):
        x = np.arange(1 + k + SHAPES * i, dtype=np.float32)
        assert np.array_equal(way(x), x)
    print(f"jax {jax.__version__}: {name} of {SHAPES} shapes compiles {compiled} programs")
    assert compiled == expected[name], (name, compiled)
PY
for versions in "0.9.0 0.9.0 0 10 0" "0.10.1 0.10.1 10 10 0"; do
    read -r jax jaxlib expected <<< "$versions"
    python3 -m venv "venv-$jax"
    "venv-$jax/bin/pip" install --quiet "jax==$jax" "jaxlib==$jaxlib"
    # shellcheck disable=SC2086 (three numbers)
    JAX_PLATFORMS=cpu "venv-$jax/bin/python" count.py $expected
done
