"""Wrong and hostile configurations, as files and as flags: used, or refused in one line, and nothing is executed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.reliability.mutators import values
from benchmarks.reliability.rows import Row, refusal, untidy
from benchmarks.reliability.setting import Bench
from benchmarks.reliability.workers import supervise
from experiments import cli
from experiments.config.file import to_json
from experiments.config.tree import Config
from experiments.names import flag_of
from experiments.training.differences import flat

SECONDS = 30
CANARY = "scorefield_canary"
"""A module that is there, and that no configuration may import."""
WORDS = (
    *("", " ", "nan", "inf", "-inf", "-1", "0", "1e999", "1e4", "1.5", "99999999999999999999", "1_000", "0x10", "true"),
    *("None", "[1,2]", "{}", "1,2,,3", "a\nb", "\x1b[31m", "x" * 5000, "é", "../../..", "--", "-", "$(exit 3)", "%s%n"),
    *(
        CANARY,
        f"{CANARY}:Thing",
        f"__import__('{CANARY}')",
        "os:system",
        "builtins:exec",
        "vp",
        "VP",
        "\u202e",
        "/dev/null",
    ),
)
OTHERS = ("--data", "--preset", "--config", "--run", "--schedule", "--noise", "--network", "--objective", "--plugin-s")


def configurations(bench: Bench, count: int) -> Iterator[Row]:
    """Half of them files, half of them flags."""
    known = bench.twin / "config.json"
    (bench.folder / f"{CANARY}.py").write_text("")  # that has been imported is in sys.modules
    for kind in ("a configuration file", "flags"):
        row = Row(
            f"wrong and hostile values in {kind}",
            "used where they make sense, else refused in one line of at most 300 characters; nothing is executed",
            "`configurations`; tests/experiments/test_damage.py, config/test_config.py",
        )
        share = count - count // 2 if kind == "flags" else count // 2
        supervise(_work, (kind, (bench.folder, bench.data, known), bench.seed * 10**6), share, SECONDS, row)
        bench.log(f"{row.trials} configurations")
        yield row


def _work(kind: str, place: tuple[Path, Path, Path], seed: int, first: int, count: int, answers: Connection) -> None:
    folder, data, known = place
    sys.path.insert(0, str(folder))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where XLA prints by itself; what the command prints is caught
    good = json.loads(known.read_text())
    for number in range(first, count):
        rng = random.Random(f"{kind} {seed + number}")
        path = folder / "hostile.json"
        if kind == "flags":
            arguments = ["train", "--preset", "mnist-edm-unet", "--data", f"npz:{data}", *_flags(rng)]
        else:
            changed = values(good, rng)
            if isinstance(changed, dict) and rng.random() < 0.2:
                changed["plugins"] = rng.choice([[CANARY], CANARY, [3], {}, [f"{CANARY}.x"], ["../" + CANARY]])
            path.write_text(json.dumps(changed))
            arguments = ["train", "--config", str(path)]
        answers.send(_told([*arguments, "--dry-run", "--outdir", str(folder / "no-run")]))


def _flags(rng: random.Random) -> list[str]:
    known = [f"--{flag_of(name)}" for name in flat(to_json(Config())) if not name.endswith("type")]
    given = []
    for _ in range(rng.randint(1, 2)):
        flag = rng.choice([*known, *OTHERS]) if rng.random() < 0.9 else rng.choice(known)[:-2]
        given += [f"{flag}={rng.choice(WORDS)}"] if rng.random() < 0.5 else [flag, rng.choice(WORDS)]
    return given


def _told(arguments: list[str]) -> tuple[str, list[str]]:
    """(used or refused, what is wrong with what the command did)."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main(arguments)
    except SystemExit as stop:
        status = stop.code
        if status not in (0, None):
            return "left", [f"SystemExit {status!r:.80}: {arguments[1:4]!r:.200}"]
    except BaseException as error:
        return "raised", [f"a traceback, {type(error).__name__}: {str(error)[:100]}, of {arguments[5:]!r:.200}"]
    wrong = untidy(err.getvalue()) if status == 0 else refusal(err.getvalue(), alone=True)
    if CANARY in sys.modules:
        wrong.append(f"{CANARY} was imported")
    if Path(arguments[-1]).exists():
        wrong.append("a folder was made")
    return "used" if status == 0 else "refused", [f"{line}, of {arguments[5:]!r:.200}" for line in wrong]
