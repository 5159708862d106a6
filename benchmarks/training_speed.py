"""How fast and in how much memory a step trains, beside PyTorch: python -m benchmarks.training_speed [NETWORK ...]

The networks are those of two presets, at batch 64 and 28 × 28. A step is the whole of it: draws, loss, gradients,
clipping, AdamW and average. PyTorch runs eagerly, with diffusers' UNet2DModel of that shape and with the same
transformer (`benchmarks/torch_training.py`). Each library has a process of its own; they take turns on the same cores,
so that what else the machine does meets both. Peak memory is that of further processes, which only train: the first
compiles, and the second finds its programs where the first kept them, as every start of `scorefield train` but the
first does.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NETWORKS = ("mnist-edm-unet", "mnist-flow-dit")
BATCH, SIDE, CLASSES = 64, 28, 10
ROUNDS = 7
TIMES = {"train": 4, "forward": 12}
"""Calls between two looks at the clock, after one that is not timed."""
MEMORY_STEPS = 20

Calls = dict[str, Callable[[], Any]]
"""What a worker can do; each answers when it is done."""


def batch_of_noise() -> dict[str, np.ndarray]:
    """Images of noise cost what images cost."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, SIDE, SIDE, 1), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)
    return {"image": images, "label": labels, "slot": np.arange(BATCH, dtype=np.int32)}


def our_calls(name: str, programs_in: Path | None) -> Calls:
    """A step and a forward pass as `scorefield train` and `sample` compile them, or find them compiled."""
    from experiments.commands.compilation_cache import keep_programs
    from experiments.compilation import compile_for_the_commands
    from experiments.memory import forget_programs, give_back, own_process

    own_process()
    compile_for_the_commands()
    keep_programs(programs_in)
    import jax
    import jax.numpy as jnp

    from experiments import streams
    from experiments.presets import load
    from experiments.training.data import Facts
    from experiments.training.generator import optimizer_of
    from experiments.training.model import make_network
    from experiments.training.objective import make_objective
    from experiments.training.placement import make_programs, make_replicas
    from experiments.training.state import initial_state, seed_key

    config = load(name)
    facts = Facts((SIDE, SIDE, 1), CLASSES)
    network, params = make_network(config, facts, seed_key(0, streams.INITIAL))
    optimizer = optimizer_of(config)
    objective = make_objective(config, network, facts.num_classes, config.network.dropout > 0)
    replicas = make_replicas(config)
    programs = make_programs(config, objective, optimizer, replicas)
    state = replicas.place(initial_state(jax.tree.map(jnp.copy, params), optimizer, config))
    batches = replicas.split([batch_of_noise()])
    signal = replicas.share(np.zeros(len(replicas.local), np.float32))

    @functools.cache
    def advance() -> Any:
        forget_programs()
        compiled = programs.advance.lower(state, batches, signal).compile()
        give_back()  # both as the training does
        return compiled

    def train() -> Any:
        nonlocal state
        state, report = advance()(state, batches, signal)
        return np.asarray(report)

    @functools.cache
    def inputs() -> Any:
        x = jax.random.normal(jax.random.key(1), (BATCH, SIDE, SIDE, 1))
        return jax.jit(network), x, jnp.linspace(-1.0, 1.0, BATCH), jnp.asarray(batch_of_noise()["label"])

    def forward() -> Any:
        compiled, *arguments = inputs()
        return np.asarray(compiled(params, *arguments))

    return {"train": train, "forward": forward, "count": lambda: sum(leaf.size for leaf in jax.tree.leaves(params))}


def work(library: str, name: str, programs_in: Path | None) -> None:
    """Answer each line of standard input, a call and how often, with the seconds that one took."""
    if library == "ours":
        calls = our_calls(name, programs_in)
    else:
        from benchmarks.torch_training import torch_calls

        calls = torch_calls(name, batch_of_noise())
    for line in sys.stdin:
        what, times = line.split()
        if what == "count":
            print(json.dumps(int(calls["count"]())), flush=True)
            continue
        if what == "memory":
            for _ in range(int(times)):
                calls["train"]()
            print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024), flush=True)
            continue
        calls[what]()
        start = time.perf_counter()
        for _ in range(int(times)):
            calls[what]()
        print(json.dumps((time.perf_counter() - start) / int(times)), flush=True)


class Worker:
    """A process that waits, without computing, until it is asked."""

    def __init__(self, library: str, name: str, programs_in: str = "") -> None:
        command = [sys.executable, "-m", "benchmarks.training_speed", "--worker", library, name, programs_in]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, what: str, times: int) -> float:
        """Seconds for one of `times` calls; for "memory", the peak in MiB after as many steps."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{what} {times}\n")
        stdin.flush()
        answer = stdout.readline()
        if not answer:
            raise SystemExit(f"a worker ended with status {self._process.wait()}; its error is above.")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def seconds_of(name: str, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds by call and library, one for each round."""
    workers = {library: Worker(library, name) for library in ("ours", "torch")}
    counts = {library: worker.ask("count", 1) for library, worker in workers.items()}
    print(f"{name}: " + ", ".join(f"{library} {count:,} parameters" for library, count in counts.items()), flush=True)
    for worker in workers.values():
        for what in TIMES:
            worker.ask(what, 1)  # compiles, and fills caches
    measured: dict[str, dict[str, list[float]]] = {what: {library: [] for library in workers} for what in TIMES}
    for _ in range(rounds):
        for what, times in TIMES.items():
            for library, worker in workers.items():
                measured[what][library].append(worker.ask(what, times))
    for worker in workers.values():
        worker.close()
    return measured


def peak_memory(name: str) -> dict[str, float]:
    """The peak resident memory, in MiB, of a process that trains: ours at its first and a later start, PyTorch's."""
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for start, library in (("first", "ours"), ("later", "ours"), ("torch", "torch")):
            worker = Worker(library, name, folder)
            peaks[start] = worker.ask("memory", MEMORY_STEPS)
            worker.close()
    return peaks


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help=f"names of presets, of {', '.join(NETWORKS)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--no-memory", action="store_true", help="leave the processes out that only train")
    parser.add_argument("--worker", nargs=3, metavar=("LIBRARY", "NETWORK", "PROGRAMS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        library, name, folder = options.worker
        return work(library, name, Path(folder) if folder else None)
    if unknown := [name for name in options.networks if name not in NETWORKS]:
        parser.error(f"{unknown[0]} is not known here; choose among {', '.join(NETWORKS)}.")
    rows = ["| network | what | ours | PyTorch | ratio |", "|---|---|---:|---:|---:|"]
    for name in options.networks or NETWORKS:
        for what, seconds in seconds_of(name, options.rounds).items():
            ours, torch = (1e3 * statistics.median(seconds[library]) for library in ("ours", "torch"))
            ratios = sorted(b / a for a, b in zip(seconds["ours"], seconds["torch"], strict=True))
            rows.append(
                f"| {name} | {what} | {ours:.1f} ms | {torch:.1f} ms | "
                f"{torch / ours:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |"
            )
        if not options.no_memory:
            peaks = peak_memory(name)
            for start in ("first", "later"):
                row = f"| {name} | peak memory, {start} start | {peaks[start]:.0f} MiB | {peaks['torch']:.0f} MiB | "
                rows.append(row + f"{peaks['torch'] / peaks[start]:.2f} |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
