"""What is dear to make is made once: by the first worker that needs it, while the others wait."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest


def session_folder(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder of the whole run of the suite, which all of its workers see."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def made_once(parent: Path, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `parent/name`, filled by `make(folder)` in the first process that asks for it.

    A folder beside it says that the work has begun, a file that it is done. Where `make` fails, its error is raised
    and the next process tries anew. A test that waits in vain ends by its timeout.
    """
    folder, begun, done = parent / name, parent / f"{name}.begun", parent / f"{name}.done"
    while not done.exists():
        try:
            begun.mkdir(parents=True)
        except FileExistsError:
            time.sleep(0.05)
            continue
        try:
            if not done.exists():  # it may have been made since we looked
                make(folder)
                done.touch()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            begun.rmdir()
    return folder
