"""A file system that is too small from the beginning, or fills up while a command is at work."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.reliability.rows import Row, refusal, untidy
from benchmarks.reliability.setting import Bench, halves, leftovers

SIZE = 16 << 20
SUITE = "tests/experiments/training/test_room.py, pictures/test_output.py"


@contextlib.contextmanager
def small(folder: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes in memory. Raises PermissionError where none can be mounted."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode:
        raise PermissionError(done.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def disk(bench: Bench, count: int) -> Iterator[Row]:
    """Trainings and samples on small file systems."""
    try:
        with small(bench.new("disk"), 1 << 20):
            pass
    except (PermissionError, FileNotFoundError) as error:
        yield Row("a full disk", "", f"`disk`; {SUITE}", figure=f"not run: {error}")
        return
    yield _at_the_start(bench, count)
    yield _while_training(bench, count)
    yield _while_sampling(bench, count)


def _fill(folder: Path, left: int = 0) -> Path:
    """Another file that takes all the room but `left` bytes."""
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 65536):
            pass
    if left:
        os.truncate(ballast, max(0, ballast.stat().st_size - left))
    return ballast


def _at_the_start(bench: Bench, count: int) -> Row:
    row = Row(
        "a file system too small for the checkpoints of a training",
        "refused in one line before the first step, with what is free and what is needed; with room the command works",
        f"`disk`; {SUITE}",
    )
    rng = bench.rng("disk at the start")
    for _ in range(count):
        with small(bench.new("disk"), SIZE) as folder:
            ballast = _fill(folder, rng.randrange(0, 400_000))
            command = bench.run(bench.training(folder / "run"))
            wrong = refusal(command.errors) if command.status in (2, 4) else [f"status {command.status}"]
            ballast.unlink()
            row.judge("refused", wrong + halves(folder / "run") + bench.goes_on(folder / "run"))
    bench.log(f"{row.trials} disks that were full")
    return row


def _while_training(bench: Bench, count: int) -> Row:
    row = Row(
        "a file system that another program fills up during a training",
        "one line with the reason; the checkpoints there are whole; with room the command goes on, bit-identical",
        f"`disk`; {SUITE}",
    )
    rng = bench.rng("disk in a training")
    for _ in range(count):
        with small(bench.new("disk"), SIZE) as folder:
            outdir = folder / "run"
            command = bench.start(bench.training(outdir))
            command.until(command.stepped)
            time.sleep(rng.random() * bench.loop_seconds * 0.6)
            ballast = _fill(folder, rng.choice([0, 0, 50_000, 200_000]))
            status = command.wait()
            wrong = refusal(command.errors) if status in (2, 4) else untidy(command.errors)
            if status not in (0, 2, 4):
                wrong.append(f"status {status}: {command.errors[-200:]}")
            ballast.unlink()
            # Lines of metrics that found no room are missing, which a line on standard error has said.
            metrics = "metrics.jsonl lacks" not in command.errors
            row.judge(
                "refused" if status else "ended before", wrong + halves(outdir) + bench.goes_on(outdir, metrics=metrics)
            )
    bench.log(f"{row.trials} disks that filled up")
    return row


def _while_sampling(bench: Bench, count: int) -> Row:
    row = Row(
        "a file system too small for samples",
        "one line with the reason and no half of a file; with room the same command draws what is missing",
        f"`disk`; {SUITE}",
    )
    rng = bench.rng("disk of samples")
    draw = ["sample", "--run", str(bench.twin), "--seeds", "0-399", "--batch", "8"]
    for trial in range(count):
        form, whole = ("png", "npz", "grid")[trial % 3], bench.new("drawn")
        with small(bench.new("disk"), SIZE) as folder:
            outdir = folder / "drawn"
            ballast = _fill(folder, rng.randrange(0, 4096 * (300 if form == "png" else 10)))
            command = bench.run([*draw, "--format", form, "--outdir", str(outdir)])
            wrong = refusal(command.errors) if command.status else untidy(command.errors)
            wrong += leftovers(folder)
            ballast.unlink()
            for place in (outdir, whole):
                again = bench.run([*draw, "--format", form, "--outdir", str(place)])
                wrong += [f"status {again.status}: {again.errors[-200:]}"] if again.status else []
            names = sorted(path.name for path in whole.iterdir())
            pictures = [name for name in names if name.endswith(".png") or name.endswith(".npz")]
            if sorted(path.name for path in outdir.iterdir()) != names:
                wrong.append("other files")
            elif form == "png" and any((outdir / n).read_bytes() != (whole / n).read_bytes() for n in pictures):
                wrong.append("other pictures")
            row.judge("refused" if command.status else "had room", wrong)
        shutil.rmtree(whole)
    bench.log(f"{row.trials} disks of samples")
    return row
