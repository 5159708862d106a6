"""XLA's flags do what they are set for."""

import os
import subprocess
import sys

BYTES = """
import sys
from experiments.compilation import keep_barriers
if sys.argv[1] == "kept":
    keep_barriers()
import jax, jax.numpy as jnp

def layer(h, w):
    return h + jnp.tanh(jnp.tanh(h @ w) @ w.T)

def loss(weights, h):
    for w in weights:
        h = jax.checkpoint(layer)(h, w)
    return jnp.sum(h * h)

weights = [jax.ShapeDtypeStruct((16, 32), jnp.float32)] * 8
lowered = jax.jit(jax.grad(loss)).lower(weights, jax.ShapeDtypeStruct((512, 16), jnp.float32))
print(lowered.compile().memory_analysis().temp_size_in_bytes)
"""


def _bytes(how):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-c", BYTES, how]
    told = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return int(told.stdout)


def test_barriers_that_are_kept_let_layers_be_computed_again():
    """Otherwise XLA merges the second computation with the first, and all that lies between stays in memory."""
    assert _bytes("kept") < 0.5 * _bytes("not kept")
