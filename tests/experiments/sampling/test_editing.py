"""Edits and interpolations of an exact model of Gaussian pixels, whose answers are closed forms."""

import dataclasses

import jax
import numpy as np
import pytest

from diffusion.likelihood import slerp
from diffusion.oracles import GaussianLaw
from diffusion.prediction import Preconditioning
from diffusion.pytree import as_partial
from diffusion.schedules import EDM
from experiments.config.nodes import Chain, Generator
from experiments.config.tree import Config
from experiments.data.scaling import to_model
from experiments.errors import UsageError
from experiments.runs.model import Model
from experiments.sampling import guidance as guidance_module
from experiments.sampling.drawing import draw
from experiments.sampling.editing import Completion, Redrawing, Restoration, data_std, edit
from experiments.sampling.guidance import UNGUIDED
from experiments.sampling.interpolation import angle, interpolate
from experiments.training.data import Facts
from samplers import Heun, karras

SHAPE, STD = (2, 3, 1), 0.5
MEAN = np.linspace(-0.3, 0.4, 6).reshape(SHAPE)
KNOWN = np.asarray([[True, False, True], [False, True, False]])[..., None]
IMAGES = to_model(np.random.default_rng(0).integers(60, 200, (2, *SHAPE)).astype(np.uint8))


@dataclasses.dataclass(frozen=True)
class Solver:
    """Heun in a few steps."""

    sampler: Heun
    grid: np.ndarray


@pytest.fixture
def model(monkeypatch):
    """N(m, 0.25 I), with EDM's process."""
    law = GaussianLaw.isotropic(MEAN, STD)
    monkeypatch.setattr(
        guidance_module,
        "make_denoiser",
        lambda model, labels, with_variance=False: as_partial(law.denoiser(model.process)),
    )
    config = Config(schedule=EDM(), preconditioning=Preconditioning("edm", STD))
    return Model(config, Facts(SHAPE, 0), None, None)


def test_the_spread_of_the_images_is_not_the_scale_of_a_network(model):
    """A chain of diffusers has σ_data = 1, its network's input as it is; no image in [−1, 1] is so wide."""
    assert data_std(model) == STD
    narrow, wide = (
        dataclasses.replace(model, config=Config(preconditioning=Preconditioning("eps", std))) for std in (0.3, 1.0)
    )
    assert (data_std(narrow), data_std(wide)) == (0.3, 0.5)


def solver(model, steps=24):
    return Solver(Heun(), karras(model.process, steps))


def gathered(model, task, seeds, **options):
    parts = list(edit(model, solver(model), task, seeds, guidance=UNGUIDED, **options))
    return [np.concatenate([getattr(part, name) for part in parts]) for name in ("pictures", "seeds", "images")], parts


def test_what_is_seen_through_noise_has_the_posterior(model):
    """Pixel by pixel N((m/v + y/s²)/(1/v + 1/s²), 1/(1/v + 1/s²)), by the mask and by the matrix that is its rows."""
    noise, seeds = 0.25, range(400)
    known = np.broadcast_to(KNOWN, IMAGES.shape)
    _, _, by_mask = gathered(model, Completion(IMAGES, known, "pigdm", noise), seeds, batch=800)[0]
    rows = np.flatnonzero(KNOWN)
    matrix = np.eye(6)[rows]
    observed = IMAGES.reshape(2, 6)[:, rows]
    (_, _, by_matrix), parts = gathered(model, Restoration(matrix, observed, noise), seeds, batch=800)
    assert np.max(np.abs(by_mask.astype(int) - by_matrix)) <= 1
    found = to_model(by_mask).reshape(2, 400, *SHAPE)
    variance = np.where(KNOWN, 1 / (1 / STD**2 + 1 / noise**2), STD**2)
    mean = np.where(known, variance * (MEAN / STD**2 + IMAGES / noise**2), MEAN)
    assert np.all(np.abs(found.mean(1) - mean) < 4.5 * np.sqrt(variance / 400) + 0.01)
    assert np.all(np.abs(found.std(1) / np.sqrt(variance) - 1) < 4.5 / np.sqrt(800) + 0.02)
    # Given y, A x − y is N(−(y − m)s²/(v + s²), variance) for each number.
    expected = np.sqrt(variance[KNOWN][0] + np.mean((mean - IMAGES)[known].reshape(2, 3) ** 2, axis=1))
    residual = np.sqrt(np.mean(parts[0].residual.reshape(2, 400) ** 2, axis=1)) / 127.5
    np.testing.assert_allclose(residual, expected, rtol=0.08)


