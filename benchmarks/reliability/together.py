"""Several processes at once: in one folder, as one run, and one that reads while another writes."""

from __future__ import annotations

import shutil
import signal
import socket
import time
from collections.abc import Iterator

from benchmarks.reliability.rows import Row, refusal, untidy
from benchmarks.reliability.setting import Bench, halves, unlike
from experiments.errors import BusyError
from experiments.runs.load import load_model

ENDS = 60
"""Seconds within which the other process must have ended."""


def folders(bench: Bench, count: int) -> Iterator[Row]:
    """Races of four commands in one folder."""
    row = Row(
        "four trainings that are started in one folder at once",
        "one trains, undisturbed; the others refuse in one line with status 6",
        "`folders`; tests/experiments/training/test_processes.py, test_loop.py",
    )
    for _ in range(count):
        outdir = bench.new("shared")
        commands = [bench.start(bench.training(outdir)) for _ in range(4)]
        statuses = [command.wait() for command in commands]
        wrong = [line for command in commands for line in (refusal if command.status else untidy)(command.errors)]
        # One that comes when the first has finished finds nothing left to do.
        if not statuses.count(0) >= 1 or set(statuses) - {0, BusyError.exit_status}:
            wrong.append(f"statuses {statuses}")
        row.judge("races", wrong + unlike(outdir, bench.twin))
        shutil.rmtree(outdir)
    bench.log(f"{row.trials} races")
    yield row


def processes(bench: Bench, count: int) -> Iterator[Row]:
    """One run of two processes, of which one is killed at an instant of the loop."""
    row = Row(
        "one of a run's two processes is killed",
        f"the other ends within {ENDS} s with a line that says why, and no traceback; no half of a checkpoint",
        "`processes`; tests/experiments/training/test_processes.py",
    )
    rng, longest, statuses = bench.rng("processes"), 0.0, set()
    for trial in range(count):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        outdir, whom = bench.new("pair"), trial % 2
        more = ["--training.steps", "100000", "--training.log-every", "20", "--training.sample-every", "0"]
        together = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", "2", "--process-id"]
        pair = [bench.begin([*bench.training(outdir, *more), *together, str(i)]) for i in range(2)]
        if not pair[0].until(pair[0].stepped):
            row.judge("", [f"no step was made: {pair[0].errors[-200:]}"])
            for command in pair:
                command.send(signal.SIGKILL)
            continue
        time.sleep(rng.random() * 5)
        pair[whom].send(signal.SIGKILL)
        start, other = time.monotonic(), pair[1 - whom]
        status = other.wait(2 * ENDS)
        took = time.monotonic() - start
        longest, statuses = max(longest, took), {*statuses, status}
        lines = other.errors.splitlines()
        wrong = untidy(other.errors) + halves(outdir)
        if took > ENDS:
            wrong.append(f"process {1 - whom} ended after {took:.0f} s")
        if not lines or not lines[-1].startswith("scorefield: "):
            wrong.append(f"status {status}, {len(lines)} lines, the last of them no word of ours: {lines[-1:]!s:.100}")
        row.judge("ended", wrong)
        bench.log(f"{trial + 1} pairs")
        shutil.rmtree(outdir)
    row.figure = f"after at most {longest:.0f} s, statuses {sorted(map(str, statuses))}"
    yield row


def reader(bench: Bench, count: int) -> Iterator[Row]:
    """Loads of a run that saves and prunes as fast as it can."""
    row = Row(
        "a run is loaded while it trains, saves and prunes",
        "every load gives a whole model, and no line warns of damage",
        "`reader`; tests/experiments/training/test_checkpoint.py",
    )
    outdir = bench.new("read")
    more = ["--training.steps", "1000000", "--training.checkpoint-every", "1", "--training.sample-every", "0"]
    command = bench.start(bench.training(outdir, *more, "--training.validate-every", "2"))
    command.until(lambda: bool(list(outdir.glob("checkpoints/0*"))))
    steps = set()
    for trial in range(count):
        said: list[str] = []
        try:
            steps.add(load_model(outdir, use_best=bool(trial % 2), warn=said.append).step)
            row.judge("loads", said)
        except Exception as error:
            row.judge("", [f"{type(error).__name__}: {error}"])
    command.send(signal.SIGTERM)
    if command.wait(60) != 128 + signal.SIGTERM:
        row.wrong.append(f"the training ended with {command.status}: {command.errors[-200:]}")
    row.figure = f"of {len(steps)} different steps"
    shutil.rmtree(outdir)
    yield row
