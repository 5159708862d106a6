"""A changed byte, and a cut, in every file of a run: refused in a line, said in a line, or without effect.

What a reader makes of a run is boiled down to a digest: of a model its arrays, configuration and data, of the command
that goes on its configuration, of pictures those that it takes for its own. After damage a digest must be that of the
sound run; or that of an older checkpoint of it, which must be said.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np

from benchmarks.reliability.rows import Row, refusal, untidy
from benchmarks.reliability.setting import STEPS, Bench, unlike
from experiments.config.file import to_json
from experiments.errors import LIMIT, ScorefieldError
from experiments.pictures.files import read_provenance
from experiments.runs import fitted_grids
from experiments.runs.load import load_model
from experiments.tracking.json_lines import truncate
from experiments.training import kept
from experiments.training.checkpoint import find_checkpoints
from experiments.training.lock import run_lock
from samplers.ddim import DDIM

Damage = Callable[[bytes, random.Random], bytes]


def flipped(good: bytes, rng: random.Random) -> bytes:
    """One byte is another."""
    bad = bytearray(good)
    bad[rng.randrange(len(bad))] ^= rng.randrange(1, 256)
    return bytes(bad)


def digit(good: bytes, rng: random.Random) -> bytes:
    """One digit, letter or sign is another of its kind, so that a text stays one; as `flipped` where there is none."""
    kinds = (b"0123456789", b"abcdefghijklmnopqrstuvwxyz")
    places = [i for i, byte in enumerate(good) if any(byte in kind for kind in kinds)]
    if not places:
        return flipped(good, rng)
    bad, place = bytearray(good), rng.choice(places)
    kind = next(kind for kind in kinds if bad[place] in kind)
    bad[place] = rng.choice([byte for byte in kind if byte != bad[place]])
    return bytes(bad)


def cut(good: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return good[: rng.randrange(len(good))]


WAYS: dict[str, Damage] = {"a changed byte": flipped, "a changed digit or letter": digit, "a cut": cut}


def damage(bench: Bench, flips: int, cuts: int, resumes: int) -> Iterator[Row]:
    """Every file of a finished run, and trainings that go on from a damaged one."""
    run = _furnished(bench)
    files = sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file())
    for way, (how, times) in enumerate(zip(WAYS, (flips, flips, cuts), strict=True)):
        row = Row(
            f"{how} in any of the {len(files)} files of a run",
            "refused in a line, or an older checkpoint taken and said, or the file takes no part; never used silently",
            "`damage`; tests/experiments/test_damage.py, training/test_checkpoint.py",
        )
        each_file(run, [run / name for name in files], row, WAYS[how], times, bench.rng(how))
        bench.log(f"damage {way + 1} of {len(WAYS)}")
        yield row
    if resumes:
        yield _going_on(bench, resumes)


def _furnished(bench: Bench) -> Path:
    """The twin with a fitted grid and single pictures."""
    run = bench.new("furnished")
    shutil.copytree(bench.twin, run)
    grid = ["grid", "--run", str(run), "--sampler", "ddim", "--steps", "4"]
    draw = ["sample", "--run", str(run), "--seeds", "0-3", "--format", "png", "--outdir", str(run / "drawn")]
    for arguments in (grid, draw):
        command = bench.run(arguments)
        if command.status != 0:
            raise RuntimeError(command.errors)
    return run


def each_file(run: Path, files: list[Path], row: Row, way: Damage, times: int, rng: random.Random) -> None:
    """Damage each file of a sound run `times` times, and judge what all readers make of it."""
    sound = _sound(run)
    newest = {name: reading(run, lambda line: None) for name, reading in READINGS.items()}
    for path in files:
        good = path.read_bytes()
        for _ in range(times if good else 0):
            path.write_bytes(way(good, rng))
            wrong, fate = _read(run, sound, newest)
            row.judge(fate, [f"{path.relative_to(run)}: {line}" for line in wrong])
        path.write_bytes(good)


def _sound(run: Path) -> set[str]:
    """The digests of all checkpoints of the sound run."""
    return {_model_digest(load_model(path)) for path in (run / "checkpoints").glob("[0-9]*")}


def _read(run: Path, sound: set[str], newest: dict[str, Any]) -> tuple[list[str], str]:
    """(What is wrong, how it went) of all readers of a damaged run."""
    wrong, fates = [], set()
    for name, reading in READINGS.items():
        said: list[str] = []
        try:
            # `run_config` says a line once in a command.
            with mock.patch.object(kept, "_say", lambda run, line, said=said: said.append(line)):
                found = reading(run, said.append)
        except ScorefieldError as error:
            fates.add("refused")
            if len(str(error)) > LIMIT or not str(error).isprintable():
                wrong.append(f"{name}: no short line: {str(error)[:80]}")
            continue
        except Exception as error:
            wrong.append(f"{name}: a traceback, {error!r:.200}")
            continue
        if found == newest[name]:
            fates.add("said and mended" if said else "without effect")
        elif said and (found in sound or name == "the configuration"):
            fates.add("fell back, said")
        else:
            wrong.append(f"{name}: used silently")
    order = ("refused", "fell back, said", "said and mended", "without effect")
    return wrong, next((fate for fate in order if fate in fates), "refused")


def _model_digest(model: Any) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(model.params):
        digest.update(np.asarray(leaf).tobytes())
    digest.update(json.dumps([to_json(model.config), model.facts.to_json(), model.step], default=str).encode())
    return digest.hexdigest()


def _newest(run: Path, say: Callable[[str], None]) -> str:
    return _model_digest(load_model(run, warn=say))


def _best(run: Path, say: Callable[[str], None]) -> str:
    return _model_digest(load_model(run, use_best=True, warn=say))


def _configuration(run: Path, say: Callable[[str], None]) -> str:
    return json.dumps(to_json(kept.run_config(run)))


def _grid(run: Path, say: Callable[[str], None]) -> str:
    return str(fitted_grids.load(run, "ddim", DDIM(), 4))


def _lock(run: Path, say: Callable[[str], None]) -> str:
    with run_lock(run):
        return ""


def _metrics(run: Path, say: Callable[[str], None]) -> str:
    copy = run.parent / "metrics-copy.jsonl"
    shutil.copy(run / "metrics.jsonl", copy)
    truncate(copy, STEPS)
    return ""


def _pictures(run: Path, say: Callable[[str], None]) -> str:
    """Pictures that are taken for one's own, by their bytes."""
    digests = []
    for path in sorted((run / "drawn").glob("*.png")):
        read_provenance(path)
        digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
    return json.dumps(digests)


