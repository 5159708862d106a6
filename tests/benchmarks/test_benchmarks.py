"""The comparison of samplers measures what it says: calls are counted, answers are exact, tables are whole."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.comparison import accuracy, others, plots, problems
from diffusion.oracles import GaussianMixture, flow_map_1d
from samplers import DDIM
from samplers.registry import SAMPLERS

FEW, MANY = 6, 24
CHOSEN = ("ddim", "dpmpp-2m", "deis(3, rho, single-step)", "heun on RectifiedFlow")


@pytest.fixture(scope="module")
def plane():
    with jax.enable_x64(True):
        return problems.problem("2-D", batch=8)


@pytest.fixture(scope="module")
def rows(plane):
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        patch.delitem(accuracy.GRIDS, accuracy.FITTED_GRID)  # a fit takes as long as all the rest
        return list(accuracy.ours(plane, (FEW, MANY), CHOSEN))


def test_only_some_samplers_have_their_grid_fitted(plane):
    with pytest.raises(ValueError, match="not fitted"):
        accuracy.fitted(plane, DDIM(), FEW)
    assert not np.allclose(problems.sibling("2-D").means, plane.law.means)


def test_no_budget_is_exceeded_and_none_is_wasted(rows):
    assert {row.sampler for row in rows} == set(CHOSEN)
    assert all(row.budget - 1 <= row.nfe <= row.budget for row in rows)


def test_more_calls_are_more_accurate_on_every_usual_grid(rows):
    for sampler in CHOSEN:
        for grid in ("karras", "uniform-log-snr", "cosine"):
            few, many = (accuracy.best(rows, sampler=sampler, grid=grid, budget=n).error for n in (FEW, MANY))
            assert many < few, (sampler, grid)


def test_a_sampler_that_miscounts_its_calls_is_found_out(plane, monkeypatch, x64):
    class Liar(DDIM):
        def nfe(self, steps, to_data):
            return steps + 1

    monkeypatch.setattr(accuracy, "variants", lambda: [("liar", Liar(), problems.PROCESS)])
    with pytest.raises(RuntimeError, match="liar: 5 calls, where it says 6"):
        list(accuracy.ours(plane, (FEW,)))


def test_the_reference_is_the_exact_flow(x64):
    law = GaussianMixture.isotropic(means=np.asarray([[-1.0], [1.5]]), stds=np.asarray([0.3, 0.5]))
    start = law.sample_marginal(jax.random.key(0), problems.PROCESS, 8, problems.SIGMA_MAX)
    exact = flow_map_1d(law, problems.PROCESS, start, problems.SIGMA_MAX, 0.0)
    np.testing.assert_allclose(problems.flow(law, np.asarray(start), 1e-11), exact, atol=1e-9)


def test_the_table_has_a_line_for_each_budget_and_the_picture_is_drawn(rows, tmp_path):
    first = accuracy.best(rows, budget=FEW)
    other = dataclasses.replace(first, origin="another", sampler="its sampler", error=first.error / 2)
    lost = dataclasses.replace(other, sampler="lost", error=float("nan"))
    few, many = accuracy.table([*rows, lost, other]).splitlines()[2:]
    assert few.startswith(f"| 2-D | {FEW} | {first.sampler}, {first.grid}")
    assert "another its sampler" in few
    assert "| 2.00 |" in few
    assert many.startswith(f"| 2-D | {MANY} |")
    assert "none" in many
    assert accuracy.report([lost])[0]["error"] is None
    plots.plot([*rows, other], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def _follows_a_flow(sampler):
    return not (sampler.stochastic or sampler.takes_pair or sampler.takes_both_times)


def test_every_deterministic_sampler_of_the_registry_is_measured():
    labels = [label for label, _, _ in accuracy.variants()]
    assert len(set(labels)) == len(labels)
    deterministic = {name for name, entry in SAMPLERS.items() if _follows_a_flow(entry.default())}
    assert deterministic == {label.partition("(")[0] for label in labels if " on " not in label}
    assert set(accuracy.VARIANTS) <= deterministic


def test_a_library_that_is_missing_is_reported_and_left_out(monkeypatch):
    def absent():
        raise ImportError("No module named 'absent'")

    monkeypatch.setattr(others, "LIBRARIES", {"absent": absent})
    assert others.others() == ([], ["absent is left out: No module named 'absent'"])


SCRIPTS = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_hides_no_package(script):
    """Python looks in a script's own folder first; no file there may have the name of something imported."""
    assert script.stem not in {"diffusion", "samplers", "experiments", *sys.stdlib_module_names}
    assert "sys.path" not in script.read_text(encoding="utf-8")


def test_the_orders_are_printed_by_their_script_alone():
    """It is run from its own folder, and finds the packages."""
    script = next(path for path in SCRIPTS if path.name == "orders.py")
    code = f"import runpy, sys; sys.path[0] = {str(script.parent)!r}; runpy.run_path({str(script)!r}, run_name='other')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
