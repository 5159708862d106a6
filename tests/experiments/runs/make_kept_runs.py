"""Trains the runs of `kept/` and notes what came of them, with the `scorefield` of an environment of its own.

    git clone . base && cd base && git checkout c00b30f && make test-core  # for its environment
    python tests/experiments/runs/make_kept_runs.py base/.venv/bin

What is there is made anew, and is then no longer what c00b30f gave unless that is the commit of the environment. So
this is not run again when a test fails: it says how the runs were made, and makes those of a kind that comes later.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

KEPT = Path(__file__).parent / "kept"
MIDDLE, END = 6, 12
CLASSES = ("0", "1", "10", "11", "2")
"""Folders of pictures in the order of c00b30f, which is that of strings: class 2 is the folder 10."""

FOLDER = ("--data", "folder:pictures", "--data.held-out", "0.25", "--data.seed", "3")
BATCHES = (
    *("--training.batch-size", "8", "--training.steps", f"{END}", "--training.log-every", "3"),
    *("--training.validate-every", f"{MIDDLE}", "--training.checkpoint-every", f"{MIDDLE}"),
    *("--optimizer.learning-rate", "0.02", "--optimizer.warmup-steps", "2"),
)
MLP = ("--network", "mlp", "--network.hidden", "8", "--network.layers", "1", "--network.embedding", "4")
SAMPLE = ("--seeds", "0-3", "--batch", "4", "--format", "npz")
EVALUATE = ("--samples", "16", "--batch", "16")
ELBO = (*EVALUATE, "--elbo-images", "6", "--elbo-draws", "2")
STRANGE = ("--noised", "2")

RUNS: dict[str, dict[str, tuple[str, ...]]] = {
    "conditional": {  # two averages, dropout, mirrored images, a U-Net with attention
        "train": (
            *("--preset", "digits-ddpm", *FOLDER, "--data.flip", "--schedule", "edm", "--conditional", *BATCHES),
            *("--network.channels", "4", "--network.multipliers", "1", "--network.attention-resolutions", "8"),
            *("--network.head-channels", "4", "--network.dropout", "0.1", "--label-dropout", "0.2"),
            *("--ema.decays", "0.5", "0.9", "--sampling.sampler", "heun", "--sampling.steps", "4"),
        ),
        "sample 2": (*SAMPLE, "--class", "2", "--guidance", "2"),
        "sample 4": (*SAMPLE, "--class", "4", "--ema", "1"),
        "evaluate": ELBO,
    },
    "chain": {
        "train": (
            *("--preset", "digits-ddpm", *FOLDER, *BATCHES, *MLP, "--schedule.steps", "20"),
            *("--learned-variance", "--preconditioning.kind", "eps", "--ema.decays", "0.5", "--sampling.steps", "4"),
        ),
        "sample": SAMPLE,
        "evaluate": ELBO,
    },
    "pfgmpp": {  # a transformer
        "train": (
            *("--preset", "digits-pfgmpp", *BATCHES, "--network", "dit", "--network.patch", "4"),
            *("--network.width", "8", "--network.depth", "1", "--network.heads", "2", "--network.mlp-ratio", "1"),
            *("--ema.decays", "0.5", "--sampling.steps", "4"),
        ),
        "sample": SAMPLE,
        "evaluate": (*EVALUATE, "--no-bits-per-dim"),
    },
    "energy": {
        "train": (
            *("--preset", "digits-mdsm", *FOLDER, *BATCHES, *MLP, "--ema.decays", "0.5", "--sampling.steps", "4"),
        ),
        "sample": SAMPLE,
        "sample mala": (*SAMPLE, "--kernel", "mala", "--steps", "4", "--hold", "2"),
        "evaluate": (*EVALUATE, "--no-bits-per-dim"),
        "anomaly": STRANGE,
    },
    "generator": {
        "train": (
            *("--preset", "digits-dde", *FOLDER, *BATCHES, *MLP, "--ema.decays", "0.5"),
            *("--objective.learning-rate", "0.02"),
        ),
        "sample": SAMPLE,
        "evaluate": (*EVALUATE, "--no-bits-per-dim"),
        "anomaly": STRANGE,
    },
    "points": {  # the times learned while training
        "train": (
            *("--preset", "toy-gaussians", *BATCHES, *MLP, "--times", "importance", "--times.bins", "4"),
            *("--ema.decays", "0.5", "--sampling.steps", "4", "--weighting", "uniform"),
        ),
        "sample": SAMPLE,
        "evaluate": EVALUATE,
    },
}
"""Of each run, what its commands are told besides --run, --outdir and --json; a second word tells two apart."""

READ = """
import json, sys
import jax, numpy as np
from pathlib import Path
from experiments.config_file import load_config
from experiments.data import open_source, split
from experiments.training.checkpoint import load

