"""Images a second into batches: from prepared records, from the folder that they were made from, and by torchvision.

    python -m benchmarks.data --json data.json

The pictures are JPEGs of 256×256 in ten folders: crops of scikit-learn's two photographs, of random place and size,
mirrored by chance, at quality 90. All make shuffled batches of 64 uint8 images of 64×64×3 by Lanczos's filter with
antialiasing: scorefield through its own pipeline, read ahead by threads of grain as a training does; torchvision by
ImageFolder and DataLoader, with the number of workers among 0, 1, 2 and 4 that is fastest. Rounds are interleaved, the
first batches of each are not counted, and all files are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data import DataConfig, open_source, pipeline
from experiments.data.pipeline import read_ahead
from experiments.data.prepare import prepare

BATCH, SIZE, SIDE, CLASSES = 64, 64, 256, 10
WARM_UP = 8
"""Batches before the clock starts."""
WORKERS = (0, 1, 2, 4)
TARGETS = (
    ("records", 10_000.0, "images/s from records"),
    ("records / torchvision", 4.0, "times torchvision on the folder"),
    ("folder / torchvision", 1.0, "times torchvision, both from the folder"),
)

Batches = Callable[[], Iterator[int]]
"""Starts anew; yields the number of images of each batch."""


def make_pictures(folder: Path, count: int, seed: int = 0) -> None:
    """`count` JPEGs in `CLASSES` sub-folders."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    draws = np.random.default_rng(seed)
    for i in range(count):
        photograph = photographs[i % len(photographs)]
        side = int(draws.integers(128, 1 + min(photograph.size)))
        left, top = (int(draws.integers(length - side + 1)) for length in photograph.size)
        box = (left, top, left + side, top + side)
        picture = photograph.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box)
        if draws.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        place = folder / f"class{i % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        picture.save(place / f"{i:06}.jpg", quality=90)


def ours(uri: str, ahead: bool = True) -> Batches:
    """Scorefield's batches; `ahead` by threads, as a training reads lazy sources, or one after the other."""
    batches = pipeline(open_source(uri, size=SIZE, channels=3, loading="lazy"), seed=0, batch_size=BATCH)

    def start() -> Iterator[int]:
        if not ahead:
            step = 0
            while True:
                yield len(batches[step]["image"])
                step += 1
        with read_ahead(batches, 0) as steps:
            for batch in steps:
                assert batch["image"].shape == (BATCH, SIZE, SIZE, 3)
                yield len(batch["image"])

    return start


def torchvisions(folder: Path, workers: int) -> Batches:
    """Those of ImageFolder and DataLoader."""
    torch, vision, data = map(import_module, ("torch", "torchvision", "torch.utils.data"))
    changes = vision.transforms
    torch.set_num_threads(os.cpu_count() or 1)
    shrink = changes.Resize(SIZE, interpolation=changes.InterpolationMode.LANCZOS, antialias=True)
    loader = data.DataLoader(
        vision.datasets.ImageFolder(str(folder), changes.Compose([shrink, changes.PILToTensor()])),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="forkserver" if workers else None,  # a fork of our threads does not come back
        generator=torch.Generator().manual_seed(0),
    )

    def start() -> Iterator[int]:
        while True:
            for images, _ in loader:
                assert tuple(images.shape) == (BATCH, 3, SIZE, SIZE)
                yield len(images)

    return start


def speed(start: Batches, seconds: float) -> float:
    """Images a second, over some seconds after `WARM_UP` batches."""
    batches = start()
    for _ in range(WARM_UP):
        next(batches)
    images, begun = 0, time.perf_counter()
    while (gone := time.perf_counter() - begun) < seconds:
        images += next(batches)
    closing: Any = batches
    closing.close()
    return images / gone


def measure(competitors: dict[str, Batches], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Images a second of each in each round; every other round goes through them backwards."""
    found: dict[str, list[float]] = {name: [] for name in competitors}
    for k in range(rounds):
        for name in list(competitors)[:: 1 if k % 2 == 0 else -1]:
            found[name].append(speed(competitors[name], seconds))
    return found


def competition(folder: Path, records: Path, with_torchvision: bool) -> dict[str, Batches]:
    """All that are compared."""
    competitors = {
        "records": ours(f"records:{records}"),
        "records, one thread": ours(f"records:{records}", ahead=False),
        "folder": ours(f"folder:{folder}"),
    }
    if with_torchvision:
        competitors |= {f"torchvision, {workers} workers": torchvisions(folder, workers) for workers in WORKERS}
    return competitors


def summed_up(found: dict[str, list[float]]) -> dict[str, float]:
    """Medians, the fastest of torchvision's, and the ratios that there are bars for."""
    medians = {name: statistics.median(speeds) for name, speeds in found.items()}
    theirs = [speed for name, speed in medians.items() if name.startswith("torchvision")]
    if theirs:
        medians["torchvision"] = max(theirs)
        for name in ("records", "folder"):
            medians[f"{name} / torchvision"] = medians[name] / medians["torchvision"]
    return medians


def table(found: dict[str, list[float]]) -> str:
    """The result in Markdown."""
    lines = ["| | images/s, median | least | most |", "|---|---:|---:|---:|"]
    medians = summed_up(found)
    for name, speeds in found.items():
        lines.append(f"| {name} | {medians[name]:,.0f} | {min(speeds):,.0f} | {max(speeds):,.0f} |")
    lines.append("")
    for name, bar, what in TARGETS:
        if name in medians:
            met = "met" if medians[name] >= bar else "not met"
            lines.append(f"- {medians[name]:,.2f} {what}; the bar is {bar:,g}: {met}")
    return "\n".join(lines)


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=4000, help="pictures in the folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each in each round")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    arguments = parser.parse_args()
    with_torchvision = find_spec("torchvision") is not None
    if not with_torchvision:
        print("without torchvision, which is not installed: pip install '.[bench]'", file=sys.stderr)
    with tempfile.TemporaryDirectory() as place:
        folder, records = Path(place) / "photos", Path(place) / "photos.records"
        make_pictures(folder, arguments.images)
        config = DataConfig(source=f"folder:{folder}", size=SIZE, channels=3, loading="lazy")
        begun = time.perf_counter()
        source = open_source(config)
        opened = time.perf_counter()
        prepare(source, config, records)
        prepared = time.perf_counter()
        times = {"first reading, images/s": arguments.images / (opened - begun)}
        times["prepare, images/s"] = arguments.images / (prepared - opened)
        competitors = competition(folder, records, with_torchvision)
        found = measure(competitors, arguments.rounds, arguments.seconds)
        size = records.stat().st_size / arguments.images
    print(table(found))
    print(f"- {size:,.0f} bytes a record; " + "; ".join(f"{name}: {value:,.0f}" for name, value in times.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps({"speeds": found, "summary": summed_up(found), **times}, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