READINGS: dict[str, Callable[[Path, Callable[[str], None]], str]] = {
    "the newest": _newest,
    "the best": _best,
    "the configuration": _configuration,
    "the grid": _grid,
    "the lock": _lock,
    "the losses": _metrics,
    "the pictures": _pictures,
}


def _going_on(bench: Bench, times: int) -> Row:
    row = Row(
        "the same in one file of a half-trained run, and the same command goes on",
        "as its twin, from an older checkpoint where need be, which is said; or a refusal in a line",
        "`damage`; tests/experiments/training/test_resume.py",
    )
    half, rng = bench.new("half"), bench.rng("going on")
    command = bench.start(bench.training(half))
    command.until((half / "checkpoints" / f"{STEPS // 2:08d}").exists)
    command.send(signal.SIGKILL)
    newest = find_checkpoints(half / "checkpoints")[-1].path.relative_to(half)
    inside = sorted(path.relative_to(half) for path in (half / newest).rglob("*") if path.is_file())
    names = [Path("config.json"), Path("metrics.jsonl"), Path("lock"), *inside]
    for trial in range(times * len(names)):
        name, outdir = names[trial % len(names)], bench.new("going-on")
        shutil.copytree(half, outdir)
        good = (outdir / name).read_bytes()
        if good:
            (outdir / name).write_bytes(rng.choice(list(WAYS.values()))(good, rng))
            command = bench.run(bench.training(outdir))
            wrong = refusal(command.errors) if command.status else untidy(command.errors)
            if command.status == 0:
                wrong += unlike(outdir, bench.twin, metrics=name.name != "metrics.jsonl")
            fate = "refused" if command.status else "said" if "scorefield: " in command.errors else "without effect"
            row.judge(fate, [f"{name}: {line}" for line in wrong])
        shutil.rmtree(outdir)
    bench.log(f"went on from {row.trials} damaged runs")
    return row
