"""The parameters of a run of our own, from a file of safetensors that `scorefield export --weights` wrote.

`experiments.exporting.weights` says what is in it.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from jax.tree_util import keystr, tree_flatten_with_path

from experiments.config.file import read_document
from experiments.config.nodes import EMAConfig
from experiments.config.tree import Config
from experiments.data.registry import NO_DATA
from experiments.errors import CheckpointError, UsageError, reason
from experiments.importing.arrays import Wanted, check_arrays, read_params
from experiments.importing.plan import Options, Plan
from experiments.importing.safetensors import SafeTensors, open_safetensors, shown
from experiments.training.data import Facts
from experiments.training.model import network_of

if TYPE_CHECKING:
    from experiments.training.model import AnyNetwork

KEY, VERSION = "scorefield", 1
"""The name of the metadata, and the version of what is in them."""


def places(network: AnyNetwork) -> dict[str, tuple[str, ...]]:
    """The name of each parameter in the file, and its path among the parameters."""
    return {".".join(path): path for path, _ in _shapes(network)}


def plan(where: Path, options: Options) -> Plan:
    """What importing the file would do.

    Raises CheckpointError for another file, or one whose arrays are not those of its configuration, UsageError where
    the configuration needs a plugin that nobody has named.
    """
    del options
    file = open_safetensors(where)
    said = _said(file)
    config = read_document(said.get("config"), where)
    try:
        facts = dataclasses.replace(Facts.from_json(said["facts"]), place=None)
        network = network_of(config, facts)
        shapes = _shapes(network)
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        raise CheckpointError(f"{where}: its {KEY} describes no network ({reason(error)}); export it again.") from None
    wanted = tuple(Wanted(".".join(path), shape, path, tuple(range(len(shape)))) for path, shape in shapes)
    check_arrays([file], {one.name: one.shape for one in wanted})
    parameters = said.get("parameters")
    note = f"{parameters if isinstance(parameters, str) else 'parameters'} of {_source(said)}"
    return Plan(
        "scorefield",
        where,
        (where,),
        _without_data(config, facts),
        facts,
        wanted,
        lambda: read_params([file], wanted),
        (note,),
    )


def _shapes(network: AnyNetwork) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:
    """The path and the shape of each parameter."""
    flat = tree_flatten_with_path(jax.eval_shape(network.init, jax.random.key(0)))[0]
    return [(tuple(keystr((entry,), simple=True) for entry in path), tuple(leaf.shape)) for path, leaf in flat]


def _said(file: SafeTensors) -> dict[str, Any]:
    """What the metadata say."""
    if KEY not in file.metadata:
        raise CheckpointError(
            f"{file.path} has no `{KEY}` in its metadata, and is none that `scorefield export --weights` wrote; a file "
            f"of EDM's authors is edm:{file.path.name}."
        )
    try:
        said = json.loads(file.metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file.path}: its `{KEY}` is not valid JSON ({reason(error)}); export it again."
        ) from None
    if not isinstance(said, dict) or said.get("version") != VERSION:
        version = shown(said.get("version")) if isinstance(said, dict) else "none"
        raise CheckpointError(
            f"{file.path}: its `{KEY}` is of version {version}, and {VERSION} is known here; take the scorefield that "
            "wrote it."
        )
    return said


def _source(said: dict[str, Any]) -> str:
    """The checkpoint that it was written from, in words."""
    origin = said.get("origin")
    step = origin.get("checkpoint_step") if isinstance(origin, dict) else None
    return f"a checkpoint of step {step}" if isinstance(step, int) else "an unknown checkpoint"


def _without_data(config: Config, facts: Facts) -> Config:
    """The configuration of a run that was imported: without data but points', and with one average."""
    data = config.data
    if len(facts.event_shape) == 3:
        height, width, channels = facts.event_shape
        size = data.size if data.size is not None else f"{height}x{width}"
        data = dataclasses.replace(
            data, source=NO_DATA, label_column=None, size=size, channels=data.channels or channels
        )
    return dataclasses.replace(config, data=data, ema=EMAConfig())
