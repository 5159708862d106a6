"""What people type: other names for a flag, other ways to write a value. It is taken as it is meant, or named.

The flags are those of a command's dataclass, as tyro spells them: `training.batch_size` is --training.batch-size.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from experiments.errors import UsageError

ALIASES: dict[str, tuple[str, ...]] = {
    "--lr": ("--optimizer.learning-rate",),
    "--learning-rate": ("--optimizer.learning-rate",),
    "--batch-size": ("--training.batch-size", "--batch"),
    "--image-size": ("--data.size", "--size"),
    "--resolution": ("--data.size", "--size"),
    "--size": ("--data.size",),
    "--seed": ("--training.seed",),
    "--steps": ("--training.steps",),
    "--num-steps": ("--training.steps", "--steps"),
    "--max-steps": ("--training.steps",),
    "--num-inference-steps": ("--steps",),
    "--nfe": ("--steps",),
    "--cfg": ("--guidance",),
    "--cfg-scale": ("--guidance",),
    "--guidance-scale": ("--guidance",),
    "--class-cond": ("--conditional",),
    "--output": ("--outdir",),
    "--output-dir": ("--outdir",),
    "--out": ("--outdir",),
    "--checkpoint": ("--run",),
    "--model": ("--run",),
}
"""Names that others have for a flag; the first flag that the command has is meant."""
COUNTS = ("--num", "--num-samples", "--num-images", "--n-samples", "--samples", "--images", "--count", "--n", "-n")
"""Names for a number of samples: so many seeds from 0 on."""
WORDS = ""
"""The key of what stands without a flag."""
_SWITCH = {**dict.fromkeys(("true", "yes", "on", "1"), True), **dict.fromkeys(("false", "no", "off", "0"), False)}


def flags_of(cls: type, prefix: str = "--") -> dict[str, Any]:
    """The flags of a dataclass and of those in its fields, with the types of their values.

    What stands without a flag, a positional argument, is under WORDS.
    """
    import tyro

    flags: dict[str, Any] = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        extras = getattr(hint, "__metadata__", ())
        if name not in cls.__dataclass_fields__ or tyro.conf.Fixed in extras:  # type: ignore[attr-defined]
            continue
        plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        given = next((extra.name for extra in extras if getattr(extra, "name", None) is not None), name)
        inner = f"{prefix}{given.replace('_', '-')}"
        if tyro.conf.Positional in extras:
            flags[WORDS] = plain
        elif dataclasses.is_dataclass(plain) and isinstance(plain, type):
            flags |= flags_of(plain, f"{inner}." if given else prefix)
        else:
            flags[inner] = plain
    return flags


def respelt(arguments: Sequence[str], flags: Mapping[str, Any]) -> list[str]:
    """The arguments with every flag by its own name and every value as its type is written.

    Raises UsageError for a value that cannot be of the flag's type, and for what is counted otherwise here.
    """
    spelt: list[str] = []
    for flag, values in _grouped(arguments):
        if flag is None:
            spelt += values
            continue
        name, values = _named(flag, values, flags)
        if name not in flags:
            spelt += [name, *values]
        elif flags[name] is bool and WORDS in flags:  # what follows may belong to no flag
            taken = sum(value.lower() in _SWITCH for value in values[:1])
            spelt += [_switch(name, values[:taken]), *values[taken:]]
        else:
            spelt += _written(name, flags[name], values)
    return spelt


def nearest(word: str, flags: Iterable[str]) -> str | None:
    """The flag that an unknown one most likely is: one whose last part is the same, or else the most similar."""
    known = list(flags)
    meant = ALIASES.get(word, ())
    alike = [flag for flag in known if flag in meant or _letters(flag.rpartition(".")[2]) == _letters(word)]
    found = alike or difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    return found[0] if found else None


def _letters(word: str) -> str:
    return re.sub("[^a-z0-9]", "", word.lower())


def _grouped(arguments: Sequence[str]) -> list[tuple[str | None, list[str]]]:
    """(flag, what follows it up to the next); None for what stands before the first."""
    groups: list[tuple[str | None, list[str]]] = []
    for argument in arguments:
        if argument.startswith("--") or argument in (*COUNTS, "-h"):
            flag, equals, value = argument.partition("=")
            groups.append((flag.replace("_", "-"), [value] if equals else []))
        elif groups:
            groups[-1][1].append(argument)
        else:
            groups.append((None, [argument]))
    return groups


def _named(flag: str, values: list[str], flags: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The flag of this command that is meant, and its values; the flag itself where there is none."""
    if flag in flags:
        return flag, values
    if flag in COUNTS and "--seeds" in flags:
        if len(values) != 1 or not values[0].isdecimal() or int(values[0]) < 1:
            raise UsageError(f"{flag} {' '.join(values)} is no number of samples; give --seeds 0-63 for 64 of them.")
        return "--seeds", [f"0-{int(values[0]) - 1}"]
    if flag == "--epochs" and "--training.steps" in flags:
        raise UsageError(
            "--epochs is not counted here: give --training.steps, the images times the epochs over the batch size."
        )
    return next((own for own in ALIASES.get(flag, ()) if own in flags), flag), values


def _written(flag: str, hint: Any, values: list[str]) -> list[str]:
    """A flag and its values as tyro reads them."""
    kinds = [kind for kind in _kinds(hint) if kind is not NoneType]
    if kinds == [Path] and "" in values:  # which would be the current folder
        raise UsageError(f"{flag} is empty; give a path, or . for the current folder.")
    if kinds == [bool]:
        return [_switch(flag, values)]
    if values == ["None"] and NoneType in _kinds(hint):
        return [flag, *values]
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    if len(values) == 1 and values[0] in words:  # auto, where there may be numbers too
        return [flag, *values]
    kinds = [kind for kind in kinds if get_origin(kind) is not Literal]
    if len(kinds) == 1 and get_origin(kinds[0]) is tuple and Path not in get_args(kinds[0]):  # which may have spaces
        (inner, *_), parts = (
            get_args(kinds[0]),
            [part for value in values for part in re.split(r"[,\s]+", value) if part],
        )
        return [flag, *(_number(flag, part, inner) for part in parts)]
    if len(kinds) == 1 and len(values) == 1 and kinds[0] in (int, float):
        return [flag, _number(flag, values[0], kinds[0])]
    return [flag, *values]


def _kinds(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _switch(flag: str, values: list[str]) -> str:
    """--flag or --no-flag for --flag=false and its like."""
    if not values:
        return flag
    if len(values) > 1 or values[0].lower() not in _SWITCH:
        raise UsageError(f"{flag} is {' '.join(values)!r}; give {flag} or {_off(flag)}, without a value.")
    return flag if _SWITCH[values[0].lower()] else _off(flag)


def _off(flag: str) -> str:
    stem, dot, name = flag.rpartition(".")
    return f"{stem}.no-{name}" if dot else f"--no-{flag[2:]}"


def _number(flag: str, text: str, kind: type) -> str:
    """A number as Python writes one: 1e4 is a whole number too, 28x28 is none."""
    wanted = "a whole number" if kind is int else "a number"
    if kind not in (int, float):
        return text
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"{flag} is {text!r}; give {wanted}.") from None
    if kind is float:
        return text
    if not (math.isfinite(value) and value == int(value)):
        raise UsageError(f"{flag} is {text!r}; give {wanted}.")
    try:
        return str(int(text))  # without the rounding of a float
    except ValueError:
        return str(int(value))
