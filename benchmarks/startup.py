"""How long a command takes to its first result: python benchmarks/startup.py [--against CHECKOUT] [--rounds N]

`scorefield train --preset digits-ddpm` to the end of its first step, and `scorefield sample` on that run with 10 steps
and one seed, each in a process of its own. Programs are kept in a folder made for this, which a round that is not
counted fills. `--against` is another checkout of this repository, such as a `git worktree` of an older commit, measured
in turns with this one, as it is and with JAX's own cache of programs. Shown are medians over rounds, and the median of
the ratios within rounds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
PRESET = ("--preset", "digits-ddpm")
FIRST = ("--training.log-every", "1")
SAMPLE = ("--sampler", "ddim", "--steps", "10", "--seeds", "0")
PATIENCE = 600.0
_OURS = ("SCOREFIELD_COMPILATION_CACHE", "JAX_COMPILATION_CACHE_DIR")


class Checkout:
    """A checkout with the environment that its commands run in, and a folder for what they write."""

    def __init__(self, root: Path, folder: Path, environment: Mapping[str, str]) -> None:
        """`environment` is added to this process's."""
        inherited = {name: value for name, value in os.environ.items() if name not in _OURS}
        self.root, self.folder, self._environment = root, folder, {**inherited, "PYTHONPATH": str(root), **environment}
        folder.mkdir()
        # Before it was a package, the command was a module.
        self._module = "scorefield" if (root / "scorefield" / "__main__.py").exists() else "experiments.cli"

    def command(self, *words: str) -> list[str]:
        """The words of a command of this checkout."""
        return [sys.executable, "-m", self._module, *words]

    def prepare(self, like: Checkout | None = None) -> None:
        """Train the run that is sampled, one step and a checkpoint, or take that of a checkout of the same commit."""
        if like is not None:
            shutil.copytree(like.folder / "run", self.folder / "run")
            return
        words = self.command("train", *PRESET, "--training.steps", "1", "--outdir", "run")
        subprocess.run(words, cwd=self.folder, env=self._environment, check=True, capture_output=True)

    def first_step(self) -> float:
        """Seconds from the start of a training until the metrics of its first step are on the disk."""
        with tempfile.TemporaryDirectory(dir=self.folder) as outdir:
            metrics, start = Path(outdir) / "metrics.jsonl", time.perf_counter()
            words = self.command("train", *PRESET, *FIRST, "--outdir", outdir)
            with subprocess.Popen(words, cwd=self.folder, env=self._environment, stderr=subprocess.DEVNULL) as process:
                try:
                    while not (metrics.exists() and '"loss"' in metrics.read_text()):
                        if process.poll() is not None or time.perf_counter() - start > PATIENCE:
                            sys.exit(f"{' '.join(words)} made no step.")
                        time.sleep(0.005)
                    return time.perf_counter() - start
                finally:
                    process.kill()

    def sample(self) -> float:
        """Seconds that the whole command takes."""
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=self.folder) as outdir:
            words = self.command("sample", "--run", "run", *SAMPLE, "--outdir", outdir)
            subprocess.run(words, cwd=self.folder, env=self._environment, check=True, capture_output=True)
            return time.perf_counter() - start


def checkouts(other: Path | None, folder: Path) -> dict[str, Checkout]:
    """What is compared, by name."""
    kept, jax = str(folder / "programs"), str(folder / "jax")
    ours = {"warm": {"SCOREFIELD_COMPILATION_CACHE": kept}, "without a cache": {"SCOREFIELD_COMPILATION_CACHE": "off"}}
    theirs = {"against": {}, "against, JAX's cache warm": {"JAX_COMPILATION_CACHE_DIR": jax}}
    found = {name: Checkout(HERE, folder / name, environment) for name, environment in ours.items()}
    if other is not None:
        found |= {name: Checkout(other.resolve(), folder / name, environment) for name, environment in theirs.items()}
    return found


MEASURES: dict[str, Callable[[Checkout], float]] = {"train": Checkout.first_step, "sample": Checkout.sample}


def main(words: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--against", type=Path, help="another checkout of this repository")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=MEASURES, help="one of the two commands")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        compared = checkouts(arguments.against, Path(folder))
        prepared: dict[Path, Checkout] = {}
        for checkout in compared.values():
            checkout.prepare(prepared.get(checkout.root))
            prepared.setdefault(checkout.root, checkout)
        print(f"{'':10}{'':28}{'median s':>10}{'least':>8}{'most':>8}{'warm / this':>13}")
        for measure in [arguments.only] if arguments.only else MEASURES:
            seconds = {name: [] for name in compared}
            for counted in range(-1, arguments.rounds):
                for name, checkout in compared.items():
                    took = MEASURES[measure](checkout)
                    seconds[name] += [took] if counted >= 0 else []
            for name, took in seconds.items():
                ratio = statistics.median(a / b for a, b in zip(seconds["warm"], took, strict=True))
                figures = f"{statistics.median(took):>10.2f}{min(took):>8.2f}{max(took):>8.2f}{ratio:>13.2f}"
                print(f"{measure:10}{name:28}{figures}", flush=True)


if __name__ == "__main__":
    main()
