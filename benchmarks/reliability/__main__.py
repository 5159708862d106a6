"""What scorefield does when something goes wrong: python -m benchmarks.reliability [PART ...] [--json FILE].

kills           SIGKILL at drawn instants of the loop, and within saves
signals         SIGTERM and SIGINT in every phase, twice, and while pictures are drawn
damage          a changed byte and a cut in every file of a run
disk            a file system that is too small
folders         several commands in one folder
processes       one run of two processes, one of which is killed
reader          a run that is read while it trains
links           links at every name that is written
formats         mutated pictures, archives and checkpoints whose checksums are valid
configurations  wrong and hostile configurations and flags
memory          the peak of `sample --format png` at two numbers of seeds; data beyond --data.memory-gib

Without a PART all are run, in about an hour on two cores. It prints the table of docs/reliability.md; `--json` keeps
every row, with a line for each trial that went wrong. Every draw is made by `--seed`. The status is 1 where anything
went wrong. `disk` mounts file systems where it is allowed to, and says so where it is not.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from benchmarks.reliability import (
    configurations,
    damage,
    disk,
    formats,
    links,
    memory,
    stops,
    together,
)
from benchmarks.reliability.rows import Row, documents, table
from benchmarks.reliability.setting import Bench

COUNTS = {
    "kills": (50, 2),
    "save-kills": (20, 1),
    "signals": (12, 1),
    "flips": (6, 1),
    "cuts": (3, 1),
    "resumes": (2, 0),
    "disks": (12, 1),
    "races": (5, 1),
    "pairs": (4, 1),
    "loads": (200, 20),
    "formats": (2000, 50),
    "configurations": (1000, 60),
    "memory-seeds": (20000, 200),
}
"""How often each thing is done, and with --quick."""
LIBRARIES = ("scorefield", "jax", "jaxlib", "numpy", "orbax-checkpoint", "pillow")


def parts(counts: dict[str, int]) -> dict[str, Callable[[Bench], Iterator[Row]]]:
    """The parts by name, each a function of the bench."""
    return {
        "kills": lambda bench: stops.kills(bench, counts["kills"], counts["save-kills"]),
        "signals": lambda bench: stops.signals(bench, counts["signals"]),
        "damage": lambda bench: damage.damage(bench, counts["flips"], counts["cuts"], counts["resumes"]),
        "disk": lambda bench: disk.disk(bench, counts["disks"]),
        "folders": lambda bench: together.folders(bench, counts["races"]),
        "processes": lambda bench: together.processes(bench, counts["pairs"]),
        "reader": lambda bench: together.reader(bench, counts["loads"]),
        "links": links.links,
        "formats": lambda bench: formats.formats(bench, counts["formats"]),
        "configurations": lambda bench: configurations.configurations(bench, counts["configurations"]),
        "memory": lambda bench: memory.memory(bench, counts["memory-seeds"]),
    }


def main() -> int:
    """Run the parts that are asked for, and print their table."""
    names = list(parts({}))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", help=f"which of {', '.join(names)}", metavar="PART")
    parser.add_argument("--seed", type=int, default=0, help="the seed of every draw")
    parser.add_argument("--folder", type=Path, help="where the trials are made, and stay")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the rows, and what went wrong")
    parser.add_argument("--quick", action="store_true", help="a little of everything, to see that it works")
    for name, (often, seldom) in COUNTS.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"[{often}; {seldom} with --quick]")
    arguments = parser.parse_args()
    if unknown := set(arguments.part) - set(names):
        parser.error(f"{', '.join(sorted(unknown))} is no part; there are {', '.join(names)}.")
    given = {name: getattr(arguments, name.replace("-", "_")) for name in COUNTS}
    counts = {name: given[name] if given[name] is not None else COUNTS[name][arguments.quick] for name in COUNTS}
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="reliability-"))
    bench = Bench(folder, arguments.seed, lambda line: print(f"  {line}", file=sys.stderr, flush=True))
    rows: list[Row] = []
    facts = {
        "date": datetime.date.today().isoformat(),
        "seed": arguments.seed,
        "counts": counts,
        "versions": versions(),
    }
    seconds: dict[str, float] = {}
    for name in arguments.part or names:
        start = time.monotonic()
        for row in parts(counts)[name](bench):
            rows.append(row)
            print(table([row]).splitlines()[-1], flush=True)
            for line in row.wrong:
                print(f"  WRONG: {line}", flush=True)
        seconds[name] = round(time.monotonic() - start, 1)
        if arguments.json:
            arguments.json.write_text(
                json.dumps({**facts, "seconds": seconds, "rows": documents(rows)}, indent=1) + "\n"
            )
    print(f"\n{table(rows)}\n\n{facts['date']}, {facts['versions']}, seconds {seconds}")
    if not arguments.folder:
        shutil.rmtree(folder, ignore_errors=True)
    return int(any(row.wrong for row in rows))


def versions() -> dict[str, str]:
    """What was measured."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        found[name] = metadata.version(name)
    return found


if __name__ == "__main__":
    sys.exit(main())
