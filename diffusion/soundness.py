"""A warning where the linear algebra underneath is known to give wrong answers.

jaxlib 0.10.2 fuses sums on a CPU such that every row past the 32,768th number (16,384th in float64) of the fused block
can be wrong, without any error: denoisers of a mixture, sums of squares, gradients (jax-ml/jax issue 39103; 0.10.1 and
0.11 are right). `pyproject.toml` excludes it; an environment put together in another way may still contain it.
"""

from __future__ import annotations

import warnings

UNSOUND = ("0.10.2",)
"""The versions of jaxlib that are known to."""


def warn_if_unsound(version: str) -> None:
    """Warn (RuntimeWarning) if this jaxlib is one that computes wrongly on a CPU."""
    if version in UNSOUND:
        warnings.warn(
            f"jaxlib {version} sums large arrays wrongly on a CPU (jax-ml/jax issue 39103); "
            "install another, such as 0.10.1 or 0.11, or set XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=.",
            RuntimeWarning,
            stacklevel=3,
        )
