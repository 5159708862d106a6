"""The types that may stand at a node of a configuration, by their names on the command line and in `config.json`.

Both are made from the hints of `Config`, so that a type is listed there alone:

    --weighting min-snr     MinSNRWeighting, in lower case with hyphens and without the node's own word at its end
    "MinSNRWeighting"       the class's name, in the file

A class of a plugin is added by `add`; in the file it has its module before its name, "my_module:MySchedule".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from diffusion.networks.configs import DiTConfig, JiTConfig, UNetConfig
from diffusion.networks.edm_configs import DhariwalUNetConfig, SongUNetConfig
from diffusion.networks.unet2d_config import UNet2DConfig
from experiments.config.plugins import claim
from experiments.config.tree import Config
from experiments.errors import UsageError

_IRREGULAR = {
    UNetConfig: "unet",
    DiTConfig: "dit",
    JiTConfig: "jit",
    SongUNetConfig: "song-unet",
    DhariwalUNetConfig: "dhariwal-unet",
    UNet2DConfig: "unet2d",
}
"""Names on the command line that the rule would spell otherwise."""


def spelt(cls: type) -> str:
    """The name of a type on the command line: rectified-flow, min-snr, log-normal."""
    words = re.sub(r"(Weighting|Sigma|Time|Config)$", "", cls.__name__)
    return _IRREGULAR.get(cls) or re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", words).lower()


def nodes_of(cls: type) -> dict[str, dict[str, type]]:
    """The fields of a dataclass that can be one of several types, and these by their names on the command line."""
    hints = get_type_hints(cls).items()
    return {
        node: {spelt(choice): choice for choice in get_args(hint)}
        for node, hint in hints
        if get_origin(hint) in (Union, UnionType) and all(map(dataclasses.is_dataclass, get_args(hint)))
    }


def types_of(cls: type) -> dict[str, type]:
    """`cls` and every dataclass that its fields hold, by name."""

    def walk(hint: Any) -> Iterator[type]:
        for choice in get_args(hint):
            yield from walk(choice)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield hint
            for inner in get_type_hints(hint).values():
                yield from walk(inner)

    return {found.__name__: found for found in walk(cls)}


NODES = nodes_of(Config)
"""The nodes that can be one of several types, and these by their names on the command line."""

TYPES = types_of(Config)
"""Every type of a configuration by its name in the file."""

_names = {cls: name for name, cls in TYPES.items()}


def add(node: str, name: str, cls: type, module: str) -> None:
    """Let `cls` stand at `node` by this name; `module` registers it.

    Raises UsageError for a name that is taken.
    """
    claim(node, name, module, NODES[node])
    NODES[node][name] = cls
    _names[cls] = f"{module}:{cls.__qualname__}"
    TYPES[_names[cls]] = cls


def name_of(cls: type) -> str:
    """The name of a type in the file. Raises UsageError for one that no configuration can hold."""
    if cls not in _names:
        raise UsageError(
            f"{cls.__name__} is not a type that a configuration knows; register it, such as by "
            '@register.schedule("my-schedule"), so that the run can be loaded again.'
        )
    return _names[cls]


def spelt_at(node: str, value: Any) -> str:
    """The name on the command line of what stands at a node."""
    return next((name for name, cls in NODES[node].items() if cls is type(value)), spelt(type(value)))
