"""`scorefield verify`: the equations, measured; and a trained model under the same equations."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from experiments.commands.options import parse
from experiments.compilation import compile_quickly
from experiments.errors import UsageError, did_you_mean, reason, warn
from experiments.files import write_text
from experiments.progress import reporting, tell, tracked
from experiments.runs.load import CheckpointArguments, load_run, run_data
from experiments.verification.registry import Identity, Precision, Row, Setting, applicable, identities, shown
from experiments.verification.registry import run as measure

DESCRIPTION = """\
Measure every equation that the package states against an exact answer; exit with 1 when one fails.

  scorefield verify
  scorefield verify --only fokker-planck,ddim --html report.html
  scorefield verify --precision bfloat16
  scorefield verify --run runs/digits-ddpm

With --run, put a trained model under the equations instead: what is out of line, and what usually causes it.
"""


@dataclass(frozen=True, kw_only=True)
class VerifyArguments:
    """The arguments of `scorefield verify`."""

    only: str | None = None
    """Topics (ddpm is chain, elbo and variance), names or numbers of identities, separated by commas."""
    precision: Precision = "float64"
    """The precision of the arithmetic, which shows each identity's error floor; bfloat16 rounds networks' answers and
    computes in float32."""
    dim: int = 3
    """The dimension of the laws whose dimension is free."""
    run: Path | None = None
    """The folder of a trained run, or of one of its checkpoints: check this model instead."""
    ema: str = "0"
    """With --run, the parameters to check: the number of an average, counted from 0, its relative width, or raw."""
    data: str | None = None
    """With --run, the URI of its data, where they have moved; they must be the same. [where the run has read them]"""
    best: bool = False
    """With --run, check the checkpoint of the lowest held-out loss, not the newest."""
    samples: int = 256
    """With --run, the number of samples that are drawn and of images that are examined."""
    seed: int = 2_000_000
    """With --run, the first seed of these samples."""
    batch: int = 128
    """With --run, the number of images at a time."""
    html: Path | None = None
    """Write a report with equations and pictures to this file."""
    json: bool = False
    """Print the rows, or with --run the findings, as a JSON list."""


def run(words: list[str]) -> int:
    """Run the command; returns 0 if everything is as it should be, else 1."""
    arguments = parse(VerifyArguments, words, "scorefield verify", DESCRIPTION)
    if arguments.html is not None:
        _writable(arguments.html)
    return _table(arguments) if arguments.run is None else _trained(arguments)


def _table(arguments: VerifyArguments) -> int:
    default = VerifyArguments()
    for flag in ("ema", "data", "best", "samples", "seed", "batch"):
        if getattr(arguments, flag) != getattr(default, flag):
            raise UsageError(f"--{flag} goes with --run; name a run, or leave it out.")
    compile_quickly()
    try:
        setting = Setting(arguments.precision, arguments.dim)
    except ValueError as error:
        raise UsageError(f"--{error}") from None
    chosen = select(arguments.only, applicable(setting))
    start, rows = time.perf_counter(), []
    with reporting(quiet=arguments.json):
        for one in tracked(chosen, "identities"):
            rows.append(measure(one, setting))
            if not arguments.json:
                tell(_line(rows[-1]))
    seconds = time.perf_counter() - start
    failed = [row for row in rows if not row.passed]
    if arguments.json:
        print(json.dumps([row.report() for row in rows]))
    else:
        names = f": {', '.join(row.identity.name for row in failed)}" if failed else ""
        print(f"\n{len(rows) - len(failed)} of {len(rows)} hold, in {arguments.precision}, {seconds:.0f} s{names}")
    if arguments.html is not None:
        from experiments.verification.report.html import table_page

        _write(arguments.html, table_page(rows, environment(arguments.precision, seconds)), arguments.json)
    return 1 if failed else 0


def _trained(arguments: VerifyArguments) -> int:
    from experiments.config.nodes import Generator
    from experiments.verification.trained.checks import check_run, lines

    for flag, given in (
        ("only", arguments.only),
        ("precision", arguments.precision != "float64"),
        ("dim", arguments.dim != 3),
    ):
        if given:
            raise UsageError(f"--{flag} goes with the identities, and --run checks a model; leave one of them out.")
    if arguments.run is not None and not arguments.run.exists():
        raise UsageError(f"--run {arguments.run} does not exist; give the folder that `scorefield train` wrote.")
    for name, least in (("samples", 16), ("batch", 1), ("seed", 0)):
        if getattr(arguments, name) < least:
            raise UsageError(f"--{name} is {getattr(arguments, name)}; give at least {least}.")
    assert arguments.run is not None
    which = CheckpointArguments(run=arguments.run, ema=arguments.ema, best=arguments.best)
    trained = load_run(which, arguments.data)
    if isinstance(trained.config.objective, Generator):
        raise UsageError(
            f"--run {arguments.run} is a generator of one step, which is no denoiser; see `scorefield evaluate` for "
            "its samples, and `scorefield anomaly` for its estimator of the data."
        )
    training, held_out = run_data(trained)
    start = time.perf_counter()
    with reporting(quiet=arguments.json):
        findings = check_run(
            trained,
            training,
            held_out,
            samples=arguments.samples,
            seed=arguments.seed,
            batch=arguments.batch,
            tell=lambda finding: warn(f"{finding.name}: {finding.verdict.partition(':')[0]}"),
        )
    seconds = time.perf_counter() - start
    if arguments.json:
        print(json.dumps([finding.report() for finding in findings]))
    else:
        print(lines(findings))
    if arguments.html is not None:
        from experiments.verification.report.html import run_page

        about = {"run": str(arguments.run), "checkpoint step": str(trained.step), **environment("float32", seconds)}
        _write(arguments.html, run_page(findings, about), arguments.json)
    return 1 if any(finding.out_of_line for finding in findings) else 0


def select(only: str | None, among: Sequence[Identity]) -> list[Identity]:
    """The identities with these topics, names or numbers; 19 also stands for 19a, 19b, ...

    Raises UsageError for a word that is neither a topic, a name nor a number.
    """
    if only is None:
        return list(among)
    words = [word.strip().lower() for word in only.split(",") if word.strip()]
    if not words:
        raise UsageError("--only is empty; name a topic, such as fokker-planck, or leave it out.")
    wanted = {one.name: set(_names(one)) for one in identities()}
    for word in words:
        if not any(word in names for names in wanted.values()):
            known = sorted({name for names in wanted.values() for name in names})
            topics = ", ".join(sorted({one.topic for one in identities()}))
            raise UsageError(f"--only {word} is no identity{did_you_mean(word, known)}; the topics are {topics}.")
    chosen = [one for one in among if wanted[one.name] & set(words)]
    if not chosen:
        raise UsageError(f"--only {only} has nothing to round to bfloat16; use --precision float32.")
    return chosen


def _names(one: Identity) -> tuple[str, ...]:
    row = one.row.lower()
    return *one.topics, one.name, row, row.rstrip("abcdefgh")


def _line(row: Row) -> str:
    """The two lines of a row: its numbers, and the sides that were compared."""
    one, mark = row.identity, "ok  " if row.passed else "FAIL"
    sign, unit = (">=" if one.kind == "false" else "<="), " standard errors" if one.kind == "statistical" else ""
    floor = f"  {row.report()['roundoffs']:.0f} roundoffs" if row.precision != "float64" and _has_floor(row) else ""
    numbers = f"{shown(row.measured.error):>8} {sign} {shown(one.allowed(row.precision))}{unit}{floor}"
    words = row.failure or one.compared + (f" ({row.measured.detail})" if row.measured.detail else "")
    return f"{mark} {one.row:4} {one.name:30} {numbers:38} {row.seconds:5.1f} s\n{'':10}{words}"


def _has_floor(row: Row) -> bool:
    return row.report()["roundoffs"] is not None


def environment(precision: str, seconds: float) -> dict[str, str]:
    """The facts on which the numbers depend: date, precision, device and versions."""
    import jax

    device = jax.devices()[0]
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "precision": precision,
        "time": f"{seconds:.0f} s",
        "device": device.device_kind,
        "python": platform.python_version(),
        **{name: version(name) for name in ("scorefield", "jax", "jaxlib", "numpy")},
    }


def _writable(path: Path) -> None:
    if path.is_dir():
        raise UsageError(f"--html {path} is a folder; name a file, such as {path / 'report.html'}.")
    if path.is_symlink() and path.is_file():
        raise UsageError(f"--html {path} is a link, and a report is written through none; name the file itself.")
    if not path.parent.exists():
        raise UsageError(f"--html {path}: the folder {path.parent} does not exist; make it first.")


def _write(path: Path, text: str, silent: Any) -> None:
    try:
        if path.exists() and not path.is_file():  # a pipe, or a terminal
            path.write_text(text, encoding="utf-8")
        else:
            write_text(path, text)
    except (OSError, UsageError) as error:
        raise UsageError(f"--html {path} cannot be written: {reason(error)}.") from None
    if not silent:
        print(path)
