"""The memory of a training by the number of its images, and how soon a folder gives its first batch.

    python benchmarks/data_memory.py [--kinds KIND ...] [--counts N ...] [--folder-of 50000] [--work DIR] [--first]

The pictures are JPEGs of 64 × 64 × 3 in a temporary folder: a thousand different ones under as many names as there are
images, by hard links; `--work` keeps them and the index. `scorefield train --network mlp --data.loading lazy` trains on
them, and the proportional set size of its process and all below it is added up four times a second: it counts a page
that several share once. The peak and the median of the second half are shown, of a training that finds the index, and
with `--first` of the one before, which makes it. Without, it is made by reading each of the thousand pictures once.

Then, in one process: a folder of 50,000 such files is opened without and with its index, and asked for a batch of 128.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile

import numpy as np

SIDE, DIFFERENT, BATCH, STEPS, EVERY = 64, 1000, 128, 150, 0.25
BAR, FIRST_BATCH = 1.05, 5.0
TRAIN = "from experiments import cli; import sys; sys.exit(cli.main(sys.argv[1:]))"
OPEN = """
import sys, time, json
import grain
from PIL import Image, JpegImagePlugin, PngImagePlugin
from experiments.data import divided, pipeline, DataConfig
from experiments.data.pipeline import read_ahead
begun = time.perf_counter()
source, _ = divided(DataConfig(source=sys.argv[1], loading="lazy"))
opened = time.perf_counter() - begun
with read_ahead(pipeline(source, seed=0, batch_size=int(sys.argv[2])), 0) as batches:
    next(batches)
    first = time.perf_counter() - begun
    for _ in range(40):
        next(batches)
    print(json.dumps([opened, first, 40 * int(sys.argv[2]) / (time.perf_counter() - begun - first)]))
"""


INDEX = """
import sys
from experiments.data import index, open_source
examine, known = index._examined, {}
def examined(files, i, config):
    number = int(files.names()[i][-10:-4]) % int(sys.argv[2])
    if number not in known:
        known[number] = examine(files, i, config)
    return known[number]
index._examined = examined
open_source(sys.argv[1], loading="lazy")
"""


def different(folder: pathlib.Path) -> list[pathlib.Path]:
    """`DIFFERENT` JPEGs of smooth noise."""
    from PIL import Image

    folder.mkdir(parents=True)
    rng, paths = np.random.default_rng(0), []
    for i in range(DIFFERENT):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        paths.append(folder / f"{i}.jpg")
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def pictures(kind: str, folder: pathlib.Path, count: int) -> str:
    """The URI of so many pictures of ten classes, in a new folder or a zip."""
    root, path = folder / f"{count}", folder / f"{count}.zip"
    there = path if kind == "zip" else root
    if there.exists():
        return f"{kind}:{there}"
    originals = different(folder / f"originals-{kind}-{count}")
    names = [f"class{i % 10}/picture-{i:06}.jpg" for i in range(count)]
    if kind == "zip":
        contents = [original.read_bytes() for original in originals]
        with zipfile.ZipFile(path, "w") as archive:
            for i, name in enumerate(names):
                archive.writestr(name, contents[i % DIFFERENT])
        return f"zip:{path}"
    for i in range(10):
        (root / f"class{i}").mkdir(parents=True)
    for i, name in enumerate(names):
        os.link(originals[i % DIFFERENT], root / name)
    return f"folder:{root}"


def processes(first: int) -> list[int]:
    """A process and all below it."""
    found, parents = [first], {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                status = pathlib.Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            parents.setdefault(int(status.rpartition(")")[2].split()[1]), []).append(int(entry))
    for process in found:
        found += parents.get(process, [])
    return found


def proportional(process: int) -> float:
    """The proportional set size of a process in MiB; 0 of one that is gone."""
    try:
        lines = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def sizes_of_training(uri: str, outdir: pathlib.Path, cache: pathlib.Path) -> tuple[float, float, float]:
    """(The peak, the median of the second half, in MiB; the seconds) of a short training."""
    options = {"steps": STEPS, "batch-size": BATCH, "log-every": 50, "validate-every": STEPS, "sample-every": 0}
    options["checkpoint-every"] = STEPS
    given = [word for name, value in options.items() for word in (f"--training.{name}", str(value))]
    command = ["train", "--network", "mlp", "--data", uri, "--data.loading", "lazy", "--outdir", str(outdir), *given]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    begun, seen = time.monotonic(), []
    child = subprocess.Popen([sys.executable, "-c", TRAIN, *command], env=environment, stderr=subprocess.PIPE)
    while child.poll() is None:
        seen.append(sum(map(proportional, processes(child.pid))))
        time.sleep(EVERY)
    assert child.stderr is not None
    said = child.stderr.read().decode()
    if child.returncode:
        sys.exit(said)
    return max(seen), statistics.median(seen[len(seen) // 2 :]), time.monotonic() - begun


def memory(kinds: list[str], counts: list[int], work: pathlib.Path, first: bool) -> None:
    """Print the table of memory."""
    print(f"{'source':8}{'images':>9}{'index':>8}{'peak':>9}{'later':>9}{'seconds':>9}   MiB of proportional set size")
    for kind in kinds:
        peaks: dict[str, list[float]] = {"made": [], "there": []} if first else {"there": []}
        for count in counts:
            uri = pictures(kind, work, count)
            if not first:
                environment = {**os.environ, "XDG_CACHE_HOME": str(work / "cache")}
                subprocess.run([sys.executable, "-c", INDEX, uri, str(DIFFERENT)], env=environment, check=True)
            for index in peaks:
                with tempfile.TemporaryDirectory() as outdir:
                    peak, later, seconds = sizes_of_training(uri, pathlib.Path(outdir) / "run", work / "cache")
                peaks[index].append(peak)
                print(f"{kind:8}{count:>9,}{index:>8}{peak:>9.0f}{later:>9.0f}{seconds:>9.0f}", flush=True)
        for index, found in peaks.items():
            ratio = found[-1] / found[0]
            print(f"{kind}, index {index}: {ratio:.3f} (at most {BAR})", flush=True)


def first_batch(count: int, work: pathlib.Path) -> None:
    """Print how long a folder takes to open and to give a batch."""
    uri = pictures("folder", work, count)
    environment = {**os.environ, "XDG_CACHE_HOME": str(work / "cache")}
    for index in ("made", "there", "there"):
        command = [sys.executable, "-c", OPEN, uri, str(BATCH)]
        told = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        opened, first, rate = (float(number) for number in told.strip("[]\n").split(","))
        bar = f" (at most {FIRST_BATCH:.0f})" if index == "there" else ""
        print(
            f"{count:,} files, index {index}: opened in {opened:.2f} s, first batch of {BATCH} after {first:.2f} s"
            f"{bar}, then {rate:,.0f} images/s",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Memory of lazy sources.")
    parser.add_argument("--kinds", nargs="*", default=["folder", "zip"], choices=["folder", "zip"])
    parser.add_argument("--counts", nargs="*", type=int, default=[20_000, 200_000])
    parser.add_argument("--folder-of", type=int, default=50_000)
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--first", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = given.work or pathlib.Path(name)
        if given.folder_of:
            first_batch(given.folder_of, work)
        if given.counts and given.kinds:
            memory(given.kinds, given.counts, work, given.first)


if __name__ == "__main__":
    main()
