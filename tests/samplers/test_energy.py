"""Samples of an energy: what each kernel's bias is, the ladder of temperatures, the jump, one compilation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import EDM, Process
from diffusion import keys as keys_lib
from diffusion.energy import exact_potential, log_density, residual_denoiser
from diffusion.oracles import GaussianMixture
from samplers import cooling, hmc_step, langevin_step, mala_step, sample_energy
from tests.samplers.langevin_laws import LAW, SIGMA, exact_moments, log_p, standardised
from tests.samplers.programs import marginal

COUNT = 20_000


@pytest.mark.parametrize("kernel", ["langevin", "mala", "hmc"])
def test_the_bias_of_langevin_dynamics_is_there_and_metropolis_removes_it(kernel):
    """From an exact start of an energy in the plane: moments off by more than 10 standard errors, and by none."""
    start = marginal(LAW, jax.random.key(0), Process(EDM()), COUNT, SIGMA)
    found = sample_energy(
        jax.random.key(1), log_p, start, kernel=kernel, temperatures=np.ones(6), size=0.45, leapfrogs=3
    )
    errors = [abs(standardised(moment(np.asarray(found.x)), exact)) for moment, exact in exact_moments()]
    if kernel == "langevin":
        assert max(errors) > 10
        np.testing.assert_array_equal(found.acceptance, 1)
    else:
        assert max(errors) < 4
        assert np.all((found.acceptance > 0.3) & (found.acceptance < 0.98))


JUMP = 0.4
PSI = exact_potential(LAW, JUMP)
jumped = jax.jit(residual_denoiser(PSI))


@functools.partial(jax.jit, static_argnames="kernel")
def tempered_step(kernel, keys, i, y, temperature, size):
    """(x, accepted) of one step, written out."""
    draws, eta = keys_lib.fold(keys, i), size * temperature

    def tempered(z):
        return PSI(z) / JUMP**2 / temperature

    if kernel == "langevin":
        gradient = jax.grad(lambda z: jnp.sum(tempered(z)))(y)
        return langevin_step(draws, y, gradient, eta), jnp.ones(len(y))
    step = mala_step(draws, y, tempered, eta) if kernel == "mala" else hmc_step(draws, y, tempered, eta**0.5, 4)
    return step.x, step.accepted


@pytest.mark.parametrize("kernel", ["langevin", "mala", "hmc"])
def test_a_run_is_its_steps_on_a_tempered_law(kernel, x64):
    """p^{1/T} with η T, step by step, then x + σ_0² ∇ln p, which is the denoiser's answer."""
    temperatures, sizes = np.asarray([3.0, 1.5, 1.0]), np.asarray([0.3, 0.2, 0.1])
    x = jax.device_put(np.random.default_rng(0).normal(size=(50, 2)))
    keys = keys_lib.as_keys(jax.random.key(2), 50)
    rates, y = [], x
    for i, (temperature, size) in enumerate(zip(temperatures, sizes, strict=True)):
        y, accepted = tempered_step(kernel, keys, i, y, temperature, size)
        rates.append(np.mean(np.asarray(accepted)))
    settings = {"kernel": kernel, "temperatures": temperatures, "size": sizes, "leapfrogs": 4}
    found = sample_energy(jax.random.key(2), log_density(PSI, JUMP), x, jump=JUMP, **settings)
    np.testing.assert_allclose(found.x, jumped(y, 0.0), rtol=1e-9)
    np.testing.assert_allclose(found.acceptance, rates, rtol=1e-12)
    if kernel == "langevin":  # to leave the jump out is another program, whatever the kernel
        bare = sample_energy(jax.random.key(2), log_density(PSI, JUMP), x, **settings)
        np.testing.assert_allclose(bare.x, y, rtol=1e-9)


