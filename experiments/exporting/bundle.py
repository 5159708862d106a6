"""A sampler as one file: a zip that is read where neither this package nor flax is.

    sampler.json            what it is: solver, grid, guidance, clipping, scaling, classes, versions, provenance
    sampler.cpu.jaxexport   the program for a platform, as `jax.export` serialises it; likewise for cuda and tpu
    arrays.safetensors      what it is called with: the weights, and the numbers of solver, schedule and guidance

Nothing is compressed, so that the arrays are read where they lie.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from diffusion.pytree import short_repr
from experiments.errors import CheckpointError, UsageError, reason
from experiments.exporting.program import Program, require_flatbuffers
from experiments.files import replacing
from experiments.importing.arrays import check_arrays
from experiments.importing.safetensors import SafeTensors, open_safetensors, shown
from experiments.importing.safetensors_writer import write_safetensors
from experiments.names import listed

ABOUT, PROGRAM, ARRAYS = "sampler.json", "sampler.{}.jaxexport", "arrays.safetensors"
FORMAT, VERSION = "scorefield-sampler", 1
"""What `sampler.json` calls itself, and the version of what is in it."""
WEIGHTS = ("params.", "weak.")
"""How the names of weights begin; the others are the numbers of solver, schedule and guidance."""
AGAIN = "export it again"
_HEAD = struct.Struct("<4s22xHH")
_CHUNK = 2**22


@dataclass(frozen=True, eq=False)
class Bundle:
    """A file that has been read, and that this machine can run."""

    path: Path
    about: Mapping[str, Any]
    exported: export.Exported
    arrays: Mapping[str, np.ndarray]

    __repr__ = short_repr

    @property
    def batch(self) -> int | None:
        """How many samples the program draws at a time, None where it takes any number."""
        size = _arguments(self.exported)[1].shape[0]
        return size if isinstance(size, int) else None

    @property
    def takes_classes(self) -> bool:
        """Whether the program is told classes."""
        return len(_arguments(self.exported)) > 2


def require_new_file(path: Path, flag: str = "--out") -> None:
    """Raise UsageError where there is something already."""
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} is there already; give another {flag}, or remove it.")


def write_bundle(path: Path, program: Program, about: Mapping[str, Any]) -> None:
    """Write the file, whole or not at all. Raises UsageError where it is there already, or the disk refuses."""
    require_new_file(path)
    said = {"format": FORMAT, "format_version": VERSION, **about}
    with replacing(path) as scratch, zipfile.ZipFile(scratch, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(ABOUT), json.dumps(said, indent=2) + "\n")
        for platform, exported in program.exported.items():
            archive.writestr(zipfile.ZipInfo(PROGRAM.format(platform)), bytes(exported.serialize()))
        with archive.open(zipfile.ZipInfo(ARRAYS), "w", force_zip64=True) as member:
            write_safetensors(member, program.arrays, {})


def open_bundle(path: Path) -> Bundle:
    """The file at `path`, checked to its last byte.

    Raises CheckpointError for what is no such file, is damaged, lacks a part, or has arrays that are not those of its
    program, by name, shape and type; and for a program that this version of jax, or this platform, cannot run.
    """
    require_flatbuffers()
    infos = _members(path)
    about = _about(path, infos)
    _check_jax(path, about)
    exported = _program(path, about, infos)
    head = infos[ARRAYS]
    file = open_safetensors(path, _place(path, head), head.file_size)
    wanted = _arguments(exported)[0]
    check_arrays([file], {name: tuple(aval.shape) for name, aval in wanted.items()})
    return Bundle(path, about, exported, {name: _read(file, name, aval) for name, aval in wanted.items()})


def _arguments(exported: export.Exported) -> Any:
    """The types and shapes of what the program is called with, in the order of its arguments."""
    return jax.tree.unflatten(exported.in_tree, exported.in_avals)[0]


def _read(file: SafeTensors, name: str, aval: Any) -> np.ndarray:
    # A solver's limits may be infinite, and weights may not.
    return file.read(name, finite=name.startswith(WEIGHTS)).astype(aval.dtype, copy=False)


def _members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The parts of the file, all of whose checksums are right."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = {info.filename: info for info in archive.infolist()}
            for name in (ABOUT, ARRAYS):
                if name not in infos:
                    raise CheckpointError(f"{path} lacks {name}, and is no exported sampler, or not all of one.")
            for name in infos:
                if infos[name].compress_type != zipfile.ZIP_STORED:
                    raise CheckpointError(f"{path} has {name} compressed; leave it as it was written, or {AGAIN}.")
                with archive.open(name) as member:
                    while member.read(_CHUNK):
                        pass
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({reason(error)}); give a file that `scorefield export` wrote."
        ) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no zip file, or is damaged ({reason(error)}); copy it anew, or {AGAIN}."
        ) from None
    return infos


def _bytes(path: Path, name: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


def _place(path: Path, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a part begin in the file."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        _, name, extra = _HEAD.unpack(file.read(_HEAD.size))
    return info.header_offset + _HEAD.size + name + extra


def _about(path: Path, infos: Mapping[str, zipfile.ZipInfo]) -> dict[str, Any]:
    """What `sampler.json` says, of the types that are relied on."""
    try:
        said = json.loads(_bytes(path, ABOUT))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its {ABOUT} is not valid JSON ({reason(error)}); {AGAIN}.") from None
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: its {ABOUT} is not that of an exported sampler; give one that scorefield wrote."
        )
    if said.get("format_version") != VERSION:
        raise CheckpointError(
            f"{path} is of version {shown(said.get('format_version'))} of the format, and {VERSION} is known here; "
            f"{AGAIN} by this version, or take the one that wrote it."
        )
    return said


def _check_jax(path: Path, about: Mapping[str, Any]) -> None:
    """Raise CheckpointError where this jax does not know the way in which the program is called."""
    told = about.get("jax")
    told = told if isinstance(told, dict) else {}
    version, convention = told.get("version"), told.get("calling_convention")
    if not (isinstance(version, str) and isinstance(convention, int)):
        raise CheckpointError(f"{path}: its {ABOUT} does not say which jax can call it; {AGAIN}.")
    low = export.minimum_supported_calling_convention_version
    high = export.maximum_supported_calling_convention_version
    if not low <= convention <= high:
        age = "old" if convention > high else "new"
        raise CheckpointError(
            f"{path} was written by jax {version} with calling convention {convention}, and jax {jax.__version__} is "
            f"too {age} for it: it knows {low} to {high}; take a jax nearer to {version}, or {AGAIN}."
        )


def _program(path: Path, about: Mapping[str, Any], infos: Mapping[str, Any]) -> export.Exported:
    """The program. Raises CheckpointError where this jax cannot read it, or there is none for this platform."""
    written, here = about["jax"]["version"], export.default_export_platform()
    if PROGRAM.format(here) not in infos:
        begin, end = PROGRAM.split("{}")
        known = [name[len(begin) : -len(end)] for name in infos if name.startswith(begin) and name.endswith(end)]
        raise CheckpointError(
            f"{path} is for {listed(known) if known else 'no platform'}, and this is {here}; {AGAIN} with --platforms "
            f"{here}."
        )
    try:
        exported = export.deserialize(bytearray(_bytes(path, PROGRAM.format(here))))
        exported.mlir_module()
        arrays, seeds, *_ = _arguments(exported)
        if not isinstance(arrays, dict) or len(seeds.shape) != 1:
            raise ValueError("it takes other arguments than arrays by name and seeds")
    except Exception as error:  # jax's serialisation has no exceptions of its own
        raise CheckpointError(
            f"{path}: its program, which jax {written} wrote, cannot be read by jax {jax.__version__} "
            f"({reason(error)}); take a jax nearer to {written}, or {AGAIN}."
        ) from None
    return exported
