"""Links at every name that a command writes: the file that one points to stays as it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks.reliability.rows import Row, refusal, untidy
from benchmarks.reliability.setting import Bench

PRECIOUS = "somebody else's"


def links(bench: Bench) -> Iterator[Row]:
    """Each name once as a symbolic link to a file, to a file that is not there and to a folder, and as a hard link."""
    row = Row(
        "a link at a name that `train`, `sample` or `grid` writes",
        "it is replaced, or the command refuses in one line; what it points to stays as it is",
        "`links`; tests/experiments/test_files.py, training/test_parts.py",
    )
    for arguments, home, names in _commands(bench):
        for name in names:
            for way in ("a link", "a link to nothing", "a link to a folder", "a hard link"):
                _one(bench, row, arguments, home, name, way)
        bench.log(f"{row.trials} links")
    yield row


def _commands(bench: Bench) -> Iterator[tuple[list[str], Path, list[str]]]:
    """(A command, the folder that it writes to, the names that are written there)."""
    run = bench.new("linked")
    save = [f"checkpoints/{kind}00000005" for kind in ("", ".saving-", ".deleting-")]
    names = ["lock", "config.json", "metrics.jsonl", "samples/step-0000020.png", *save]
    yield bench.training(run, "--training.steps", "20"), run, names
    copy = bench.new("linked")
    shutil.copytree(bench.twin, copy)
    for form, names in (
        ("png", ["000000.png"]),
        ("grid", ["samples.png"]),
        ("npz", ["samples.npz", "samples.json"]),
    ):
        outdir = bench.new("linked")
        arguments = ["sample", "--run", str(copy), "--seeds", "0-3", "--format", form, "--outdir", str(outdir)]
        yield arguments, outdir, names
    grid = ["grid", "--run", str(copy), "--sampler", "ddim", "--steps", "3"]
    command = bench.run(grid)
    if command.status != 0:
        raise RuntimeError(command.errors)
    fitted = next((copy / "grids").iterdir()).name
    yield grid, copy / "grids", [fitted]


def _one(bench: Bench, row: Row, arguments: list[str], home: Path, name: str, way: str) -> None:
    shutil.rmtree(home, ignore_errors=True)
    victim, place = bench.new("precious"), home / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if way == "a link to a folder":
        victim.mkdir()
        (victim / "precious").write_text(PRECIOUS)
    elif way != "a link to nothing":
        victim.write_text(PRECIOUS)
    os.link(victim, place) if way == "a hard link" else place.symlink_to(victim)
    command = bench.run(arguments)
    wrong = refusal(command.errors) if command.status else untidy(command.errors)
    if way == "a link to nothing":
        wrong += ["the file that was not there was made"] * victim.exists()
    elif way == "a link to a folder":
        there = sorted(path.name for path in victim.iterdir()) if victim.is_dir() else None
        wrong += [f"the folder holds {there}"] * (there != ["precious"])
    else:
        wrong += ["the file was written"] * (not victim.exists() or victim.read_text() != PRECIOUS)
    row.judge("refused" if command.status else "replaced", [f"{way} at {name}: {line}" for line in wrong])