def test_a_sample_is_its_own_whatever_the_batch():
    x = np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)
    settings = {"kernel": "hmc", "temperatures": cooling(5.0, 4), "size": 0.2, "leapfrogs": 2}

    def run(x, ids=None):
        return np.asarray(sample_energy(jax.random.key(3), log_p, jnp.asarray(x), ids=ids, **settings).x)

    whole = run(x)
    np.testing.assert_allclose(run(x[2:4], jnp.asarray([2, 3])), whole[2:4], rtol=1e-5)
    assert np.abs(run(x[2:4]) - whole[2:4]).min() > 1e-4


def test_new_weights_sizes_and_temperatures_are_no_new_program():
    traces = []

    def density(k, y):
        traces.append(1)
        return -0.5 * k * jnp.sum(y**2, -1)

    x = jnp.ones((3, 2))
    for k, size, high, jump in ((1.0, 0.1, 2.0, 0.5), (2.0, 0.2, 4.0, 0.3)):
        target = Partial(density, jnp.asarray(k))
        sample_energy(jax.random.key(0), target, x, temperatures=cooling(high, 3), size=size, jump=jump)
        traces.append(0)
    assert traces[-2:] == [0, 0]  # nothing in between


def test_cooling_finds_both_modes_with_their_weights_where_none_of_it_finds_one():
    """Two humps eight standard deviations apart, all samples started in one: at T = 1 they stay there."""
    law = GaussianMixture.isotropic(np.asarray([[-2.0, 0.0], [2.0, 0.0]]), 0.3, np.asarray([0.5, 0.5]))
    target = log_density(exact_potential(law, SIGMA), SIGMA)
    x = jax.device_put(np.tile(np.float32([2.0, 0.0]), (2000, 1)))
    left = {}
    for high in (1.0, 20.0):
        ladder = cooling(high, 150, 50)
        found = sample_energy(jax.random.key(4), target, x, kernel="mala", temperatures=ladder, size=0.25, jump=SIGMA)
        left[high] = np.mean(np.asarray(found.x)[:, 0] < 0)
    assert left[1.0] < 0.1
    assert abs(left[20.0] - 0.5) < 4 * np.sqrt(0.25 / 2000)
    # The jump takes away the noise σ: each hump is then narrower than the data's, by N1 of the table of identities.
    narrow = 0.3**2 / np.hypot(0.3, SIGMA)
    np.testing.assert_allclose(np.std(np.abs(np.asarray(found.x)[:, 0])), narrow, rtol=0.06)


def test_temperatures_fall_in_equal_ratios_and_stay_at_one():
    np.testing.assert_allclose(cooling(8.0, 4, 2), [8, 4, 2, 1, 1, 1], rtol=1e-12)
    np.testing.assert_array_equal(cooling(1.0, 1, 1), [1, 1])
    with pytest.raises(ValueError, match=r"steps = 1 cannot lead from high = 5.0 down to 1"):
        cooling(5.0, 1)
    for arguments in ((0.5, 3), (2.0, 0), (2.0, 3, -1)):
        with pytest.raises(ValueError, match="give high >= 1"):
            cooling(*arguments)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kernel": "gibbs"}, "kernel = 'gibbs'; choose one of langevin, mala, hmc"),
        ({"size": 0.0}, "size contains 0"),
        ({"size": np.ones(2)}, r"shapes \(3,\) and \(2,\)"),
        ({"temperatures": np.asarray([1.0, -1.0, 1.0])}, "temperatures contains -1"),
        ({"jump": 0.0}, r"jump = 0\.0"),
        ({"kernel": "hmc", "leapfrogs": 0}, "leapfrogs = 0"),
        ({"ids": np.arange(3)}, "ids has shape"),
    ],
)
def test_bad_input_is_refused(changes, words):
    settings = {"temperatures": np.ones(3), "size": 0.1} | changes
    with pytest.raises(ValueError, match=words):
        sample_energy(jax.random.key(0), log_p, jnp.zeros((2, 2)), **settings)
