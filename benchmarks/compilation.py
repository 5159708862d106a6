"""How fast training is with and without YNNPACK's kernels on a CPU: python benchmarks/compilation.py [PRESET ...]

`scorefield` trains without them. Each way is a process of its own, in turns, over images of noise, which cost what
images cost; shown are medians over rounds, and the median ratio between neighbours.
"""

from __future__ import annotations

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

import numpy as np

SIZES = {"digits-ddpm": 8, "digits-pfgmpp": 8, "mnist-edm-unet": 28, "mnist-pfgmpp": 28, "mnist-flow-dit": 28}
STEPS, EVERY, ROUNDS = 20, 5, 3
WITH = (
    "from experiments import cli, compilation; compilation.leave_sums_to_xla = lambda: None; import sys; "
    "sys.exit(cli.main(sys.argv[1:]))"
)
WITHOUT = "from experiments import cli; import sys; sys.exit(cli.main(sys.argv[1:]))"


def images_per_second(preset: str, program: str) -> float:
    """The median rate of a short training, its first lap, which compiles, left out."""
    size, rng = SIZES[preset], np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        images, labels = rng.integers(0, 256, (2000, size, size), dtype=np.uint8), rng.integers(0, 10, 2000)
        np.savez(f"{folder}/noise.npz", images=images, labels=labels)
        options = {
            "steps": STEPS,
            "log-every": EVERY,
            "validate-every": STEPS,
            "checkpoint-every": STEPS,
            "sample-every": 0,
        }
        given = [word for name, value in options.items() for word in (f"--training.{name}", str(value))]
        command = [
            "train",
            "--preset",
            preset,
            "--data",
            f"npz:{folder}/noise.npz",
            "--outdir",
            f"{folder}/run",
            *given,
        ]
        subprocess.run([sys.executable, "-c", program, *command], check=True, capture_output=True)
        lines = (pathlib.Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    rates = [line["images_per_second"] for line in map(json.loads, lines) if "images_per_second" in line]
    return statistics.median(rates[1:])


def main(presets: list[str]) -> None:
    """Print the table."""
    if unknown := set(presets) - set(SIZES):
        sys.exit(f"{', '.join(sorted(unknown))} is not measured here; there are {', '.join(SIZES)}.")
    print(f"{'preset':16}{'with':>10}{'without':>10}{'ratio':>8}   images/s")
    for preset in presets or SIZES:
        rounds = [(images_per_second(preset, WITH), images_per_second(preset, WITHOUT)) for _ in range(ROUNDS)]
        kernels, none = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(b / a for a, b in rounds)
        print(f"{preset:16}{kernels:>10,.0f}{none:>10,.0f}{ratio:>8.2f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
