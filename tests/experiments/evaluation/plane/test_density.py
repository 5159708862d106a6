"""A model that is exact, put through the picture and the evaluation: they must find that it is."""

import math
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.energy import exact_potential
from diffusion.interpolated import continuous
from diffusion.networks import Network
from diffusion.networks.configs import MLPConfig
from diffusion.networks.conservative import Conservative
from diffusion.noises import Gaussian, StudentT
from diffusion.oracles import GaussianMixture, eight_gaussians, two_moons
from diffusion.prediction import Preconditioning
from diffusion.schedules import EDM
from diffusion.score_matching.times import LogNormalSigma, LogUniformSigma
from experiments.config.nodes import Chain
from experiments.config.tree import Config
from experiments.data import Source
from experiments.data.config import DataConfig
from experiments.data.sources.plane import draw as draw_points
from experiments.evaluation.plane import measures as evaluation
from experiments.evaluation.plane.density import energy_density, exact_log_prob, has_flow, model_log_prob
from experiments.pictures import plane as figure
from experiments.runs.model import Model
from experiments.training.data import Facts
from samplers.ode import Heun
from samplers.registry import make_grid

POINTS = Facts((2,), 0)


@dataclass(frozen=True)
class ExactNetwork:
    """The network whose parameters are a law and whose denoiser is the law's: it undoes the preconditioning x0."""

    config: Config

    def __call__(self, law, x, c_noise, labels):
        process = continuous(self.config.process())
        t = c_noise * process.t_max / 1000
        alpha, sigma, noise = process.alpha(t), process.sigma(t), process.noise
        squares = near = (alpha * self.config.preconditioning.sigma_data) ** 2 + sigma**2
        if isinstance(noise, StudentT):  # |x|²/|c_in x|², solved for from what the network is given
            freedom = noise.df + x.shape[1]
            near = squares - sigma**2 * x.shape[1] / freedom
            near = near / (1 - sigma**2 * jnp.sum(x**2, axis=1) / (squares * freedom))
        scale = jnp.sqrt(near)
        return law.denoiser(process)(x * scale[:, None], t)


class Solver:
    """Heun on its usual grid."""

    def __init__(self, process):
        self.sampler, self.grid = Heun(), make_grid(process, Heun(), "karras", 18)


def exact_model(law, noise=None):
    config = Config(
        data=DataConfig(source="plane:gaussians"),
        schedule=EDM(),
        noise=noise or Gaussian(),
        preconditioning=Preconditioning("x0", 0.5),
    )
    return Model(config, POINTS, cast(Any, ExactNetwork(config)), law)


class ExactEnergy(Conservative):
    """ψ = σ² (ln p̂ + 3) of a law's p̂ = p * N(0, σ²I), in units of sigma_data; parameters (law, σ, sigma_data)."""

    def potential(self, params, x, c_noise, labels=None, keys=None, augment=None):
        law, sigma, sigma_data = params
        return (exact_potential(law, sigma)(sigma_data * x) + 3 * sigma**2) / sigma_data**2


def exact_energy(law, sigma=0.1, high=None, **changes):
    values = {
        "data": DataConfig(source="plane:gaussians"),
        "schedule": EDM(),
        "conservative": True,
        "preconditioning": Preconditioning("residual", 0.4),
        "times": LogUniformSigma(sigma, high or sigma),
    }
    config = Config(**{**values, **changes})
    network = ExactEnergy(Network(MLPConfig(hidden=2, layers=1, embedding=2), (2,)))
    return Model(config, POINTS, network, (law, sigma, 0.4))


LAW = eight_gaussians()


@pytest.mark.parametrize("noise", [Gaussian(), StudentT(4.0)])
def test_the_flow_of_an_exact_model_has_the_density_of_the_law(noise):
    """Point by point, at the least time, where it differs from that of the data by ½ σ² Δp/p."""
    model = exact_model(LAW, noise)
    x = draw_points(LAW, 64)
    found = model_log_prob(model, x)
    assert found.followed.all()
    there = jax.jit(lambda x, t: LAW.log_prob(model.process, x, t))(x, model.process.t_min)
    np.testing.assert_allclose(found.log_prob, there, atol=3e-3)
    np.testing.assert_allclose(found.log_prob, exact_log_prob(LAW, x), atol=3e-2)
    assert np.abs(found.log_prob - np.asarray(there)[::-1]).max() > 0.5


