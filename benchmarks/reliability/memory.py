"""Peaks of resident memory: of samples by the number of seeds, and of data that are more than is allowed."""

from __future__ import annotations

import os
import shutil
import statistics
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.reliability.rows import Row
from benchmarks.reliability.setting import Bench
from experiments.errors import DataError

PROGRAM = """
import sys
from experiments import cli
status = cli.main(sys.argv[1:])
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(f"\\n{status} {peak}")
"""
BAR, REPEATS = 1.05, 3
MORE = 64 << 10
"""Kilobytes that the refusal of too large a file may take."""


def peaks(arguments: list[str]) -> tuple[int, int]:
    """(Status, kB at its peak) of a command in a process of its own."""
    # Without the cache of programs: to compile one takes memory too.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), "SCOREFIELD_COMPILATION_CACHE": "off"}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    status, peak = map(int, done.stdout.splitlines()[-1].split())
    return status, peak


def memory(bench: Bench, seeds: int) -> Iterator[Row]:
    """`sample --format png` of 64 × 64 × 3 at two numbers of seeds; then files that promise too much."""
    yield _samples(bench, seeds)
    yield _data(bench)


def _samples(bench: Bench, seeds: int) -> Row:
    few = max(2, seeds // 20)
    row = Row(
        f"`sample --format png` of 64 × 64 × 3 at {seeds:,} seeds",
        f"peak memory at most {BAR} × that at {few:,} seeds",
        "`memory`; tests/experiments/pictures/test_output.py",
    )
    data, run = bench.folder / "large.npz", bench.new("large")
    np.savez(data, images=np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), dtype=np.uint8))
    flags = ["--data", f"npz:{data}", "--no-conditional", "--training.steps", "4", "--training.sample-every", "0"]
    command = bench.run([*bench.training(run), *flags])
    if command.status != 0:
        raise RuntimeError(command.errors)
    found: dict[int, list[int]] = {few: [], seeds: []}
    for count in (few, seeds) * REPEATS:
        outdir = bench.new("large-drawn")
        draw = ["sample", "--run", str(run), "--seeds", f"0-{count - 1}", "--steps", "2", "--batch", "64"]
        status, peak = peaks([*draw, "--format", "png", "--outdir", str(outdir)])
        written = len(list(outdir.glob("*.png")))
        found[count].append(peak)
        if status != 0 or written != count:
            row.wrong.append(f"status {status}, {written} files")
        shutil.rmtree(outdir)
        bench.log(f"{count} seeds: {peak / 1024:.0f} MiB")
    low, high = (statistics.median(found[count]) for count in (few, seeds))
    row.trials = 1
    row.wrong += [f"ratio {high / low:.3f}"] if high / low > BAR else []
    spread = max(max(peaks) / min(peaks) for peaks in found.values())
    row.figure = (
        f"medians of {REPEATS}: {low / 1024:.0f} and {high / 1024:.0f} MiB, ratio {high / low:.3f}, "
        f"{1024 * (high - low) / (seeds - few):.0f} bytes a seed; the same command varies by up to {spread:.2f} ×"
    )
    return row


def _data(bench: Bench) -> Row:
    row = Row(
        "data that promise more than --data.memory-gib, or files that unpack to more than one may",
        f"refused in one line before they are read: at most {MORE >> 10} MiB more than of a file that is not there",
        "`memory`; tests/experiments/data/test_arrays.py, test_idx.py, test_pictures.py, test_zip.py",
    )
    folder, most = bench.new("promises"), 0
    train = ["train", "--preset", "mnist-edm-unet", "--outdir", str(folder / "run"), "--data"]
    least = peaks([*train, "npz:nowhere"])[1]
    for uri in promises(folder):
        status, peak = peaks([*train, uri])
        more = max(0, peak - least)
        most = max(most, more)
        wrong = [] if status == DataError.exit_status else [f"{uri}: status {status}"]
        row.judge("refused", wrong + ([f"{uri}: {more >> 10} MiB"] if more > MORE else []))
    row.figure = f"at most {most >> 10} MiB more"
    return row


def promises(folder: Path) -> Iterator[str]:
    """Small files that say of themselves that they are large."""
    folder.mkdir(parents=True)
    head = repr({"descr": "|u1", "fortran_order": False, "shape": (2**22, 64, 64, 3)}).encode() + b"\n"
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)
    yield f"npz:{folder / 'a.npz'}"
    (folder / "idx").mkdir()
    (folder / "idx" / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 2051, 2**31, 64, 64) + bytes(64))
    yield f"idx:{folder / 'idx'}"
    (folder / "pictures").mkdir()
    _wide_picture(folder / "pictures" / "a.png", 2**17)
    yield f"folder:{folder / 'pictures'}"
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.write(folder / "pictures" / "a.png", "a.png")
    yield f"zip:{folder / 'a.zip'}"


def _wide_picture(path: Path, side: int) -> None:
    """A picture whose header is large and whose pixels are not there."""
    import zlib

    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    )
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    )
