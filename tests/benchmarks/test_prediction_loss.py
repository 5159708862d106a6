"""The table of predictions and losses compares what it says."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import prediction_loss as bench
from diffusion import perturb
from diffusion.networks import MLPConfig, Network
from diffusion.prediction import target


@pytest.mark.parametrize("prediction", range(3))
def test_a_loss_is_one_number_whatever_the_network_predicts(prediction, x64):
    """m |y − ŷ|² is the mean square in x, ε and v of what follows from ŷ, where no division is bounded."""
    x_0, z, raw = (jnp.asarray(a) for a in np.random.default_rng(0).standard_normal((3, 5, 2)))
    t = jnp.linspace(0.1, 0.9, 5)
    x_t = perturb(bench.PROCESS, x_0, z, t)
    guess = bench.denoised(raw, x_t, t, prediction)
    noise = (x_t - (1 - t)[:, None] * guess) / t[:, None]
    own = jnp.sum((target(bench.PROCESS, x_0, z, t, bench.KINDS[prediction]) - raw) ** 2, 1)
    for kind, error in enumerate([guess - x_0, noise - z, noise - guess - (z - x_0)]):
        np.testing.assert_allclose(bench.factors(t)[prediction, kind] * own, jnp.sum(error**2, 1), rtol=1e-10)


def test_no_division_is_by_less_than_a_twentieth(x64):
    np.testing.assert_allclose(bench.factors(jnp.asarray([1e-6, 1 - 1e-6])).max(), 400, rtol=1e-5)


def test_points_lie_in_a_plane_and_their_distance_from_it_is_seen():
    it = bench.problem("16")
    assert it.data.shape == (40_000, 16)
    x = it.data[:1000]
    np.testing.assert_allclose(np.mean(it.data**2) * 16 / 2, 1, rtol=0.01)
    near, outside = bench.judged(it, x)
    assert outside < 1e-5
    across = np.linalg.svd(it.frame)[0][:, 2]
    moved, away = bench.judged(it, x + 0.3 * across)
    np.testing.assert_allclose((moved, away), (near, 0.3), atol=1e-5)
    np.testing.assert_allclose(bench.judged(it, x @ it.frame @ np.diag([1, -1]) @ it.frame.T)[1], 0, atol=1e-5)


def test_every_cell_is_trained_and_judged(monkeypatch):
    """Of few points, in few steps, with few units."""
    data = np.full((64, 2), 0.5, np.float32)
    network = Network(MLPConfig(hidden=4, layers=1, embedding=4), (2,))
    it = bench.Problem(data, data[:3], np.eye(2, dtype=np.float32), network, 0.5, 4)
    monkeypatch.setattr(bench, "problem", lambda column: it)
    monkeypatch.setattr(bench, "CHUNK", 2)
    assert bench.trained(it, 1e-9, None)[1] == 2
    found = bench.measured("2", 1e-9, 4)
    assert found["steps"] == 4
    assert set(found["rows"]) == {"data"} | {f"{p} {k}" for p in "xεv" for k in "xεv"}
    numbers = np.asarray([cell for name, cell in found["rows"].items() if name != "data"])
    assert numbers.shape == (9, 3, 2)
    assert np.isfinite(numbers).all()
    assert found["rows"]["data"] == (0.0, 0.0)


def test_the_table_has_a_row_for_each_cell_and_a_column_for_each_that_was_measured():
    cells = {f"{p} {k}": [[0.1, 1.0], [0.2, 1.0], [0.3, 1.0]] for p in "xεv" for k in "xεv"}
    found = {column: {"steps": 7, "rows": cells | {"data": [0.05, 0.0]}} for column in ("digits", "16")}
    lines = bench.table(found).splitlines()
    assert len(lines) == 2 + 9 + 1
    assert lines[0] == "| prediction | loss | D = 16 (7 steps) | digits (7 steps) |"
    assert lines[2] == "| x | x | 0.200 ± 0.100 / 1.000 ± 0.000 | 0.200 ± 0.100 |"
    assert lines[-1] == "| training data | | 0.050 / 0.000 | 0.050 |"
