"""What had a part in the numbers."""

from __future__ import annotations

from importlib.metadata import version

import jax


def versions() -> dict[str, str]:
    """The versions of what has a part in the numbers."""
    return {"version": version("scorefield"), "jax": jax.__version__}