def test_what_is_certain_stays_and_independent_pixels_are_those_of_the_sample(model):
    """Of independent pixels the rest is what the seed gives without a picture, by replacement and by ΠGDM."""
    known = np.broadcast_to(KNOWN, IMAGES.shape)
    plain = next(draw(model, solver(model), [5, 6, 9])).images
    for method in ("replacement", "pigdm"):
        task = Completion(IMAGES, known, method)
        (pictures, seeds, images), parts = gathered(model, task, [5, 6, 9])
        np.testing.assert_array_equal(pictures, [0, 0, 0, 1, 1, 1])
        np.testing.assert_array_equal(seeds, [5, 6, 9, 5, 6, 9])
        np.testing.assert_array_equal(images[:, KNOWN], to_pixels_of(IMAGES)[pictures][:, KNOWN])
        assert np.max(np.abs(images[:, ~KNOWN].astype(int) - np.tile(plain, (2, 1, 1, 1))[:, ~KNOWN])) <= 1
        assert np.all(parts[0].residual == 0)


def to_pixels_of(x):
    return np.round((x + 1) * 127.5).astype(np.uint8)


def test_an_answer_belongs_to_its_picture_and_seed_alone(model):
    (_, _, whole), _ = gathered(model, Redrawing(IMAGES, 0.5), [3, 8, 2])
    (pictures, _, parts), _ = gathered(model, Redrawing(IMAGES, 0.5), [3, 8, 2], batch=4)
    np.testing.assert_array_equal(parts, whole)
    (_, _, paired), _ = gathered(model, Redrawing(IMAGES, 0.5), [8, 3], pairs=True)
    np.testing.assert_array_equal(paired, whole[[1, 3]])
    (_, _, near), (part,) = gathered(model, Redrawing(IMAGES, 0.1), [3, 8, 2])
    given = to_pixels_of(IMAGES)[pictures].astype(float)
    assert np.abs(near - given).mean() < 0.3 * np.abs(whole - given).mean()
    assert part.residual is None
    assert part.nfe == 2 * np.sum(solver(model).grid < STD * np.tan(0.05 * np.pi)) - 1


def lies(model, latents):
    """Where the exact flow takes latents: m + √(v/(v + σ²)) (x_T − m)."""
    sigma = float(model.process.sigma(model.process.t_max))
    return MEAN + STD / np.hypot(STD, sigma) * (np.asarray(latents, np.float64) - MEAN)


@pytest.mark.parametrize("linear", [False, True])
def test_the_way_between_pictures_is_that_of_the_exact_flow(model, linear):
    found = interpolate(model, to_pixels_of(IMAGES), 5, linear=linear)
    sigma = float(model.process.sigma(model.process.t_max))
    latents = MEAN + np.hypot(STD, sigma) / STD * (IMAGES - MEAN)
    np.testing.assert_allclose(found.latents[[0, -1]], latents, rtol=2e-3, atol=2e-3 * sigma)
    between = [
        (1 - f) * latents[:1] + f * latents[1:]
        if linear
        else slerp(*map(jax.numpy.asarray, (latents[:1], latents[1:])), f)
        for f in np.linspace(0, 1, 5)
    ]
    expected = (np.concatenate([lies(model, z) for z in between]) + 1) * 127.5
    assert np.abs(found.images - expected.clip(0, 255)).max() <= 1.0
    np.testing.assert_array_equal(found.images[[0, -1]], to_pixels_of(IMAGES))
    assert np.all(found.round_trip < 0.5)
    cosine = np.sum(latents[0] * latents[1]) / np.linalg.norm(latents[0]) / np.linalg.norm(latents[1])
    assert angle(found.latents) == pytest.approx(np.degrees(np.arccos(cosine)), abs=0.1)


def test_the_way_between_seeds_begins_and_ends_with_their_samples(model):
    found = interpolate(model, (5, 9), 3, batch=2)
    plain = next(draw(model, solver(model, 60), [5, 9])).images
    assert np.abs(found.images[[0, -1]].astype(int) - plain).max() <= 1
    assert np.all(found.round_trip < 0.5)
    norms = np.linalg.norm(found.latents.reshape(3, -1), axis=1)
    assert norms[1] == pytest.approx((norms[0] + norms[2]) / 2, rel=1e-5)


def test_the_way_along_a_chain_is_that_of_ddim(model):
    """In the limit of many steps x_0 − m shrinks and grows by √(v/(α²v + σ²)), up to DDIM's error of first order."""
    chained = dataclasses.replace(model, config=dataclasses.replace(model.config, schedule=Chain(steps=200)))
    found = interpolate(chained, to_pixels_of(IMAGES), 3, chain_steps=200)
    assert np.all(found.round_trip < 3)
    alpha, sigma = (float(v(200)) for v in (chained.process.alpha, chained.process.sigma))
    latents = alpha * MEAN + np.sqrt(alpha**2 * STD**2 + sigma**2) / STD * (IMAGES - MEAN)
    np.testing.assert_allclose(found.latents[[0, -1]], latents, atol=0.05)
    assert found.nfe == (199, 200)


def test_a_run_without_a_flow_is_refused(model):
    blind = dataclasses.replace(model, config=dataclasses.replace(model.config, objective=Generator()))
    with pytest.raises(UsageError, match="a generator of one step has no flow to latents"):
        interpolate(blind, (1, 2))
