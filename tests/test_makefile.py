"""`make` says in one sentence what is wrong with an interpreter."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKE = shutil.which("make") or ""

pytestmark = pytest.mark.skipif(not MAKE, reason="there is no make on this machine")


def make(folder, script):
    """What `make` says to an interpreter that is this script of the shell, and what it made."""
    interpreter = folder / "python9"
    interpreter.write_text(f"#!/bin/sh\n{script}\n")
    interpreter.chmod(0o755)
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "pyproject.toml").touch()
    # As if from a shell: the suite itself is run by `make`, whose variables would make this one speak of folders too.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    run = subprocess.run(
        (MAKE, f"PYTHON={interpreter}", "test"),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.returncode, run.stdout, sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("script", "wrong"),
    [
        ("echo pyenv: python9: command not found >&2; exit 127", "cannot be run"),  # a version manager's stub
        ('case "$2" in *version_info*) exit 1;; esac', "is older"),
    ],
    ids=["a stub", "an old one"],
)
def test_an_interpreter_that_will_not_do_is_refused_and_nothing_is_made(script, wrong, tmp_path):
    status, out, made = make(tmp_path, script)
    assert status == 2
    remedy = "try make PYTHON=python3.12."
    assert out == f"scorefield needs Python 3.11 or newer, and {tmp_path / 'python9'} {wrong}; {remedy}\n"
    assert made == ["Makefile", "pyproject.toml", "python9"]


def test_an_interpreter_that_is_not_there_cannot_be_run(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    command = (MAKE, "PYTHON=nowhere", "test")
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "and nowhere cannot be run;" in run.stdout
