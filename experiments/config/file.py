"""A configuration as JSON, written whole or not at all, and read back exactly."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_type_hints

from diffusion.networks.configs import DiTConfig, MLPConfig, UNetConfig
from diffusion.noises import Gaussian, StudentT
from diffusion.prediction import Preconditioning
from diffusion.schedules import EDM, VE, VP, Cosine, RectifiedFlow, SubVP
from diffusion.score_matching.times import LogNormalSigma, LogUniformSigma, UniformTime
from diffusion.score_matching.weightings import (
    EDMWeighting,
    LikelihoodWeighting,
    MinSNRWeighting,
    SNRWeighting,
    UniformWeighting,
    VelocityWeighting,
)
from experiments.config.tree import (
    Chain,
    Config,
    DataConfig,
    Denoising,
    EMAConfig,
    Generator,
    ImportanceConfig,
    OptimizerConfig,
    SamplingConfig,
    TrainingConfig,
)
from experiments.errors import CheckpointError, UsageError

# Every type that may stand at a node of several types, and every nested one, by name.
TYPES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        *(VP, SubVP, Cosine, VE, EDM, RectifiedFlow, Chain),
        *(Gaussian, StudentT, UNetConfig, DiTConfig, MLPConfig, Preconditioning),
        *(EDMWeighting, SNRWeighting, MinSNRWeighting, UniformWeighting, LikelihoodWeighting, VelocityWeighting),
        *(LogNormalSigma, LogUniformSigma, UniformTime, ImportanceConfig, Denoising, Generator),
        *(DataConfig, OptimizerConfig, EMAConfig, TrainingConfig, SamplingConfig, Config),
    )
}


def to_json(node: Any) -> Any:
    """A configuration as JSON values; each dataclass carries its type's name under "type"."""
    if dataclasses.is_dataclass(node):
        fields = {field.name: to_json(getattr(node, field.name)) for field in dataclasses.fields(node)}
        return {"type": type(node).__name__, **fields}
    if isinstance(node, (tuple, list)):
        return [to_json(item) for item in node]
    return node


def from_json(value: Any, where: str = "configuration") -> Any:
    """The configuration that `to_json` wrote; exact, floats included.

    Raises CheckpointError naming the field when a type or a field is not known to this version.
    """
    if isinstance(value, list):
        return tuple(from_json(item, where) for item in value)
    if not isinstance(value, dict):
        return value
    cls = TYPES.get(value.get("type", ""))
    if cls is None:
        raise CheckpointError(f"{where}: unknown type {value.get('type')!r}; it was written by another version.")
    known = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(value) - known - {"type"})
    if unknown:
        raise CheckpointError(f"{where}: unknown field {unknown[0]!r}; it was written by another version.")
    fields = {name: from_json(item, f"{where}.{name}") for name, item in value.items() if name != "type"}
    for name, wanted in get_type_hints(cls).items():
        if name in fields and not _is_a(fields[name], wanted):
            raise CheckpointError(
                f"{where}.{name} is {fields[name]!r}, which is no {wanted.__name__}; restore the file."
            )
    try:
        return cls(**fields)
    except (TypeError, ValueError, UsageError) as error:
        raise CheckpointError(f"{where}: {error}") from None


def _is_a(value: Any, wanted: Any) -> bool:
    """Whether a JSON value may stand for a plain type; of others nothing is known here."""
    if wanted is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, wanted) if wanted in (str, bool) else True


def save_config(config: Config, path: Path) -> None:
    """Write `config` as JSON, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(to_json(config), indent=2) + "\n")
    temporary.replace(path)


def load_config(path: Path) -> Config:
    """Read what `save_config` wrote.

    Raises CheckpointError when the file is missing, is not JSON, or was written by another version.
    """
    try:
        config = from_json(json.loads(path.read_text()), str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path} does not exist; --run takes the folder that `scorefield train` wrote.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); mend it, or give another folder.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); restore it or train anew.") from None
    if not isinstance(config, Config):
        raise CheckpointError(f"{path} holds a {type(config).__name__}, not a run's configuration.")
    return config
