"""Mutated files of every format that is read, by the thousand, each within limits of time and memory."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.reliability import mutators
from benchmarks.reliability.rows import Row, untidy
from benchmarks.reliability.setting import Bench
from benchmarks.reliability.workers import supervise
from experiments.data import open_source
from experiments.errors import LIMIT, ScorefieldError

SECONDS = 20
"""What a file may take; it takes milliseconds, but other processes may be at work."""
MEMORY = 2**30
"""Bytes that a process may hold beyond what it held before the first file."""
SUITE = "tests/experiments/test_damage.py"


def one(kind: str, folder: Path, seed: int) -> str:
    """What becomes of one file: `read`, `refused`, or what is wrong with the answer."""
    rng = random.Random(f"{kind} {seed}")
    try:
        _READERS[kind](folder, rng)
    except ScorefieldError as error:
        text = str(error)
        return "refused" if len(text) <= LIMIT and text.isprintable() else f"no short line: {text[:80]}"
    except Exception as error:
        return f"a traceback: {type(error).__name__}: {str(error)[:120]}"
    return "read"


def _data(folder: Path, name: str, scheme: str, whole: bytes) -> None:
    path = folder / name
    path.write_bytes(whole)
    source = open_source(f"{scheme}:{folder if scheme == 'folder' else path}")
    assert source.images.dtype == "uint8"
    assert source.images.ndim == 4


def _png(folder: Path, rng: random.Random) -> None:
    _data(folder, "a.png", "folder", mutators.png(rng))


def _jpeg(folder: Path, rng: random.Random) -> None:
    _data(folder, "a.jpg", "folder", mutators.jpeg(rng))


def _zip(folder: Path, rng: random.Random) -> None:
    _data(folder, "a.zip", "zip", mutators.with_header(mutators.archive(rng), rng))


def _npz(folder: Path, rng: random.Random) -> None:
    _data(folder, "a.npz", "npz", mutators.with_header(mutators.npz(rng), rng))


def _idx(folder: Path, rng: random.Random) -> None:
    images, labels = mutators.idx(rng)
    (folder / "train-images-idx3-ubyte").write_bytes(images)
    (folder / "train-labels-idx1-ubyte").write_bytes(labels)
    open_source(f"idx:{folder}")


def _checkpoint(folder: Path, rng: random.Random) -> None:
    """A checkpoint of which a file is changed, with a manifest of what is there now."""
    from experiments.runs.load import load_model
    from experiments.training import manifest

    place = folder / "00000060"
    files = sorted(path for path in place.rglob("*") if path.is_file() and path.name != manifest.NAME)
    path = rng.choice([*files, *(place / "config.json", place / "checkpoint.json") * (len(files) // 2)])
    good = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.8:
        path.write_text(json.dumps(mutators.values(json.loads(good), rng)))
    else:
        path.write_bytes(mutators.changed(good, rng))
    lines = [f"{manifest._digest(file)}  {file.relative_to(place)}\n" for file in files]
    try:
        (place / manifest.NAME).write_text("".join(lines))
        load_model(place)
    finally:
        path.write_bytes(good)


_READERS: dict[str, Callable[[Path, random.Random], None]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "zip": _zip,
    "npz": _npz,
    "IDX": _idx,
    "checkpoint": _checkpoint,
}
KINDS = tuple(_READERS)


def formats(bench: Bench, count: int) -> Iterator[Row]:
    """`count` mutated files of each kind."""
    for kind in KINDS:
        folder = bench.new(kind)
        folder.mkdir()
        if kind == "checkpoint":
            shutil.copytree(bench.twin / "checkpoints" / "00000060", folder / "00000060")
        sums = {"JPEG": "the lengths of its segments are", "IDX": "the CRC of its gzip is"}.get(
            kind, "every checksum is"
        )
        row = Row(
            f"a mutated {kind} {'' if kind == 'checkpoint' else 'file '}of which {sums} valid",
            f"read, or refused in one line, within {SECONDS} s and {MEMORY >> 30} GiB",
            f"`formats`; {SUITE}",
        )
        errors = folder.with_name(f"{folder.name}.errors")
        supervise(_work, (kind, folder, errors, bench.seed * 10**6), count, SECONDS, row)
        row.wrong += untidy(errors.read_text(errors="replace"))
        bench.log(f"{row.trials} {kind} files")
        yield row


def _work(kind: str, folder: Path, errors: Path, seed: int, first: int, count: int, answers: Connection) -> None:
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    warm = 2**32 if kind == "checkpoint" else 0  # Orbax's threads take addresses, not memory
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY + warm, held + MEMORY + warm))
    for number in range(first, count):
        fate = one(kind, folder, seed + number)
        answers.send((fate, []) if fate in ("read", "refused") else ("", [fate]))
