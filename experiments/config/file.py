"""A configuration as JSON, written whole or not at all, and read back exactly."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from experiments.config import choices, plugins
from experiments.config.checks import check
from experiments.config.tree import Config
from experiments.errors import CheckpointError, UsageError, reason
from experiments.files import replacing
from experiments.names import canonical


def to_json(node: Any) -> Any:
    """A configuration as JSON values; each dataclass carries its type's name under "type".

    Raises UsageError for a class that has no such name.
    """
    if dataclasses.is_dataclass(node):
        fields = {field.name: to_json(getattr(node, field.name)) for field in dataclasses.fields(node)}
        return {"type": choices.name_of(type(node)), **fields}
    if isinstance(node, (tuple, list)):
        return [to_json(item) for item in node]
    return node


def from_json(value: Any, where: str = "configuration") -> Any:
    """The configuration that `to_json` wrote; exact, floats included, and not yet checked.

    A field that is absent has its default, or what the class says in `unrecorded` that its absence means.

    Raises CheckpointError naming the field when a type or a field is not known to this version, UsageError for a type
    of a plugin that nobody here has named.
    """
    if isinstance(value, list):
        return tuple(from_json(item, where) for item in value)
    if not isinstance(value, dict):
        return value
    name = str(value.get("type", ""))
    if name not in choices.TYPES and ":" in name:
        plugins.require(name.partition(":")[0], where)
    cls = choices.TYPES.get(name)
    if cls is None:
        raise CheckpointError(f"{where}: unknown type {value.get('type')!r}; it was written by another version.")
    known = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(value) - known - {"type"})
    if unknown:
        raise CheckpointError(f"{where}: unknown field {unknown[0]!r}; it was written by another version.")
    said = {name: from_json(item, f"{where}.{name}") for name, item in value.items() if name != "type"}
    fields = {**getattr(cls, "unrecorded", {}), **said}
    for name, wanted in get_type_hints(cls).items():
        if name in fields and not (_is_a(fields[name], wanted) or _is_of_plugin(fields[name], name)):
            plain = wanted in (int, float, str, bool)
            kind = f"no {wanted.__name__}" if plain else f"not a valid {name.replace('_', ' ')}"
            raise CheckpointError(f"{where}.{name} is {fields[name]!r}, which is {kind}; restore the file.")
    try:
        return cls(**fields)
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise CheckpointError(f"{where}: {reason(error)}; restore the file.") from None


def check_kinds(node: Any, where: str = "config") -> None:
    """Raise UsageError for a value that is not of its field's type, and so could not be read back from the file.

    A class without a name is refused by `to_json`, in a sentence of its own.
    """
    for name, wanted in get_type_hints(type(node)).items():
        value = getattr(node, name, None)
        if type(value) in choices.TYPES.values():
            check_kinds(value, f"{where}.{name}")
        elif not (_is_a(value, wanted) or (dataclasses.is_dataclass(value) and not isinstance(value, type))):
            kind = str(wanted) if get_args(wanted) else wanted.__name__
            raise UsageError(f"{where}.{name} is {value!r}; give {kind}.")


def _is_a(value: Any, wanted: Any) -> bool:
    """Whether a value of the file is of the type of its field, where that is a type that is written here."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (Union, UnionType):
        return any(_is_a(value, choice) for choice in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_a(item, inner[0]) for item in value)
    if wanted in (int, float):
        return isinstance(value, (int, wanted)) and not isinstance(value, bool)
    known = isinstance(wanted, type) and (wanted in (str, bool, NoneType) or dataclasses.is_dataclass(wanted))
    return isinstance(value, wanted) if known else True


def _is_of_plugin(value: Any, node: str) -> bool:
    return type(value) in choices.NODES.get(node, {}).values()


def document(config: Config) -> dict[str, Any]:
    """What `save_config` writes: the configuration, and under "plugins" the modules that it takes classes from."""
    written = to_json(config)
    types = (choices.name_of(type(getattr(config, node))) for node in choices.NODES)
    modules = {
        *(name.partition(":")[0] for name in types if ":" in name),
        plugins.owner("sampler", canonical(config.sampling.sampler)),
        plugins.owner("data source", config.data.source.partition(":")[0]),
    } - {None}
    return {**written, "plugins": sorted(modules)} if modules else written


def save_config(config: Config, path: Path) -> None:
    """Write `config` as JSON, whole or not at all."""
    text = json.dumps(document(config), indent=2) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text)


def load_config(path: Path) -> Config:
    """Read what `save_config` wrote.

    Raises CheckpointError when the file is missing, is not JSON, was written by another version or cannot be trained,
    and UsageError when it needs a plugin that nobody here has named.
    """
    try:
        said = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path} does not exist; --run takes the folder that `scorefield train` wrote.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); mend it, or give another folder.") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({reason(error)}); restore it or train anew.") from None
    return read_document(said, path)


def read_document(said: Any, path: Path) -> Config:
    """The configuration that `document` wrote, found in the file `path`. Raises as `load_config`."""
    try:
        config = from_json(_with_plugins(said, path), str(path))
    except RecursionError:
        raise CheckpointError(f"{path} is nested too deeply; restore the file.") from None
    if not isinstance(config, Config):
        raise CheckpointError(f"{path} holds a {type(config).__name__}, not a run's configuration; restore the file.")
    try:
        check(config)
    except UsageError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except Exception as error:  # numbers of the right type that overflow somewhere
        raise CheckpointError(f"{path} holds values that cannot be ({reason(error)}); restore the file.") from None
    return config


def _with_plugins(said: Any, path: Path) -> Any:
    """The configuration in a file, whose plugins have been imported."""
    if not isinstance(said, dict) or "plugins" not in said:
        return said
    named = said["plugins"]
    if not isinstance(named, list) or not all(isinstance(module, str) for module in named):
        raise CheckpointError(f"{path}.plugins is {named!r}, which is not a list of modules; restore the file.")
    for module in named:
        plugins.require(module, str(path))
    return {key: value for key, value in said.items() if key != "plugins"}
