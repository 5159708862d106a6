"""Numbers that are wanted on the host, in float64, wherever the program runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def host_float64() -> Iterator[None]:
    """Compute in float64 on the CPU, whatever the accelerator, the precision, or a surrounding jit."""
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # a build without the CPU back-end: the default device is all there is
        cpu = None
    with jax.ensure_compile_time_eval(), jax.enable_x64(True), jax.default_device(cpu):
        yield
