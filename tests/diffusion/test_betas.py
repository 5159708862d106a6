"""Chains by their one-step variances: what each shape is, and where it ends."""

import numpy as np
import pytest

from diffusion import VP, Betas, Process
from diffusion.prediction import combination
from experiments.config.nodes import Chain

SHAPES = {
    "linear": Betas.linear,
    "linear-rate": Betas.linear_rate,
    "scaled-linear": Betas.scaled_linear,
    "sigmoid": Betas.sigmoid,
    "cosine": Betas.cosine,
    "ramp": Betas.ramp,
}


def betas_of(chain):
    return -np.expm1(2 * np.diff(chain.log_alphas))


def test_scaled_linear_is_linear_in_its_root():
    root = np.sqrt(betas_of(Betas.scaled_linear(50)))
    np.testing.assert_allclose(np.diff(root, 2), 0, atol=1e-14)
    np.testing.assert_allclose(root[[0, -1]] ** 2, [0.00085, 0.012], rtol=1e-12)


def test_sigmoid_is_the_logistic_curve_between_its_ends():
    betas = (betas_of(Betas.sigmoid(41)) - 1e-4) / (0.02 - 1e-4)
    np.testing.assert_allclose(np.log(betas / (1 - betas)), np.linspace(-6, 6, 41), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("build", [Betas.linear, Betas.scaled_linear, Betas.sigmoid, Betas.ramp])
def test_a_chain_that_does_not_end_in_noise_when_it_is_short_says_so(build):
    """Where 100 steps end, and what to take instead, which does."""
    end = np.exp(build(100).log_alphas[-1])
    assert end > 0.5
    assert f"100 of them end at α_T = {end:.2f}, so that N(0, 1) is no prior" in " ".join(build.__doc__.split())
    assert "`linear_rate`" in build.__doc__
    for instead in (Betas.linear_rate(100), Betas.cosine(100), Betas.ramp(100, 20 / 100)):
        assert np.exp(instead.log_alphas[-1]) < 0.01


@pytest.mark.parametrize("steps", [40, 100, 1000])
def test_a_rate_is_the_same_for_chains_of_every_length(steps, x64):
    """With 1000 steps it is Ho et al.'s; its limit is VP, from which T steps differ by about 1/T."""
    chain = Betas.linear_rate(steps)
    gap = np.exp(chain.log_alphas[-1]) / float(Process(VP()).alpha(1.0)) - 1
    assert abs(gap) < 60 / steps
    np.testing.assert_allclose(Betas.linear_rate(1000).log_alphas, Betas.linear(1000).log_alphas, rtol=1e-12)
    with pytest.raises(ValueError, match="steps = 20; a rate of 20 needs more"):
        Betas.linear_rate(20)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_rescaled_chain_ends_in_noise_and_begins_as_before(shape, x64):
    """Lin et al.: α is moved and stretched, so that its differences stay in proportion."""
    chain = SHAPES[shape](100)
    moved = chain.zero_terminal_snr()
    assert moved.ends_in_noise
    assert float(moved.alpha(100)) == 0
    assert float(moved.beta(100)) == 1
    assert float(moved.beta(1)) == pytest.approx(float(chain.beta(1)), rel=1e-9)
    before, after = (np.diff(np.exp(each.log_alphas[1:])) for each in (chain, moved))
    np.testing.assert_allclose(after / after[0], before / before[0], rtol=1e-9)
    assert Chain(shape=shape, steps=100, zero_terminal_snr=True).build().ends_in_noise
    np.testing.assert_array_equal(Chain(shape=shape, steps=100).build().log_alphas, chain.log_alphas)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 1000])
def test_the_noisiest_of_all_ratios_is_at_the_end_of_a_chain(steps):
    """Beyond λ_T, and at −∞, the nearest time is T; on the other side it is 1, and 0 at +∞. In float32."""
    levels = np.asarray([-np.inf, -1e30, -100.0, 100.0, 1e30, np.inf], np.float32)
    for chain in (Betas.linear(steps), *([] if steps < 2 else [Betas.linear(steps).zero_terminal_snr()])):
        last = chain.steps - 1 if chain.ends_in_noise else chain.steps  # λ_T = −∞ is infinitely far from all numbers
        expected = [chain.steps, last, last, 1, 1, 0]
        np.testing.assert_array_equal(chain.time_from_log_snr(levels), expected)
        np.testing.assert_array_equal(
            chain.time_from_log_snr(chain.log_snr(np.arange(steps + 1))), np.arange(steps + 1)
        )


def test_a_chain_s_rate_ends_near_vp_s_prior(x64):
    """The figures of `linear_rate`, and the second order of ln(1 − β): −¼ Σ β²."""
    ends = {steps: np.exp(Betas.linear_rate(steps).log_alphas[-1]) for steps in (30, 100, 1000)}
    assert [f"{end:.2g}" for end in ends.values()] == ["0.0011", "0.0045", "0.0064"]
    vp = float(Process(VP()).alpha(1.0))
    assert f"{vp:.2g}" == "0.0066"
    betas = np.linspace(0.1, 20.0, 1000) / 1000
    assert np.log(ends[1000] / vp) == pytest.approx(-0.25 * np.sum(betas**2), rel=0.02)


def test_a_rescaled_chain_takes_what_is_advised(x64):
    """ "v" and "x0" determine x̂_0 at T; a velocity does not exist on a chain."""
    process = Process(Betas.linear(10).zero_terminal_snr())
    for kind in ("v", "x0"):
        p, q = combination(process, 10, kind)
        assert float(process.alpha(10) * q - process.sigma(10) * p) != 0
    with pytest.raises(TypeError, match="no derivative in t"):
        combination(process, 10, "velocity")


def test_the_last_variance_alone_may_be_one():
    np.testing.assert_allclose(Betas.from_betas([0.5, 1.0]).log_alphas, [0, 0.5 * np.log(0.5), -np.inf])
    for betas, worst in (([0.1, 1.0, 0.2], "1"), ([0.0, 0.2], "0"), ([0.1, 1.5], "1.5"), ([np.nan, 0.5], "nan")):
        with pytest.raises(ValueError, match=f"betas contains {worst}; each lies between 0 and 1"):
            Betas.from_betas(betas)
    with pytest.raises(ValueError, match="a chain of one step cannot be rescaled"):
        Betas.linear(1).zero_terminal_snr()
