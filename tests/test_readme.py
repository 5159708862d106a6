"""The README and the pages of docs/ are true: code runs, links lead somewhere, commands, flags and files exist."""

import contextlib
import dataclasses
import functools
import importlib.util
import io
import itertools
import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion.networks import MLPConfig
from experiments import cli, presets
from experiments.commands.spelling import ALIASES, COUNTS
from experiments.errors import ScorefieldError
from tests.experiments.conftest import on_one_device

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/*.md")))
}
README = PAGES["README.md"]
QUICK = {
    "docs/first_program.md": {
        "STEPS = 600": "STEPS = 3",
        "import UNetConfig": "import MLPConfig, UNetConfig",
        "blocks=1)": "blocks=1) and MLPConfig(hidden=8, layers=1)",
    },
    "docs/core.md": {"UniPC(), 8, shape=(64, 2))": "UniPC(), 8, shape=(64, 2), rounds=2)"},
}
"""What a page's code is changed to before it runs: few steps, and a network that compiles at once."""
OWN_PARTS = "docs/plugins.md"
"""The page whose code is a module of the user's: it registers names, and so it runs in a process of its own."""
ELSEWHERE = {
    "docs/python.md": "tests/experiments/interface/test_page.py",
    "docs/export.md": "tests/experiments/exporting/test_sampler.py",
    "docs/diffusers.md": "tests/interop/test_foreign.py",
}
"""Pages that another file runs."""


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


def pages_with(language):
    return [page for page in PAGES if blocks(page, language)]


def inline(text):
    """What stands between backticks, outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


# Code


def tiny(name):
    """A preset whose training takes seconds."""
    config = presets.load(name)
    every = dataclasses.replace(config.training, log_every=2, validate_every=4, checkpoint_every=4, sample_every=0)
    return dataclasses.replace(
        config,
        network=MLPConfig(hidden=8, layers=1, embedding=4),
        training=dataclasses.replace(every, steps=4, batch_size=16),
    )


@pytest.mark.parametrize("page", [page for page in pages_with("python") if page not in (OWN_PARTS, *ELSEWHERE)])
def test_python_blocks_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "import scorefield" in PAGES[page]:
        monkeypatch.setattr("scorefield.preset", tiny)
        monkeypatch.setattr("experiments.training.loop.make_replicas", on_one_device)
    code = blocks(page, "python")
    for old, new in QUICK.get(page, {}).items():
        assert sum(block.count(old) for block in code) == 1, f"{page} no longer has {old!r}"
        code = [block.replace(old, new) for block in code]
    scope = {}
    for block in code:
        exec(compile(block, page, "exec"), scope)
    if page == "docs/first_program.md":
        assert math.isfinite(scope["value"])
        assert (tmp_path / "first_program.png").stat().st_size > 1000


@pytest.mark.parametrize(("page", "file"), ELSEWHERE.items())
def test_other_pages_are_run_by_a_test_of_their_own(page, file):
    assert page in PAGES
    assert Path(page).name in (ROOT / file).read_text(encoding="utf-8")


def test_a_part_of_ones_own_takes_part_in_a_training(tmp_path):
    (tmp_path / "my_parts.py").write_text("".join(blocks(OWN_PARTS, "python")))
    train, sample = command_lines(OWN_PARTS, plugins=True)
    assert sample[1:3] == ["--plugin", "my_parts"]
    program = [sys.executable, "-m", "experiments.cli", *train, "--dry-run"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["config"]["schedule"] == {"type": "my_parts:Even", "sigma_max": 30.0}


def test_the_first_program_is_short_and_of_the_core_alone():
    program = blocks("docs/first_program.md", "python")[0]
    assert len([line for line in program.splitlines() if line and not line.startswith("#")]) <= 45
    assert "experiments" not in program


def test_the_readme_begins_with_how_to_install_and_two_commands():
    lines = README.splitlines()
    assert next(i for i, line in enumerate(lines) if line.startswith("pip install")) < 10
    install, first = blocks("README.md", "sh")[:2]
    assert "'.[train]'" in install
    assert re.findall(r"^make ([\w-]+)", first, re.MULTILINE) == ["demo", "test"]


# Commands


@pytest.mark.parametrize("page", PAGES)
def test_targets_of_make_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", PAGES[page], re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"


@functools.cache
def help_of(*arguments):
    """All that `scorefield ARGUMENTS --help` prints."""
    printed = io.StringIO()
    every = ["--help", "all"] if arguments == ("train",) else ["--help"]
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        assert cli.main([*arguments, *every]) == 0
    return printed.getvalue()


def flags(text):
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*(?:\.[a-z][\w-]*)*", text))


def command_lines(page, plugins=False):
    """The arguments of every `scorefield COMMAND ...` of a page, in blocks and sentences; or of those with --plugin."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()] + inline(PAGES[page])
    for line in lines:
        if re.match(rf"scorefield (?:{'|'.join(cli.COMMANDS)})\b", line) and plugins == ("--plugin" in line):
            yield shlex.split(line, comments=True)[1:]


CHOOSING = ("--sampler", "--kernel", "--preset", "--schedule", "--noise", "--network", "--objective")
"""Flags that change which other flags there are."""


@pytest.mark.parametrize("page", [page for page in PAGES if list(command_lines(page))])
def test_commands_have_the_flags_that_are_shown(page):
    for command, *arguments in command_lines(page):
        pairs = itertools.pairwise(arguments)
        choices = [part for flag, value in pairs if flag in CHOOSING and not value.isupper() for part in (flag, value)]
        known = flags(help_of(command, *choices)) | flags(help_of())  # which has those of every command
        assert not flags(" ".join(arguments)) - known, f"scorefield {command} {shlex.join(arguments)}"


def test_flags_within_sentences_exist():
    chosen = [
        (),
        ("train",),
        ("train", "--schedule", "edm"),
        ("train", "--objective", "generator"),
        ("train", "--objective", "flow-map"),
        ("train", "--noise", "student-t"),
        ("train", "--network", "dit"),
        ("evaluate",),
    ]
    chosen += [
        ("sample",),
        ("sample", "--sampler", "flow-map"),
        ("sample", "--kernel", "mala"),
        ("grid",),
        ("anomaly",),
        ("verify",),
        ("import",),
    ]
    chosen += [("edit",), ("interpolate",), ("likelihood",), ("export",), ("compare",)]
    known = set().union(*(flags(help_of(*arguments)) for arguments in chosen))
    known |= flags((ROOT / "tests" / "conftest.py").read_text())  # those that pytest is given
    known |= {*ALIASES, *COUNTS}
    for page, text in PAGES.items():
        for code in inline(text):
            if code.startswith("--"):
                assert not flags(code) - known - {"--sampler"}, f"{page}: {code}"


@pytest.mark.parametrize("page", PAGES)
def test_trainings_that_are_shown_are_ones_that_train_accepts(page, capsys, monkeypatch):
    monkeypatch.setattr("experiments.tracking.choice.require_trackers", lambda config: None)  # extras of the reader's
    for command, *arguments in command_lines(page):
        away = {"NAME", "--help", "--run", "--config", "--init-from"}  # a run or a file has to be there
        if command == "train" and not away & set(arguments):
            status, said = cli.main([command, *arguments, "--dry-run"]), capsys.readouterr().err
            missing = status == 3 and "does not exist; correct the path after" in said  # the reader's pictures
            assert missing or status in (0, 8), said  # nor need the memory be here


def test_a_flag_that_does_not_exist_is_found(monkeypatch):
    monkeypatch.setitem(PAGES, "README.md", README.replace("--seeds 0-63", "--sedes 0-63"))
    with pytest.raises((AssertionError, ScorefieldError), match="sedes"):
        test_commands_have_the_flags_that_are_shown("README.md")


# Links and files


def anchor(heading):
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_lead_somewhere(page):
    without_formulas = re.sub(r"\$\$.*?\$\$", "", PAGES[page], flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", without_formulas):
        if re.match(r"https?:", link):
            continue
        path, _, place = link.partition("#")
        there = (ROOT / page).parent / path if path else ROOT / page
        assert there.exists(), link
        if place:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert place in map(anchor, headings), link


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_files_that_are_named_exist(page):
    code = [*inline(PAGES[page]), *(line for block in blocks(page, "sh") for line in block.splitlines())]
    named = {name for line in code for name in re.findall(r"[\w/]+(?:\.\w+|/)", line)}
    for name in named:
        if re.match(r"(?:diffusion|samplers|experiments|scorefield|benchmarks|tests|docs)/", name):
            assert (ROOT / name).exists(), name
    for module in {name for line in code for name in re.findall(r"python -m ([\w.]+)", line)}:
        assert importlib.util.find_spec(module), module


def rooms(section):
    """The names in the first column of a section of the map."""
    text = PAGES["docs/map.md"]
    table = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert table, section
    return {name for row in re.findall(r"^\| (`.*?) \|", table[1], re.MULTILINE) for name in inline(row)}


PACKAGES = re.findall(r"^## (\w+)$", PAGES["docs/map.md"], re.MULTILINE)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_map_names_every_room_and_no_other(package):
    there = {path.name + "/" * path.is_dir() for path in (ROOT / package).iterdir() if path.suffix in ("", ".py")}
    assert rooms(package) == {name for name in there if not name.startswith(("__", "."))}


def test_the_map_has_every_package():
    there = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert there - {"tests", "benchmarks"} == set(PACKAGES)


# Tables


def test_the_table_of_presets_has_all_of_them_and_their_own_results():
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| ([^|]*) \| ([^|]*) \|$", README, re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == presets.names()
    for name, time, result in rows:
        said = " ".join(presets.describe(name).lower().split())
        for fact in (*re.findall(r"\d+ min \d+ s|\d+ min|\d+ s", time), *re.findall(r"\d+\.\d+ ± \d+\.\d+", result)):
            assert fact in said, f"{name}: {fact}"
        assert result == "not run by us" or "±" in result


def test_rows_of_orders_in_the_readme_are_those_of_the_generated_page():
    section = README[README.index("## What is checked") :]
    rows = re.findall(r"^\|(?! page| `|-).*\|$", section[: section.index("\n## ", 1)], re.MULTILINE)
    assert len(rows) == 4
    assert set(rows) <= set(PAGES["docs/orders.md"].splitlines())
