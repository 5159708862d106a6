"""Processes that are killed, or asked to stop."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.reliability.rows import Row, untidy
from benchmarks.reliability.setting import EVERY, STEPS, Bench, Command, halves, leftovers
from experiments.training.interrupt import NOTHING_SAVED

_SAVE_SECONDS = 0.15
"""About what a save takes, in which a kill is drawn."""


def kills(bench: Bench, in_loop: int, in_saves: int) -> Iterator[Row]:
    """SIGKILL at instants of the loop, and within saves; each run is gone on with until it gets through."""
    suite = "tests/experiments/training/test_processes.py"
    same = "the same command goes on; final arrays, losses and previews are those of the run that was not killed"
    row = Row("SIGKILL at an instant drawn from the loop", same, f"`kills`; {suite}")
    rng = bench.rng("kills")
    while row.trials < in_loop:
        _survive(bench, row, lambda command, outdir: _at_an_instant(bench, command, rng.random()))
        bench.log(f"{row.trials} kills in the loop")
    yield row
    row = Row("SIGKILL within a save", f"no half of a checkpoint has a step for its name; {same}", f"`kills`; {suite}")
    while row.trials < in_saves:
        _survive(bench, row, lambda command, outdir: _within_a_save(command, outdir, rng.random(), rng.random()))
        bench.log(f"{row.trials} kills within saves")
    yield row


def _survive(bench: Bench, row: Row, kill: Callable[[Command, Path], bool], most: int = 4) -> None:
    """A run that is killed up to `most` times, then gone on with to its end, and judged as often as it was killed."""
    outdir, killed, wrong = bench.new("killed"), 0, []
    while killed < most:
        command = bench.start(bench.training(outdir))
        if not kill(command, outdir):
            command.wait()
            break
        killed += 1
        wrong += halves(outdir)
    wrong += bench.goes_on(outdir)
    for _ in range(killed):
        row.judge("bit-identical", wrong)
    if not wrong:
        shutil.rmtree(outdir)


def _at_an_instant(bench: Bench, command: Command, part: float) -> bool:
    if not command.until(command.stepped):
        return False
    time.sleep(part * bench.loop_seconds)
    running = command.status is None
    command.send(signal.SIGKILL)
    return running and command.status == -signal.SIGKILL


def _within_a_save(command: Command, outdir: Path, which: float, part: float) -> bool:
    """Kill in the save of a step that is drawn among those to come; False when the save was done by then."""
    checkpoints = outdir / "checkpoints"
    done = max((int(path.name) for path in checkpoints.glob("[0-9]*")), default=0)
    left = range(done + EVERY, STEPS + 1, EVERY)
    if not left:
        return False
    hidden = checkpoints / f".saving-{left[int(which * len(left))]:08d}"
    if not command.until(hidden.exists):
        return False
    time.sleep(part * _SAVE_SECONDS)
    command.send(signal.SIGKILL)
    return bool(list(checkpoints.glob(".saving-*")) or list(checkpoints.glob(".deleting-*")))


def signals(bench: Bench, each: int) -> Iterator[Row]:
    """SIGTERM and SIGINT in every phase of a training, twice, and while pictures are drawn."""
    phases = {
        "before the first step": lambda command, outdir, part: time.sleep(part * 2),
        "in the loop": lambda command, outdir, part: command.until(command.stepped) and _later(bench, part),
        "within a save": lambda command, outdir, part: command.until(lambda: _saving(outdir)),
        "after the last step": lambda command, outdir, part: command.until(
            lambda: f"\nstep {STEPS}/" in command.errors
        ),
    }
    for phase, wait in phases.items():
        row = Row(
            f"SIGTERM or SIGINT {phase}",
            "one line says what was saved, and the same command goes on, bit-identical; status 7 where nothing was",
            "`signals`; tests/experiments/training/test_loop.py",
        )
        rng = bench.rng(phase)
        for trial in range(each):
            signum, outdir = (signal.SIGTERM, signal.SIGINT)[trial % 2], bench.new("stopped")
            command = bench.start(bench.training(outdir))
            command.until(command.begun)
            wait(command, outdir, rng.random())
            command.send(signum)
            status, wrong = command.wait(60), untidy(command.errors)
            if status == -signal.SIGTERM and not command.errors:
                continue  # before the command itself had begun
            if status not in (NOTHING_SAVED, 128 + signum, 0):
                wrong.append(f"status {status}: {command.errors[-200:]}")
            if status and signum.name not in command.errors and "interrupted" not in command.errors:
                wrong.append("not a word of the signal")
            row.judge(f"status {status}", wrong + halves(outdir) + bench.goes_on(outdir, steps=False))
            shutil.rmtree(outdir)
            bench.log(f"{trial + 1} signals {phase}")
        yield row
    yield _twice(bench, each)
    yield _sampling(bench, each)


def _later(bench: Bench, part: float) -> None:
    time.sleep(part * bench.loop_seconds)


def _saving(outdir: Path) -> bool:
    return bool(list((outdir / "checkpoints").glob(".saving-*")))


def _twice(bench: Bench, each: int) -> Row:
    row = Row(
        "a second signal soon after the first",
        "the training ends at once, and the same command goes on from the last checkpoint, bit-identical",
        "`signals`",
    )
    rng = bench.rng("twice")
    for trial in range(each):
        outdir, signum = bench.new("stopped"), (signal.SIGTERM, signal.SIGINT)[trial % 2]
        command = bench.start(bench.training(outdir))
        command.until(command.stepped)
        _later(bench, rng.random() * 0.7)
        command.send(signum)
        time.sleep(rng.random() * 0.02)
        command.send(signum)
        status, wrong = command.wait(60), untidy(command.errors)
        if status not in (-signal.SIGTERM, 128 + signum, 0):
            wrong.append(f"status {status}: {command.errors[-200:]}")
        row.judge(f"status {status}", wrong + halves(outdir) + bench.goes_on(outdir, steps=False))
        shutil.rmtree(outdir)
    return row


def _sampling(bench: Bench, each: int) -> Row:
    row = Row(
        "SIGTERM, SIGINT or SIGKILL while `sample --format png` draws",
        "every file is whole; the same command draws those that are missing, and the pictures are the same",
        "`signals`; tests/experiments/pictures/test_output.py",
    )
    rng, count = bench.rng("sampling"), 400
    draw = ["sample", "--run", str(bench.twin), "--seeds", f"0-{count - 1}", "--format", "png", "--batch", "8"]
    whole = bench.new("drawn")
    first = bench.run([*draw, "--outdir", str(whole)])
    if first.status != 0:
        raise RuntimeError(first.errors)
    for trial in range(each):
        signum, outdir = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)[trial % 3], bench.new("drawn")
        command = bench.start([*draw, "--outdir", str(outdir)])
        stop = rng.randrange(count)
        command.until(lambda outdir=outdir, stop=stop: (outdir / f"{stop:06d}.png").exists())
        command.send(signum)
        command.wait(60)
        wrong, done = untidy(command.errors), len(list(outdir.glob("[0-9]*.png")))
        again = bench.run([*draw, "--outdir", str(outdir)])
        wrong += untidy(again.errors) + ([f"status {again.status}"] if again.status else []) + leftovers(outdir)
        names = sorted(path.name for path in outdir.iterdir())
        if names != sorted(path.name for path in whole.iterdir()):
            wrong.append("other files")
        elif any((outdir / name).read_bytes() != (whole / name).read_bytes() for name in names):
            wrong.append("other pictures")
        row.judge("went on" if done < count else "had ended", wrong)
        shutil.rmtree(outdir)
    return row