run, steps, out = Path(sys.argv[1]), sys.argv[2:-1], Path(sys.argv[-1])
config = load_config(run / "config.json").data
training, held_out = split(open_source(config), config.held_out, config.seed)
arrays = {}
for step in steps:
    tree, digest = load(run / "checkpoints" / step)
    for path, leaf in jax.tree_util.tree_leaves_with_path({name: tree[name] for name in ("params", "ema")}):
        arrays[jax.tree_util.keystr(path)] = np.asarray(leaf)
np.savez_compressed(out, **arrays)

def part(source):
    labels = None if source.labels is None or len(source) > 400 else source.labels.tolist()
    return {"images": len(source), "fingerprint": source.fingerprint, "labels": labels}

print(json.dumps({"class_names": training.class_names, "training": part(training), "held_out": part(held_out)}))
"""


def draw_pictures(folder: Path) -> None:
    """Bars of five slants, 12 grey pictures of 8×8 pixels of each, in folders that are named like numbers."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:8, :8] - 3.5
    for i, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for n in range(12):
            slant = np.pi * i / len(CLASSES)
            distance = x * np.cos(slant) + y * np.sin(slant) - rng.normal(0, 0.7)
            bar = rng.uniform(150, 255) * np.exp(-(distance**2) / 2) + rng.integers(0, 12, (8, 8))
            Image.fromarray(bar.clip(0, 255).astype(np.uint8)).save(folder / name / f"{n:02}.png")


def make(name: str, programs: Path, folder: Path) -> None:
    """Train the run `name` in `folder`, beside the pictures, and keep it as it was in the middle, with what it gave."""

    def told(*command: str) -> dict[str, Any]:
        print("scorefield", *command, flush=True)
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": ""}
        done = subprocess.run(
            [programs / "scorefield", *command, "--json"],
            cwd=folder,
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return json.loads(done.stdout)

    commands = RUNS[name]
    ends: dict[str, Any] = {"train": told("train", *commands["train"], "--outdir", name)}
    del ends["train"]["checkpoint"]  # a path of this machine
    reading = [programs / "python", "-c", READ, name, f"{END:08}", f"{name}-end.npz"]
    split = json.loads(subprocess.run(reading, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout)
    interrupt(folder / name)
    arrays = {}
    for which in list(commands)[1:]:
        command = which.partition(" ")[0]
        place = ("--cache", "cache") if command == "evaluate" and name != "points" else ()
        place = ("--outdir", which) if command in ("sample", "anomaly") else place
        ends[which] = told(command, "--run", name, *commands[which], *place)
        for file in (folder / which).glob("*.npz"):
            arrays |= {f"{which}/{part}": array for part, array in np.load(file).items()}
    arrays |= {f"train/{part}": array for part, array in np.load(folder / f"{name}-end.npz").items()}
    shutil.rmtree(KEPT / name, ignore_errors=True)
    shutil.copytree(folder / name, KEPT / name)
    (KEPT / "expected").mkdir(exist_ok=True)
    np.savez_compressed(KEPT / "expected" / f"{name}.npz", **arrays)
    expected = {"commands": commands, "split": split, "printed": ends}
    (KEPT / "expected" / f"{name}.json").write_text(json.dumps(expected, indent=1) + "\n")


def interrupt(run: Path) -> None:
    """Leave of a run what it was in the middle."""
    shutil.rmtree(run / "checkpoints" / f"{END:08}")
    (run / "lock").unlink()
    metrics = run / "metrics.jsonl"
    lines = [line for line in metrics.read_text().splitlines() if json.loads(line)["step"] <= MIDDLE]
    metrics.write_text("\n".join(lines) + "\n")


def main() -> None:
    """The command line: the folder of the environment's programs, and the names of the runs, all unless given."""
    programs, names = Path(sys.argv[1]).resolve(), sys.argv[2:] or list(RUNS)
    pictures = KEPT / "pictures"
    if not pictures.exists():
        draw_pictures(pictures)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(pictures, Path(folder) / "pictures")
        for name in names:
            make(name, programs, Path(folder))


if __name__ == "__main__":
    main()