def test_the_divergence_of_gaussians_is_found():
    """KL(N(0, s²I) ‖ N(0, r²I)) = s²/r² − 1 − 2 ln(s/r) in the plane, and 0 for r = s."""
    s, r = 0.5, 0.6
    data = GaussianMixture.isotropic(np.zeros((1, 2)), s)
    held_out = Source(images=draw_points(data, 4000))
    for width, expected in ((r, s**2 / r**2 - 1 - 2 * math.log(s / r)), (s, 0.0)):
        model = exact_model(GaussianMixture.isotropic(np.zeros((1, 2)), width))
        told = evaluation.likelihood(model, data, held_out, points=2000, seed=0)
        assert told["lost"] == 0
        assert abs(told["kl"]["value"] - expected) < 4 * told["kl"]["standard_error"] + 1e-3
        assert abs(told["entropy"]["value"] - math.log(2 * math.pi * math.e * s**2)) < (
            4 * told["entropy"]["standard_error"]
        )
    assert told["kl"]["standard_error"] < 1e-3
    assert r**2 > s**2  # the first case is far from 0
    assert s**2 / r**2 - 1 - 2 * math.log(s / r) > 0.05


def test_an_exact_energy_is_the_density_of_the_blurred_law_whatever_its_constant():
    model, x = exact_energy(LAW), draw_points(LAW, 64)
    found = energy_density(model)
    assert found is not None
    np.testing.assert_allclose(found.log_prob(x), exact_log_prob(LAW, x, 0.1), atol=2e-4)
    assert found.one_level
    assert not has_flow(model)
    # It has another law than the data and than other blurs.
    for blur in (0.0, 0.09):
        assert np.abs(found.log_prob(x) - exact_log_prob(LAW, x, blur)).max() > 0.1


@pytest.mark.parametrize(
    "changes",
    [
        {"conservative": False},
        {"preconditioning": Preconditioning("x0", 0.4)},
        {"times": LogNormalSigma()},
        {"noise": StudentT(4.0)},
    ],
)
def test_no_density_belongs_to_a_potential_of_other_models(changes):
    assert energy_density(exact_energy(LAW, **changes)) is None


def test_the_divergence_of_energies_is_that_of_blurred_laws():
    """KL(N(0, s² + σ²) ‖ N(0, r² + σ²)) in the plane, closed form, and twice σ is another number."""
    s, r, sigma = 0.3, 0.4, 0.2
    data, other = (GaussianMixture.isotropic(np.zeros((1, 2)), width) for width in (s, r))
    held_out = Source(images=draw_points(data, 4000))
    for law, width, high in ((other, r, sigma), (data, s, 2 * sigma)):
        ratio = (s**2 + sigma**2) / (width**2 + sigma**2)
        told = evaluation.likelihood(exact_energy(law, sigma, high), data, held_out, points=2000, seed=0)
        assert (told["by"], told["blur"], told["one_level"]) == ("energy", sigma, high == sigma)
        error = told["kl"]["standard_error"]
        assert abs(told["kl"]["value"] - (ratio - 1 - math.log(ratio))) < 4 * error + 1e-4
        entropy = math.log(2 * math.pi * math.e * (s**2 + sigma**2))
        assert abs(told["entropy"]["value"] - entropy) < 4 * told["entropy"]["standard_error"]
        assert abs(entropy - math.log(2 * math.pi * math.e * s**2)) > 10 * told["entropy"]["standard_error"]
        lines = "\n".join(evaluation.table({"points_compared": 0, "against_held_out": {}, "likelihood": told}))
        assert f"KL(data * N(0, {sigma:g}² I)‖model)" in lines
        assert ("many noise levels" in lines) == (high > sigma)
    unlike = (s**2 + sigma**2) / (r**2 + sigma**2)
    assert unlike - 1 - math.log(unlike) > 0.04


def test_a_standard_error_falls_with_the_root_of_the_number():
    """Of n/2 zeros and n/2 ones it is ½/√(n − 1)."""
    for n in (10, 1000):
        told = evaluation._mean(np.arange(n) % 2)
        assert told["value"] == 0.5
        assert told["standard_error"] == pytest.approx(0.5 / math.sqrt(n - 1))


def test_an_energy_is_drawn_beside_the_law_with_its_blur():
    points = draw_points(LAW, 50)
    pixels, facts = figure.model_picture(exact_energy(LAW), LAW, points)
    mass = facts["mass_within"]
    assert list(mass) == ["the law of the data * N(0, 0.1² I), exact", "the model's energy, exp(ψ/0.1²)/Z"]
    assert list(mass.values()) == pytest.approx([1, 1], abs=1e-3)
    assert pixels.shape[1] > 2.5 * pixels.shape[0]
    law, model = figure._densities(exact_energy(LAW), LAW, own=True).values()
    (sharp,) = figure._densities(exact_energy(LAW), LAW, own=False).values()
    np.testing.assert_allclose(model, law, atol=1e-3 * law.max())
    assert np.abs(sharp - law).max() > 0.5 * law.max()


