"""The cost of solvers beside their distance from the flow; and the solver that is fitted to the run itself."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from diffusion.oracles import GaussianLaw
from diffusion.prediction import Preconditioning
from diffusion.pytree import as_partial
from experiments.config.tree import Config
from experiments.errors import UsageError
from experiments.pictures.work_precision import draw
from experiments.runs.model import Model
from experiments.sampling import work_precision as module
from experiments.sampling.work_precision import Row, WorkPrecision, as_json, deterministic, work_precision
from experiments.training.data import Facts
from samplers import Euler, Heun, karras, sample

KEPT = Path(__file__).parents[1] / "runs" / "kept"


@pytest.fixture
def gaussian(monkeypatch):
    """A model whose denoiser is exact, so that its flow is x_T s/√(s² + σ_max²) in closed form: (model, s)."""
    config = Config()
    law = GaussianLaw.isotropic(np.zeros((2, 2, 1)), 0.5)
    monkeypatch.setattr(module, "make_denoiser", lambda model, labels: as_partial(law.denoiser(model.process)))
    return Model(config, Facts((2, 2, 1), 0), None, None), 0.5


def test_the_distances_are_those_from_the_exact_flow(gaussian, monkeypatch):
    """In levels of 0..255, and the calls are those that were allowed."""
    model, std = gaussian
    starts, process = [], model.process

    class Noting(module._Walk):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            starts.append(self.start)

    monkeypatch.setattr(module, "_Walk", Noting)
    found = work_precision(model, [4, 9], images=4, names=["euler", "heun"], fine=100)
    exact = np.asarray(starts[0], np.float64) * std / np.hypot(std, float(process.sigma(process.t_max)))
    denoise = module.make_denoiser(model, None)
    for name, sampler, budget, calls, steps in (("euler", Euler(), 4, 4, 4), ("heun", Heun(), 9, 9, 5)):
        row = next(row for row in found.rows if (row.sampler, row.grid, row.budget) == (name, "karras", budget))
        assert (row.calls, row.steps) == (calls, steps)
        grid = karras(process, steps)
        end = sample(jax.random.key(0), process, denoise, sampler, grid, starts[0].shape, x_init=starts[0]).x
        each = 127.5 * np.abs(np.asarray(end, np.float64) - exact).reshape(4, -1)
        np.testing.assert_allclose(row.rms, np.sqrt(np.mean(each**2)), rtol=1e-2)
        np.testing.assert_allclose(row.worst, each.max(), rtol=1e-2)
        np.testing.assert_allclose(row.median, np.median(np.sqrt(np.mean(each**2, axis=1))), rtol=1e-2)
    assert found.best(9).rms == min(row.rms for row in found.rows)
    assert found.uncertainty < 0.1 * found.best(9).rms


def test_all_samplers_of_the_flow_take_part():
    assert {"ddim", "euler", "heun", "rk4", "dpmpp-2m", "unipc", "deis"} <= set(deterministic())
    assert not {"ancestral", "cfgpp", "euler-maruyama", "restart"} & set(deterministic())


@pytest.mark.parametrize(
    ("budgets", "options", "words"),
    [
        ([], {}, "--steps is empty; give numbers from 1 on"),
        ([0, 5], {}, "--steps is 0, 5; give numbers from 1 on"),
        ([5], {"images": 1}, "--images is 1; give at least 2"),
        ([5], {"fine": 3}, "--reference-steps is 3; give at least 10"),
        ([5], {"names": ["ancestral"]}, "--samplers has ancestral, which is no deterministic sampler; choose ddim"),
    ],
)
def test_what_cannot_be_measured_is_refused(gaussian, budgets, options, words):
    with pytest.raises(UsageError, match=words):
        work_precision(gaussian[0], budgets, **options)


def test_a_network_that_is_told_no_level_has_no_flow():
    config = Config(preconditioning=Preconditioning("residual"))
    with pytest.raises(UsageError, match="has no flow to be near to"):
        work_precision(Model(config, Facts((2, 2, 1), 0), None, None), [5])


def row(sampler, budget, rms):
    return Row(sampler, "karras", budget, budget, budget, rms, rms, 2 * rms, 10.0)


def test_the_picture_has_its_lines_and_json_has_no_infinities():
    rows = [row(name, n, (1 + i) / n**2) for i, name in enumerate("abcdefgh") for n in (5, 10)]
    rows.append(row("lost", 5, float("inf")))
    found = WorkPrecision(tuple(sorted(rows, key=lambda each: (each.budget, each.rms))), "fine", 1e-3, "levels")
    pixels = draw(found)
    assert pixels.shape[2] == 4
    assert pixels[..., :3].std() > 5
    kept = as_json(found)
    assert json.loads(json.dumps(kept, allow_nan=False))["rows"][8]["rms"] is None


def test_a_solver_is_fitted_to_the_run_and_measured_beside_the_others(run_command, conditional_run, tmp_path):
    """`scorefield grid --sampler bespoke` keeps it, `sample` draws with it, `work-precision` names the command."""
    unfitted = run_command("sample", "--run", conditional_run, "--sampler", "bespoke", "--steps", "3")
    assert unfitted.status == 2
    assert f"scorefield grid --run {conditional_run} --sampler bespoke --steps 3" in unfitted.err
    fit = ("grid", "--run", conditional_run, "--sampler", "bespoke", "--steps", "3")
    outcome = run_command(*fit, "--images", "4", "--reference-steps", "12", "--rounds", "1", "--json")
    assert outcome.status == 0, outcome.err
    kept = json.loads(Path(outcome.value["file"]).read_text())
    assert (len(kept["times"]), np.shape(kept["states"]), np.shape(kept["answers"])) == (4, (3,), (3, 4))
    drawn = ("sample", "--run", conditional_run, "--sampler", "bespoke", "--seeds", "0-1", "--json")
    said = run_command(*drawn, "--steps", "3", "--outdir", tmp_path / "drawn")
    assert said.status == 0, said.err
    assert (said.value["grid"], said.value["nfe"], said.value["fitted"]["states"]) == ("fitted", 3, kept["states"])
    other = run_command(*drawn, "--steps", "3", "--grid", "karras", "--outdir", tmp_path / "other")
    assert (other.status, other.out) == (2, "")
    assert "--sampler bespoke has times of its own; leave --grid karras out" in other.err
    guided = run_command(*drawn, "--steps", "3", "--class", "1", "--guidance", "2", "--outdir", tmp_path / "guided")
    assert guided.status == 0
    assert "was fitted without guidance" in guided.err
    measured = run_command(
        *("work-precision", conditional_run, "--steps", "3", "--samplers", "ddim,bespoke", "--images", "4"),
        *("--reference-steps", "12", "--outdir", tmp_path),
    )
    assert measured.status == 0, measured.err
    assert f"3 calls: scorefield sample --run {conditional_run} --sampler" in measured.out
    table = json.loads((tmp_path / "work_precision.json").read_text())
    assert {each["sampler"] for each in table["rows"]} == {"ddim", "bespoke"}
    with Image.open(tmp_path / "work_precision.png") as picture:
        assert picture.size[0] > 600
    damaged, told = Path(outcome.value["file"]), ("--steps", "3", "--samplers", "bespoke", "--outdir", tmp_path / "new")
    damaged.write_text("{}")
    broken = run_command("work-precision", conditional_run, *told)
    assert broken.status == 2
    assert f"{damaged.name} cannot be read (it holds no times)" in broken.err
    damaged.unlink()
    absent = run_command("work-precision", conditional_run, *told)
    assert "no sampler" in absent.err
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "work_precision.png").write_bytes(b"theirs")
    refused = run_command("work-precision", conditional_run, "--outdir", tmp_path / "theirs")
    assert refused.status == 2
    assert "work_precision.png is there, and of another command or of somebody else" in refused.err


@pytest.mark.parametrize(
    ("objective", "words"), [("generator", "makes an image in one call"), ("energy", "is not told the noise level")]
)
@pytest.mark.parametrize(
    "command", [("work-precision",), ("grid", "--sampler", "bespoke"), ("grid", "--sampler", "ddim")]
)
def test_no_solver_is_fitted_where_there_is_no_flow(run_command, objective, words, command):
    outcome = run_command(command[0], "--run", KEPT / objective, *command[1:])
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert f"this run has no flow to be near to, for it{'s network' * (objective == 'energy')} {words}" in outcome.err
