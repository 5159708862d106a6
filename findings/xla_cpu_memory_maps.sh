#!/usr/bin/env bash
# What one would guess: a program that XLA has compiled for the CPU costs some memory, and no other bounded thing.
#
# Seen (jax 0.10.1 and jaxlib 0.10.1, Linux, CPU): each program also holds memory maps of its process, here more than
# ten for a small loop. One jitted function holds them anew for every shape that it is called with, and so does every
# operation outside jit. Linux allows a process 65,530 maps by default (vm.max_map_count), far below what memory would:
# a process that has met some thousand shapes or programs ends while it compiles the next, without a Python error.
# The function's own `clear_cache()` gives its maps back, `jax.clear_caches()` all, dropping the last reference to
# the function most.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet jax==0.10.1 jaxlib==0.10.1
cat > count.py <<'PY'
import gc

import jax
import jax.numpy as jnp

PROGRAMS = 40


def maps():
    with open("/proc/self/maps") as lines:
        return sum(1 for _ in lines)


@jax.jit
def loop(x):
    return jax.lax.scan(lambda c, _: (jnp.sort(jnp.sin(2 * c) @ c), None), x, None, length=3)[0]


inputs = [jnp.asarray([[float(j == k) for k in range(n)] for j in range(n)]) for n in range(4, 4 + PROGRAMS)]
loop(inputs[0])
before = maps()
for x in inputs[1:]:
    loop(x)
held = (maps() - before) / (PROGRAMS - 1)
loop.clear_cache()
gc.collect()
own = (maps() - before) / (PROGRAMS - 1)
jax.clear_caches()
gc.collect()
everything = (maps() - before) / (PROGRAMS - 1)
print(f"jax {jax.__version__}: {held:.1f} memory maps a shape; {own:.1f} left by clear_cache, {everything:.1f} by all")
assert held > 8, held
assert own < held / 2, own
assert everything < 1, everything
PY
JAX_PLATFORMS=cpu venv/bin/python count.py
