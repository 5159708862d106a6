"""The tests give their programs back: neither maps nor memory grow with the suite."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax._src.interpreters import mlir

from tests import footprint, lowering

ROOT = Path(__file__).parents[1]
PROGRAMS = 40
MAPS = 2 * PROGRAMS
"""Fewer than any so many programs hold."""

pytestmark = pytest.mark.skipif(footprint.maps() == 0, reason="the system does not tell a process its memory maps")


def test_programs_hold_maps_until_they_are_given_back():
    jax.jit(lambda x: x)(np.ones(3, np.float32))  # whose first call starts the device
    footprint.give_back()
    before = footprint.maps()
    functions = [jax.jit(lambda x, n=n: x * n + n) for n in range(PROGRAMS)]
    for function in functions:
        function(np.ones(3, np.float32))
    assert footprint.maps() - before > MAPS
    footprint.give_back()
    assert footprint.maps() - before < MAPS / 4, "the functions live on, but their programs do not"


def test_programs_are_written_down_in_one_context_until_it_is_given_back():
    if lowering.shares_already():
        pytest.skip("this version of JAX has one context of its own for all programs")
    before = mlir.make_ir_context()
    jax.jit(lambda x: x + 1)(np.ones(3, np.float32))
    assert mlir.make_ir_context() is before
    footprint.give_back()
    assert mlir.make_ir_context() is not before
    np.testing.assert_array_equal(jax.jit(lambda x: x + 2)(np.ones(3, np.float32)), 3)


CONFTEST = """
import jax, numpy, pytest
from tests import footprint
from tests.conftest import pytest_addoption, pytest_configure

footprint.FEW = footprint.PROGRAMS = 10
kept = []

@pytest.mark.parametrize("n", range({programs}))
def test_a_program(n):
    kept.append(jax.jit(lambda x: x * n + n))
    kept[-1](numpy.ones(3, numpy.float32))
    if n == 0:  # whose first call starts the device
        with open("begun", "w") as file:
            file.write(str(footprint.maps()))
"""
ROW = re.compile(r"^\| test_programs\.py \| .* \| (\d+) \|$", re.MULTILINE)


def most_held(folder, workers):
    """(maps beyond those after the first program, MiB) that the last line of a run of small programs tells of."""
    folder.mkdir()
    (folder / "conftest.py").write_text(CONFTEST.format(programs=PROGRAMS + 10))
    (folder / "test_programs.py").write_text("from conftest import test_a_program")
    command = (sys.executable, "-m", "pytest", "-q", "-n", workers, "--by-kind", "-p", "no:cacheprovider", str(folder))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    said = re.search(
        r"^Most that a process of the tests held: ([\d,]+) maps, ([\d,]+) MiB\.$", run.stdout, re.MULTILINE
    )
    assert said is not None, run.stdout
    row = ROW.search(run.stdout)
    assert row is not None, run.stdout
    assert int(row.group(1)) >= PROGRAMS
    maps, memory = (int(number.replace(",", "")) for number in said.groups())
    return maps - int((folder / "begun").read_text()), memory


def test_a_run_holds_few_programs_and_says_so(tmp_path):
    """Alone and as a worker: fewer maps than its programs would hold together."""
    for workers in ("0", "1"):
        held, memory = most_held(tmp_path / workers, workers)
        assert 0 < memory < 2048
        assert held < MAPS