def test_samples_of_the_exact_model_are_not_told_apart_and_others_are():
    points = draw_points(LAW, 2000)
    training, held_out = Source(images=points[:1000]), Source(images=points[1000:])
    told = {}
    for name, law in (("exact", LAW), ("moons", two_moons())):
        model = exact_model(law)
        told[name] = evaluation.distances(
            *(model, Solver(model.process), training, held_out), samples=300, seed=7, batch=300
        )
    for distance in ("energy_distance", "sliced_w2"):
        exact = told["exact"]["against_held_out"]
        assert exact["samples"][distance]["p_value"] > 0.01
        assert exact["training data"][distance]["p_value"] > 0.01
        assert exact["Gaussian"][distance]["p_value"] == pytest.approx(1 / 200)
        assert told["moons"]["against_held_out"]["samples"][distance]["p_value"] == pytest.approx(1 / 200)
    assert told["exact"]["nfe"] == 35


def test_a_chain_has_the_density_of_its_flow():
    config = Config(
        data=DataConfig(source="plane:gaussians"),
        schedule=Chain(shape="linear-rate", steps=400),
        preconditioning=Preconditioning("x0"),
    )
    model = Model(config, POINTS, cast(Any, ExactNetwork(config)), LAW)
    points = draw_points(LAW, 64)
    found = model_log_prob(model, points)
    process = model.flow.process
    blurred = LAW.log_prob(process, jnp.asarray(points), process.t_min)
    assert np.all(found.followed)
    np.testing.assert_allclose(found.log_prob, blurred, atol=0.02)


def test_a_network_that_is_told_no_level_has_no_flow_and_its_picture_two_panels():
    config = Config(data=DataConfig(source="plane:gaussians"), preconditioning=Preconditioning("residual"))
    model = Model(config, POINTS, cast(Any, ExactNetwork(config)), LAW)
    assert evaluation.likelihood(model, LAW, Source(images=draw_points(LAW, 8)), points=8, seed=0) is None
    points = draw_points(LAW, 50)
    points[0] = 5.0
    two, facts = figure.model_picture(model, LAW, points)
    assert facts["samples_outside"] == 1
    assert list(facts["mass_within"]) == ["the law of the data, exact"]
    assert two.shape[1] > 1.5 * two.shape[0]
    one, facts = figure.model_picture(model, None, points)
    assert facts["mass_within"] == {}
    assert two.shape[1] > 1.5 * one.shape[1]


def boxes(pixels):
    """The panels' pixels: columns that are mostly the colour of density 0."""
    dark = np.all(pixels[..., :3] < 12, axis=-1)
    columns = dark.sum(axis=0) > 0.5 * dark.sum(axis=0).max()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], columns, [0]]).astype(int)))
    starts, ends = edges[::2], edges[1::2]
    wide = ends - starts > 100
    rows = np.flatnonzero(dark.sum(axis=1) > 0.5 * dark.sum(axis=1).max())
    return [pixels[rows[0] : rows[-1] + 1, a:b] for a, b in zip(starts[wide], ends[wide], strict=True)]


def test_density_and_samples_are_where_they_should_be():
    """A spot of density and samples at one place off the centre: at the same place of both panels."""
    place = np.array([0.7, -0.4])
    x, y = figure.cells().T
    values = np.exp(-0.5 * ((x - place[0]) ** 2 + (y - place[1]) ** 2) / 0.01).reshape(figure.CELLS, figure.CELLS)
    points = place + 0.1 * np.random.default_rng(0).standard_normal((400, 2))
    density, samples = boxes(figure.draw({"a": values}, points.astype(np.float32)))
    for panel in (density, samples):
        height, width = panel.shape[:2]
        light = panel[..., :3].astype(float).sum(axis=-1)
        light[light < 60] = 0
        centre = np.array([light.sum(0) @ np.arange(width) / width, light.sum(1) @ np.arange(height) / height])
        found = centre / light.sum()
        np.testing.assert_allclose(
            found, [0.5 + place[0] / (2 * figure.REACH), 0.5 - place[1] / (2 * figure.REACH)], atol=0.02
        )


def test_what_is_not_known_of_a_density_is_grey_and_the_scale_is_the_first_one_s():
    ramp = np.linspace(0, 1, figure.CELLS**2).reshape(figure.CELLS, figure.CELLS)
    lost = np.where(ramp > 0.5, np.nan, ramp)
    point = np.full((2, 2), 9, np.float32)  # outside

    def shares(values, *colours):
        """How much of the picture the values add in each colour."""
        pictures = [figure.draw({"a": ramp, **more}, point)[..., :3] for more in ({}, {"b": values})]
        return [
            (np.all(pictures[1] == colour, axis=-1).sum() - np.all(pictures[0] == colour, axis=-1).sum())
            / np.prod(pictures[0].shape[:2])
            for colour in colours
        ]

    grey = np.array([int(figure._LOST[i : i + 2], 16) for i in (1, 3, 5)])
    brightest = (252, 253, 191)  # of the colours, for all that is above the scale
    lost_grey, lost_bright = shares(lost, grey, brightest)
    high_grey, high_bright = shares(3 * ramp, grey, brightest)
    assert lost_grey > 0.1 > abs(high_grey)
    assert high_bright > 0.2 > lost_bright + 0.1
