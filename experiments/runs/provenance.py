"""Where numbers and pictures come from: the versions, the checkpoint, its parameters."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import jax

if TYPE_CHECKING:
    from experiments.runs.model import Model


def versions() -> dict[str, str]:
    """The versions of the packages that have a part in the numbers."""
    return {"version": version("scorefield"), "jax": jax.__version__}


def origin(model: Model) -> dict[str, Any]:
    """Where the model that made the numbers comes from, and by which versions, as JSON values."""
    return {
        "parameters": model.parameters,
        "checkpoint": str(model.path),
        "checkpoint_step": model.step,
        "checkpoint_sha256": model.digest,
        **({} if model.origin is None else {"init_from": model.origin.summary()}),
        **({} if model.imported is None else {"imported": model.imported.to_json()}),
        **versions(),
    }


def checkpoint(model: Model) -> dict[str, Any]:
    """The checkpoint of a second model, such as the one that guidance leads away from, as JSON values."""
    return {"checkpoint": str(model.path), "step": model.step, "sha256": model.digest}
