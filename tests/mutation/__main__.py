"""Does the suite notice a wrong formula? Seeds faults into `diffusion/` and `samplers/` and counts those that it finds.

    python -m tests.mutation                                       240 mutants, two at a time
    python -m tests.mutation --only diffusion/process.py --list    what they would be
    python -m tests.mutation --json run.json                       what became of each
    python -m tests.mutation --survivors-only run.json             those that lived, again

The suite is run once without a fault, to learn which blocks of the code each test enters and how long it takes; that
is kept beside pytest's cache and learnt again where files have changed. A mutant is judged in a fork of a process that
has imported everything but the code, by the tests that enter its block, until one fails; it survives when all pass.
Nothing is written to the tree: tests run on a copy, and the importer is given the mutant in the place of its file.

Survivors that were looked at are explained in `survivors.toml`; those that compute the same as the original
are no faults, and do not count. The exit status is 0 when 95% of the others are killed and every survivor is explained.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import json
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

from tests.mutation.forks import Case, Run, forked, judge, record
from tests.mutation.mutants import OPERATORS, Mutant, mutants_of, sources

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".pytest_cache" / "mutation"
TABLE = ROOT / "tests" / "mutation" / "survivors.toml"
SUITES = ("tests/diffusion", "tests/samplers")
COPIED = (
    "diffusion",
    "samplers",
    "experiments",
    *SUITES,
    "pyproject.toml",
    "README.md",
    "docs/orders.md",
)
IMPORTED = ("beartype", "diffrax", "flax.nnx", "hypothesis.strategies", "jaxtyping", "scipy.integrate", "scipy.stats")
"""What takes long to import, and knows nothing of the code."""
RATE = 0.95


class Known(NamedTuple):
    """What a run without a fault tells of a test."""

    seconds: float
    blocks: frozenset[str]


def baseline(root: Path, jobs: int) -> dict[str, Known]:
    """What is known of every test, from the cache or by running its file. Exits when the code as it is fails one."""
    kept_at = CACHE / "baseline.json"
    kept = json.loads(kept_at.read_text()) if kept_at.exists() else {}
    files = [
        path.relative_to(root).as_posix() for suite in SUITES for path in sorted((root / suite).rglob("test_*.py"))
    ]
    shared = hashlib.sha256()  # of what every test may depend on; of experiments/ they need the orders
    for path in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".toml", ".md")):
        if not path.name.startswith("test_") and ("experiments" not in path.parts or "verification" in path.parts):
            shared.update(path.read_bytes())
    keys = {file: hashlib.sha256(shared.digest() + (root / file).read_bytes()).hexdigest() for file in files}
    todo = [file for file in files if kept.get(file, {}).get("key") != keys[file]]
    failures: list[str] = []
    for run in forked(record, root, todo, jobs, lambda _: 900.0):
        found, failed = run.said("test"), run.said("failed")
        if failed or run.said("ended") != [0] or not found:
            failures += failed or [f"{run.task} ended with {run.said('ended')}"]
        else:
            tests = {name: [seconds, blocks] for name, seconds, blocks in found}
            kept[run.task] = {"key": keys[run.task], "tests": tests}
            kept_at.write_text(json.dumps(kept))
        took = time.monotonic() - run.started
        print(f"{run.task}: {len(found)} tests, {len(failed)} failed, {took:.0f} s", flush=True)
    if failures:
        sys.exit("\n".join(["", *failures, "", "These fail without any fault; mend them first."]))
    return {
        name: Known(seconds, frozenset(blocks))
        for file in files
        for name, (seconds, blocks) in kept[file]["tests"].items()
    }


def sample(found: Mapping[str, Sequence[Mutant]], count: int, seed: int) -> list[Mutant]:
    """About `count` mutants, the same for the same files and seed: some of every file, of every operator in turn."""
    left = {path: _in_turn(mutants, random.Random(f"{seed} {path}")) for path, mutants in found.items() if mutants}
    shares = dict.fromkeys(left, 1)
    while sum(shares.values()) < min(count, sum(map(len, left.values()))):
        open_files = [path for path in left if shares[path] < len(left[path])]
        shares[max(open_files, key=lambda path: (sqrt(len(left[path])) / shares[path], path))] += 1
    chosen = [mutant for path, share in shares.items() for mutant in left[path][:share]]
    return sorted(chosen, key=lambda mutant: (mutant.path, mutant.edit))


def _in_turn(mutants: Sequence[Mutant], rng: random.Random) -> list[Mutant]:
    kinds = [[mutant for mutant in mutants if mutant.operator == name] for name in OPERATORS]
    for kind in kinds:
        rng.shuffle(kind)
    rng.shuffle(kinds)
    rarest = min((kind for kind in kinds if kind), key=len)
    kinds.sort(key=lambda kind: kind is not rarest)  # which is drawn nowhere otherwise
    return [mutant for turn in zip_longest(*kinds) for mutant in turn if mutant is not None]


def judges(mutant: Mutant, texts: dict[str, str], known: dict[str, Known]) -> list[str]:
    """The tests that can see a mutant, the likeliest first: one of each function, near, quick."""
    if mutant.block is not None:
        reached = [name for name, test in known.items() if f"{mutant.path}:{mutant.block}" in test.blocks]
    else:  # a table, read by whatever is in its module or imports it
        named = _defined(texts[mutant.path])
        readers = (mutant.path, *(path for path, text in texts.items() if _imports(text, mutant.path, named)))
        reached = [name for name, test in known.items() if any(block.startswith(readers) for block in test.blocks)]
    reached.sort(key=lambda name: known[name].seconds)
    variants: Counter[str] = Counter()
    parts = Path(mutant.path).with_suffix("").parts

    def place(name: str) -> tuple[Any, ...]:
        function, seconds, file = name.partition("[")[0], known[name].seconds, Path(name.partition("::")[0])
        variants[function] += 1
        near = sum(part in (*file.parts, file.stem.removeprefix("test_")) for part in parts)
        return seconds > 5, variants[function] > 1, -near, round(seconds, 1) if seconds < 1 else round(seconds), name

    return [name for _, name in sorted((place(name), name) for name in reached)]


def _imports(text: str, path: str, names: frozenset[str]) -> bool:
    """Whether a program imports the module at `path`, or one of its `names` by way of a package above it."""
    module = path.removesuffix(".py").replace("/", ".")
    package, _, own = module.rpartition(".")
    return any(
        node.module == module
        or (node.module == package and any(alias.name == own for alias in node.names))
        or (module.startswith(f"{node.module}.") and any(alias.name in names for alias in node.names))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom)
    )


def _defined(text: str) -> frozenset[str]:
    """The names that a module gives to what is in it."""
    body = ast.parse(text).body
    kinds = (ast.FunctionDef, ast.ClassDef)
    stored = (n.id for s in body for n in ast.walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    return frozenset((*stored, *(statement.name for statement in body if isinstance(statement, kinds))))


def verdict(run: Run) -> dict[str, Any]:
    """What became of a mutant, as a row of the report."""
    mutant, last = run.task.mutant, (run.said("started") or ["the first import"])[-1]
    if run.said("failed"):
        outcome, by = "killed", run.said("failed")[0]
    elif run.said("broken"):
        outcome, by = "killed", "the import of it"
    elif run.late:
        outcome, by = "timeout", last
    elif run.said("passed"):
        outcome, by = "survived", f"{len(run.task.tests)} tests"
    else:
        outcome, by = "crashed", last
    row = dict(zip(("file", "function", "before", "after"), mutant.key, strict=True))
    seconds = round(time.monotonic() - run.started, 1)
    return {**row, "line": mutant.line, "operator": mutant.operator, "outcome": outcome, "by": by, "seconds": seconds}


def report(rows: Sequence[dict[str, Any]]) -> int:
    """Print what became of the mutants; 0 when enough were killed and all that survived are explained."""
    explained = (
        {key(entry): entry for entry in tomllib.loads(TABLE.read_text()).get("survivor", [])} if TABLE.exists() else {}
    )
    survivors = [row for row in rows if row["outcome"] == "survived"]
    known = [explained[key(row)] for row in survivors if key(row) in explained]
    equivalent = sum(entry["equivalent"] for entry in known)
    for row in survivors:
        entry = explained.get(key(row), {"equivalent": False, "why": "not explained"})
        place = f"{row['file']}:{row['line']} in {row['function'] or 'the module'} [{row['operator']}]"
        print(f"\n{place}, {row['by']}: {'equivalent: ' if entry['equivalent'] else ''}{entry['why']}")
        print(f"  - {row['before']}\n  + {row['after']}")
    for row in rows:
        if row["outcome"] != "survived" and key(row) in explained:
            print(f"\nExplained in {TABLE.name}, and no longer a survivor: {' | '.join(key(row))}")
    counts = Counter(row["outcome"] for row in rows)
    faults = len(rows) - equivalent
    killed = faults - counts["survived"] + equivalent
    rate = killed / max(faults, 1)
    print(f"\n{len(rows)} mutants: {', '.join(f'{n} {outcome}' for outcome, n in counts.most_common())}")
    print(f"{equivalent} equivalent; {killed} of the other {faults} killed, {rate:.1%}; {RATE:.0%} are wanted")
    print(f"{len(survivors) - len(known)} survivors are not explained")
    return int(rate < RATE or len(known) < len(survivors))


def key(row: dict[str, Any]) -> tuple[str, ...]:
    """What names a mutant in tables, however the lines around it move."""
    return tuple(row[name] for name in ("file", "function", "before", "after"))


def chosen(options: argparse.Namespace, texts: dict[str, str]) -> list[Mutant]:
    """The mutants that the options ask for."""
    for path in options.only or ():
        if path not in texts:
            sys.exit(f"--only {path}: no such file in which faults are seeded, such as diffusion/process.py.")
    found = {path: mutants_of(path, text) for path, text in texts.items() if path in (options.only or texts)}
    if options.survivors_only is None:
        return sample(found, options.count, options.seed)
    again = {key(row) for row in json.loads(options.survivors_only.read_text()) if row["outcome"] == "survived"}
    return [mutant for mutants in found.values() for mutant in mutants if mutant.key in again]


def warm_up() -> None:
    """Import what the forks share, under the suite's own settings, and start no device."""
    runpy.run_path(str(ROOT / "tests" / "conftest.py"))
    for name in IMPORTED:
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("diffusion", "samplers", "experiments")]:
        del sys.modules[name]  # forks take them from the copy
    from jax._src import xla_bridge

    if xla_bridge.backends_are_initialized():
        raise RuntimeError("an import has started a device, which no fork survives")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Seed faults into the formulas and count those that the tests find.")
    parser.add_argument("--count", type=int, default=240, help="how many mutants")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument(
        "--only", nargs="+", metavar="FILE", help="files to seed faults into, such as diffusion/process.py"
    )
    parser.add_argument("--jobs", type=int, default=2, help="mutants judged at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what became of each mutant")
    parser.add_argument("--list", action="store_true", help="print the mutants and judge none")
    parser.add_argument(
        "--survivors-only", type=Path, metavar="FILE", help="judge the survivors of an earlier run's --json"
    )
    options = parser.parse_args()
    if options.list:
        for mutant in chosen(options, sources(ROOT)):
            print(f"{mutant.path}:{mutant.line} [{mutant.operator}]\n  - {mutant.before}\n  + {mutant.after}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that forks and the copy go too
    warm_up()
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        return report(judged(options, Path(folder)))


def judged(options: argparse.Namespace, root: Path) -> list[dict[str, Any]]:
    """A row for each mutant, judged on a copy of the tree at `root`."""
    files = [path.name for path in (ROOT / "tests").iterdir() if path.is_file() and not path.name.startswith("test_")]
    for name in (*COPIED, *(f"tests/{file}" for file in files)):  # conftest.py, and what it uses
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / name)
    (CACHE / "jax").mkdir(parents=True, exist_ok=True)
    (root / ".pytest_cache").mkdir()
    (root / ".pytest_cache" / "jax").symlink_to(CACHE / "jax")  # where conftest.py keeps compiled programs
    texts = sources(root)
    mutants, known, rows = chosen(options, texts), baseline(root, options.jobs), []

    def patience(said: tuple[str, Any] | None) -> float:
        """A minute more than ten times what the test took without a fault; imports and collection have two."""
        return 60 + 10 * known[said[1]].seconds if said and said[0] == "started" and said[1] in known else 120.0

    names = frozenset(known)
    cases = [Case(m, m.apply(texts[m.path]), judges(m, texts, known), names) for m in mutants]
    for run in forked(judge, root, cases, options.jobs, patience):
        row = verdict(run)
        rows.append(row)
        place = f"{row['file']}:{row['line']} [{row['operator']}]"
        print(f"{len(rows)}/{len(cases)} {row['outcome']} in {row['seconds']} s: {place} by {row['by']}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))
    return rows


if __name__ == "__main__":
    sys.exit(main())
