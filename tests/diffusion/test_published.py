"""The preconditionings of published networks: Karras et al. 2022, table 1, written out with their letters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.noises import StudentT
from diffusion.prediction import Preconditioning, network_denoiser
from diffusion.process import Process
from diffusion.published import cosine_levels, nearest_step, told
from diffusion.schedules import EDM, VE, VP

LEVELS = np.asarray([0.003, 0.05, 1.0, 40.0])


def network(params, x, c_noise, labels):
    """Something that depends on all that it is given, on its sign too."""
    return jnp.sin(3 * x) + jnp.sin(c_noise + 0.5)[:, None] + 0.1 * x**2


def by_the_table(kind, y, level):
    """D_θ(y; σ) in the letters of the table, σ a column."""
    if kind == "vp":
        beta_d, beta_min, m = 19.9, 0.1, 1000
        time = (np.sqrt(beta_min**2 + 2 * beta_d * np.log(level**2 + 1)) - beta_min) / beta_d
        skip, out, scale, noise = 1, -level, 1 / np.sqrt(level**2 + 1), (m - 1) * time
    elif kind == "ve":
        skip, out, scale, noise = 1, level, 1, np.log(level / 2)
    elif kind in ("edm", "pfgmpp"):
        skip, out = 0.36 / (level**2 + 0.36), level * 0.6 / np.sqrt(level**2 + 0.36)
        scale, noise = 1 / np.sqrt(level**2 + 0.36), np.log(level) / 4
    else:
        u = [0.0]
        for j in range(1000, 0, -1):  # u_{j−1} from u_j, the last first, as the table defines them
            alpha_bar = np.sin(np.pi / 2 * np.asarray([j, j - 1]) / (1000 * 1.008)) ** 2
            u.append(np.sqrt((u[-1] ** 2 + 1) / max(alpha_bar[1] / alpha_bar[0], 0.001) - 1))
        j = 1000 - np.abs(np.asarray(u) - level).argmin(axis=1, keepdims=True)
        skip, out, scale, noise = 1, -level, 1 / np.sqrt(level**2 + 1), 1000.0 - 1 - j
    return skip * y + out * np.asarray(network(None, scale * y, noise[:, 0], None))


@pytest.mark.parametrize("kind", ["edm", "vp", "ve", "iddpm", "pfgmpp"])
@pytest.mark.parametrize("schedule", [EDM(), VP(), VE()])
def test_the_denoiser_is_that_of_the_table_on_any_schedule(kind, schedule, x64):
    process = Process(schedule, StudentT(5.0) if kind == "pfgmpp" else Process().noise)
    t = schedule.time_from_log_snr(-2 * jnp.log(LEVELS))
    x = jax.random.normal(jax.random.key(0), (4, 3)) * schedule.alpha(t)[:, None]
    answer = network_denoiser(network, None, process, Preconditioning(kind, 0.6))(x, t)
    expected = by_the_table(kind, np.asarray(x / schedule.alpha(t)[:, None]), LEVELS[:, None])
    np.testing.assert_allclose(answer, expected, rtol=1e-7, atol=1e-9)


def test_a_step_of_the_chain_is_its_own_nearest(x64):
    levels = cosine_levels()
    np.testing.assert_array_equal(nearest_step(jnp.asarray(levels)), np.arange(1001))
    np.testing.assert_array_equal(told("iddpm", jnp.asarray(levels[1:])), np.arange(1000))
    np.testing.assert_array_equal(nearest_step(jnp.asarray([0.0, 1e9])), [0, 1000])


def test_the_time_of_vp_is_that_at_which_its_schedule_has_the_level(x64):
    t = jnp.linspace(1e-4, 1.0, 9)
    np.testing.assert_allclose(told("vp", VP().sigma(t) / VP().alpha(t)), 999 * t, rtol=1e-9)
