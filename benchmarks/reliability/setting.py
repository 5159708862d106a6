"""A run that takes a second, commands as processes, and whether two runs are the same.

A command is forked from a process that has imported the libraries and started nothing, for most of a command's time
is importing them. Programs are read from a cache that the first one fills.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from benchmarks.reliability.rows import untidy
from experiments import cli
from experiments.training.checkpoint import find_checkpoints, load
from experiments.training.manifest import verify

STEPS, EVERY = 60, 5
LIBRARIES = (
    *("experiments.cli", "experiments.commands.train", "experiments.commands.sample", "experiments.training.loop"),
    *("experiments.pictures.preview", "experiments.interface.run", "benchmarks.reliability.setting"),
)
PATIENCE = 300
"""Seconds after which a command counts as hanging."""


class Command:
    """A command under way, forked or in a process of its own."""

    def __init__(self, process: Any, errors: Path) -> None:
        self._process, self._errors = process, errors

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def begun(self) -> bool:
        """Whether it has come to the command itself."""
        return self._errors.exists()

    @property
    def errors(self) -> str:
        """What it has printed on standard error so far."""
        return self._errors.read_text(errors="replace") if self._errors.exists() else ""

    @property
    def status(self) -> int | None:
        """The exit status, None while it runs; −n after signal n."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll()
        return self._process.exitcode

    def wait(self, seconds: float = PATIENCE) -> int | None:
        """The exit status; None, and the process is killed, when it has not ended in time."""
        if not self.until(lambda: self.status is not None, seconds):
            self.send(signal.SIGKILL)
            return None
        return self.status

    def until(self, condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        """Wait until a condition holds; False when the process has ended before, or the time is up."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            if self.status is not None:
                return condition()
            time.sleep(0.001)
        return False

    def send(self, signum: int) -> None:
        """Send a signal, and after SIGKILL wait for the end."""
        try:
            os.kill(self.pid, signum)
        except ProcessLookupError:
            return
        if signum == signal.SIGKILL:
            self._process.wait() if isinstance(self._process, subprocess.Popen) else self._process.join()

    def stepped(self) -> bool:
        """Whether the loop of a training has begun."""
        return "\nstep " in "\n" + self.errors


def _forked(arguments: Sequence[str], errors: str) -> None:
    for number, name in ((1, os.devnull), (2, errors)):
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
    status = cli.main(arguments)
    sys.stderr.flush()
    os._exit(status)


class Bench:
    """A folder for trials, and the run that nothing happens to."""

    def __init__(self, folder: Path, seed: int, log: Callable[[str], None] = lambda line: None) -> None:
        self.folder, self.seed, self.log = folder.resolve(), seed, log
        self._count = 0
        self.folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        images, self.data = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8), self.folder / "images.npz"
        np.savez(self.data, images=images, labels=np.arange(40) % 3)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(self.folder / "programs")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"
        self._server = multiprocessing.get_context("forkserver")
        self._server.set_forkserver_preload(list(LIBRARIES))

    def rng(self, part: str) -> random.Random:
        """The random numbers of a part."""
        return random.Random(f"{self.seed} {part}")

    def new(self, name: str) -> Path:
        """A path that nothing is at yet."""
        self._count += 1
        return self.folder / f"{name}-{self._count:04d}"

    def training(self, outdir: Path, *more: str) -> list[str]:
        """The command of the tiny run."""
        flags = {
            "--preset": "mnist-edm-unet",
            "--data": f"npz:{self.data}",
            "--network": "mlp",
            "--network.hidden": "16",
            "--network.layers": "1",
            "--network.embedding": "8",
            "--optimizer.warmup-steps": "2",
            "--sampling.steps": "4",
            "--training.batch-size": "8",
            "--training.steps": str(STEPS),
            "--training.log-every": "1",
            "--training.checkpoint-every": str(EVERY),
            "--training.validate-every": "10",
            "--training.sample-every": "20",
            "--outdir": str(outdir),
        }
        return ["train", *(word for pair in flags.items() for word in pair), *more]

    def start(self, arguments: Sequence[str]) -> Command:
        """Begin a command in a forked process."""
        errors = self.new("errors")
        process: Any = self._server.Process(target=_forked, args=(list(arguments), str(errors)))
        process.start()
        return Command(process, errors)

    def begin(self, arguments: Sequence[str], *, cached: bool = False) -> Command:
        """Begin a command in a process of its own, as a shell does; without the cache unless `cached`."""
        errors, root = self.new("errors"), str(Path(__file__).parents[2])
        environment = {key: value for key, value in os.environ.items() if cached or not key.startswith("JAX_")}
        environment["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
        environment["SCOREFIELD_COMPILATION_CACHE"] = "off"  # JAX's own, or none
        with open(errors, "wb") as file:
            program = [sys.executable, "-m", "scorefield", *arguments]
            return Command(subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL, stderr=file), errors)

    def run(self, arguments: Sequence[str]) -> Command:
        """A command that has come to its end."""
        command = self.start(arguments)
        command.wait()
        return command

    @functools.cached_property
    def twin(self) -> Path:
        """The run that nothing happens to."""
        outdir = self.folder / "twin"
        command = self.run(self.training(outdir))
        if command.status != 0:
            raise RuntimeError(command.errors)
        return outdir

    @functools.cached_property
    def loop_seconds(self) -> float:
        """How long the loop takes when its programs are there."""
        assert self.twin
        command = self.start(self.training(self.new("timed")))
        command.until(command.stepped)
        start = time.monotonic()
        command.wait()
        return time.monotonic() - start

    def goes_on(self, outdir: Path, *, metrics: bool = True, steps: bool = True) -> list[str]:
        """What is wrong after the same command has been given again: nothing if it ends as the twin does.

        Without `steps` the checkpoints before the last may be others: a run that was asked to stop has saved there.
        """
        command = self.run(self.training(outdir))
        wrong = [f"status {command.status}: {command.errors[-200:]}"] if command.status else []
        return wrong + untidy(command.errors) + (wrong or unlike(outdir, self.twin, metrics=metrics, steps=steps))


def rows_of(run: Path) -> list[Any]:
    """The lines of metrics.jsonl without their times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def halves(run: Path) -> list[str]:
    """The checkpoints of a run that have a step for their name and are not what was saved."""
    wrong = []
    for checkpoint in find_checkpoints(run / "checkpoints"):
        try:
            verify(checkpoint.path)
        except Exception as error:
            wrong.append(f"half-written: {error}")
    return wrong


def leftovers(run: Path) -> list[str]:
    """The files that no run leaves when it ends well."""
    names = [path.name for path in run.rglob("*")]
    return [
        f"left behind: {name}" for name in names if name.endswith(".tmp") or name.startswith((".saving", ".deleting"))
    ]


def unlike(run: Path, twin: Path, *, metrics: bool = True, steps: bool = True) -> list[str]:
    """In what a run differs from its twin: the newest checkpoint's arrays, the losses, the pictures, the folders."""
    wrong = halves(run) + leftovers(run)
    ours, theirs = (find_checkpoints(folder / "checkpoints") for folder in (run, twin))
    saved, wanted = ([checkpoint.step for checkpoint in part] for part in (ours, theirs))
    if saved[-1:] != wanted[-1:] or (steps and saved != wanted):
        return [*wrong, f"checkpoints of steps {saved}, not {wanted}"]
    (mine, shape), (its, other) = (jax.tree.flatten(load(part[-1].path)[0]) for part in (ours, theirs))
    same = shape == other and all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in _pairs(mine, its))
    if not same:
        wrong.append("the newest checkpoint holds other arrays")
    if metrics and rows_of(run) != rows_of(twin):
        wrong.append("metrics.jsonl has other rows")
    for picture in (twin / "samples").glob("*.png"):
        there = run / "samples" / picture.name
        if not there.exists() or np.asarray(Image.open(there)).tobytes() != np.asarray(Image.open(picture)).tobytes():
            wrong.append(f"{picture.name} is another")
    return wrong


def _pairs(one: Sequence[Any], other: Sequence[Any]) -> list[tuple[Any, Any]]:
    return [(np.asarray(a), np.asarray(b)) for a, b in zip(one, other, strict=True)]
