"""Checks of trained models on models whose answers are known: the exact denoiser passes, and no fault does."""

import dataclasses
import functools
import json
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from matplotlib.mathtext import MathTextParser

from diffusion import EDM, VP, Process, RectifiedFlow, StudentT
from diffusion.arrays import expand
from diffusion.betas import Betas
from diffusion.interpolated import continuous
from diffusion.networks.configs import MLPConfig
from diffusion.oracles import Atoms, GaussianMixture
from diffusion.prediction import Preconditioning
from experiments.config.nodes import Chain, EMAConfig, SamplingConfig
from experiments.config.tree import Config
from experiments.data import open_source, split
from experiments.data.config import DataConfig
from experiments.runs.load import load_model, run_data
from experiments.runs.model import Model
from experiments.training.data import Facts
from experiments.training.model import make_network
from experiments.verification.report.plots import draw
from experiments.verification.trained import checks as trained
from experiments.verification.trained import denoising, fields, likelihood, memory, passes, sampling
from experiments.verification.trained.checks import CHECKS, Shared, Subject, check, check_run, lines, subject_of
from experiments.verification.trained.finding import Quantity, estimate, ratio, root
from experiments.verification.trained.passes import exact_denoised, run_pass, run_passes
from experiments.verification.trained.subject import Pictures, batches, levels_at
from samplers import DDIM, DPMSolverMultistep, Heun

DIM = 4
GOOD = "as it should be"
PROCESSES = {"VP": Process(VP()), "RectifiedFlow": Process(RectifiedFlow()), "chain": Process(Betas.linear(1000))}
sampling._PERMUTATIONS = 1999  # enough for p < 0.001


def law():
    """Three humps, of the size of images."""
    means = np.random.default_rng(0).normal(size=(3, DIM)) * 0.6
    return GaussianMixture.isotropic(means, stds=np.asarray([0.15, 0.3, 0.2]), weights=np.asarray([0.2, 0.5, 0.3]))


@functools.cache
def draws():
    """900 points, the first 600 to be trained on."""
    return np.asarray(jax.jit(lambda key: law().sample(key, 900))(jax.random.key(1)))


class Known(NamedTuple):
    """A model that is no network."""

    process: Process
    event_shape: tuple[int, ...] = (DIM,)
    num_classes: int = 0


class Fault(NamedTuple):
    """What is wrong with a denoiser, in numbers that are traced: one program for all faults, and for none."""

    scaled: float = 1.0
    biased: float = 0.0
    """What is taken from the answer, in noise levels."""
    turned: float = 0.0
    """The angle in every e-fold of the noise, in the first plane: half of it is a field that is no gradient."""
    wavering: float = 0.0
    """Of a score that is a gradient at every noise level, and changes with it as no density's does."""
    coarse: float = 0.0
    """Of errors that change from place to place: the chain pays for them, the flow less."""


SCALED, BIASED, TURNED = Fault(scaled=1.1), Fault(biased=0.5), Fault(turned=0.5)
WAVERING, COARSE, IGNORANT = Fault(wavering=0.3), Fault(coarse=0.5), Fault(scaled=0.0)


def faulty(fault, denoise, x, t):
    level = expand(jnp.asarray(t), x)
    a = np.zeros((DIM, DIM), np.float32)
    a[0, 1], a[1, 0] = -1.0, 1.0
    answer = fault.scaled * denoise(x, t) - fault.biased * level
    answer += fault.turned * level**2 / (level**2 + 0.3) * x @ a
    answer += fault.wavering * level * jnp.sin(8 * jnp.log(level))
    return answer + fault.coarse * level * jnp.sin(3 * x[:, ::-1] / (level + 0.3))


def subject(process=None, denoise=None, fault=None, **options):
    """The exact denoiser of the law, one with a fault or another, and draws of the law to have been trained on."""
    if denoise is None:
        denoise = law().denoiser(process or Process(EDM()))
        if process is None:
            denoise = Partial(faulty, fault or Fault(), denoise)
    process = process or Process(EDM())
    data = draws()
    options = {"samples": 128, "batch": 128, **options}
    return Subject(Known(process), lambda labels: denoise, Pictures(data[:600]), Pictures(data[600:]), **options)


def measured(name, what):
    return CHECKS[name](Shared(what))


# What is right is called right.


@pytest.fixture(scope="module")
def exact():
    return check(subject())


def test_the_exact_denoiser_is_as_it_should_be(exact):
    assert [one.name for one in exact] == list(CHECKS)
    for one in exact:
        assert one.verdict == GOOD, (one.name, one.meaning, one.measured)


@pytest.mark.parametrize(
    ("process", "name"),
    [
        *(("VP", name) for name in ("unbiased", "fokker-planck", "likelihood")),
        *(("RectifiedFlow", name) for name in ("identity", "fokker-planck", "likelihood")),
        *(("chain", name) for name in ("identity", "fokker-planck", "curl", "steps", "sde-ode")),
    ],
)
def test_on_other_processes_too(process, name):
    found = measured(name, subject(PROCESSES[process], sampler=DDIM()))
    assert found.verdict == GOOD, found.measured


def test_a_chain_that_is_read_between_its_times_has_two_likelihoods():
    process = PROCESSES["chain"]
    smooth = law().denoiser(continuous(process))
    found = measured("likelihood", subject(process, between=lambda labels: smooth))
    assert found.verdict == GOOD, found.measured


def test_chains_that_are_not_have_no_flow_and_short_ones_no_slope():
    assert not measured("likelihood", subject(PROCESSES["chain"])).applicable
    short = subject(Process(Betas.linear(3)), sampler=DDIM())
    assert not measured("fokker-planck", short).applicable
    assert not measured("steps", short).applicable


def test_student_noise_has_no_score():
    heavy = Shared(subject(Process(EDM(), StudentT(df=8.0)), samples=64))
    for name in ("fokker-planck", "curl", "sde-ode", "likelihood"):
        assert not CHECKS[name](heavy).applicable
    for name in ("loss", "unbiased", "identity", "memorisation"):
        assert CHECKS[name](heavy).verdict == GOOD


# What is wrong is called wrong, by the check that is there for it.


@pytest.mark.parametrize(
    ("name", "fault", "word"),
    [
        ("loss", IGNORANT, "affine"),
        ("loss", SCALED, "affine"),
        ("unbiased", SCALED, "too large"),
        ("unbiased", BIASED, "fixed image"),
        ("identity", SCALED, "does harm"),
        ("fokker-planck", SCALED, "density"),
        ("fokker-planck", WAVERING, "density"),
        ("curl", TURNED, "gradient"),
        ("sde-ode", BIASED, "different laws"),
        ("likelihood", BIASED, "impossible"),
        ("likelihood", COARSE, "bits from"),
    ],
)
def test_a_fault_is_out_of_line(name, fault, word):
    found = measured(name, subject(fault=fault, samples=1200 if fault is COARSE else 128))
    assert found.out_of_line, found.measured
    assert word in found.meaning


def test_the_exact_denoiser_of_the_training_set_has_memorised_it():
    plain = subject()
    memorised = Shared(subject(denoise=Atoms(plain.training.values).denoiser(plain.process)))
    for name, words in (("loss", "by heart"), ("memorisation", "recalling"), ("copies", "by heart")):
        found = CHECKS[name](memorised)
        assert found.out_of_line, found.measured
        assert words in found.meaning


def test_too_few_steps_are_out_of_line():
    """In even steps of σ from 80 all but one are wasted."""
    found = measured("steps", subject(sampler=Heun(), grid="uniform-sigma"))
    assert found.out_of_line
    assert "--grid" in found.meaning
    assert found.values["p-value"].value < 1e-3


def test_a_network_of_nan_is_out_of_line():
    broken = Shared(subject(fault=Fault(scaled=math.nan)))
    found = [CHECKS[name](broken) for name in ("loss", "unbiased", "identity", "curl", "sde-ode")]
    assert all(one.out_of_line for one in found)
    json.dumps([one.report() for one in found], allow_nan=False)
    assert "nan" in lines(found)


def test_a_loss_below_the_exact_one_is_impossible():
    plain = subject()
    found = run_passes(plain)
    cheating = [passes.Pass(0.5 * p.least, p.least, p.apart, p.affine, p.correlations, p.bias) for p in found.training]
    assert "impossible" in denoising.loss(plain, passes.Passes(cheating, None)).meaning


# The numbers are the right numbers.


def test_the_residual_of_a_gaussian_score_times_k():
    """s = −k x/(1 + σ²): ∂_t s = 2σk x/(1 + σ²)² and σ∇|s|² is k times that; their difference over s/σ."""
    k = 2.0

    def times_k(x, t):
        return x - k * jnp.asarray(t) ** 2 / (1 + jnp.asarray(t) ** 2) * x

    found = fields.fokker_planck(subject(denoise=Partial(times_k)))
    for level, one in zip(found.levels, found.rows["relative residual"], strict=True):
        assert abs(one.value - 2 * (k - 1) * level**2 / (1 + level**2)) < 1e-4
    assert found.out_of_line


def test_the_asymmetry_of_a_linear_field_is_that_of_its_matrix():
    b = np.random.default_rng(0).normal(size=(DIM, DIM)).astype(np.float32) / 2
    found = fields.curl(subject(denoise=Partial(lambda x, t: x @ b.T), samples=1000))
    jacobian = b - np.eye(DIM)  # of the score, but for 1/σ²
    exact = np.linalg.norm(jacobian - jacobian.T) / np.linalg.norm(jacobian + jacobian.T)
    (row,) = found.rows.values()
    for one in row:
        assert abs(one.value - exact) < 4 * one.standard_error
        assert one.standard_error < 0.1 * exact


@pytest.mark.parametrize("part", [0.0, 0.5])
def test_the_gap_of_a_mixture_of_the_two_denoisers(part):
    """D = D° + λδ, δ = D* − D°: E|x_0 − D|² is M + λ²|δ|² on held-out and M − (2λ − λ²)|δ|² on training images."""
    plain = subject()
    ends = law().denoiser(plain.process), Atoms(plain.training.values).denoiser(plain.process)
    mixed = subject(denoise=Partial(_mixed, part, *ends), samples=300)
    found, both = memory.memorised(mixed, run_passes(mixed)), run_passes(subject(samples=300))
    assert found.out_of_line == (part > 0)
    for i, one in enumerate(found.rows["memorised part γ"]):
        training, held_out = (p[i].apart.mean() for p in both)
        exact = (part**2 * held_out + (2 * part - part**2) * training) / (training + held_out)
        assert abs(one.value - exact) < 4 * one.standard_error + 1e-6
        assert one.standard_error < 0.1


def _mixed(part, generalises, remembers, x, t):
    return (1 - part) * generalises(x, t) + part * remembers(x, t)


def test_a_bias_has_the_correlation_that_its_size_says():
    """r² is the bias's part of the mean square."""
    plain, off = subject(samples=400), subject(fault=BIASED, samples=400)
    level = plain.levels[3]
    error = run_pass(plain, plain.training, level, 7).error.mean()
    found = run_pass(off, off.training, level, 7)
    square = (0.5 * level.ratio) ** 2
    r = found.correlations["a fixed image"]
    assert abs(r.value - math.sqrt(square / (square + error))) < 4 * r.standard_error + 0.01
    assert abs(found.bias.value - 0.5) < 4 * found.bias.standard_error


@pytest.mark.parametrize("classes", [0, 3])
def test_the_exact_denoiser_in_blocks_is_that_of_all_at_once(classes, monkeypatch):
    monkeypatch.setattr(passes, "_ATOMS_AT_ONCE", 40 * DIM)
    plain = subject()
    labels = np.random.default_rng(3).integers(0, max(classes, 1), 600)
    data = Pictures(plain.training.values, labels if classes else None)
    one = Subject(Known(plain.process, num_classes=classes), plain.denoiser, data, batch=32)
    x, mine = plain.training.values[:50] + np.float32(0.3), labels[:50]
    found = exact_denoised(one, x, 0.4, mine if classes else None)
    for label in range(max(classes, 1)):
        pool, rows = plain.training.values[labels == label], mine == label
        expected = Atoms(pool).denoiser(plain.process)(jnp.asarray(x[rows]), 0.4)
        np.testing.assert_allclose(found[rows], expected, atol=2e-5)


def test_the_affine_denoiser_is_least_squares():
    plain = subject(samples=300)
    level = plain.levels[3]
    (batch,) = batches(plain, plain.training, level.t, 600, 9, 600)
    x, x_0 = np.c_[np.asarray(batch.x_t), np.ones(600)], np.asarray(batch.x_0)
    least = np.mean((x @ np.linalg.lstsq(x, x_0, rcond=None)[0] - x_0) ** 2)
    found = passes.affine_denoised(plain, np.asarray(batch.x_t), level.t)
    assert least <= np.mean((found - x_0) ** 2) < 1.02 * least


def test_a_likelihood_below_its_bound_is_impossible():
    head, noise = ("likelihood", "", "", ""), 0.05 * np.random.default_rng(0).normal(size=64)
    assert likelihood._judged(head, 3 + noise, np.full(64, 2.98)).verdict == GOOD
    assert "impossible" in likelihood._judged(head, 3 + noise, np.full(64, 3.2)).meaning
    assert "bits from" in likelihood._judged(head, 3 + noise, np.full(64, 2.5)).meaning


def test_nearest_neighbours_are_found_across_blocks(monkeypatch):
    monkeypatch.setattr(sampling, "_ROWS", 7)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(22, 3)).astype(np.float32)
    expected = np.sort(np.linalg.norm(x[:, None] - y, axis=-1), axis=1)[:, :2]
    np.testing.assert_allclose(np.stack(sampling.nearest(x, Pictures(y)), axis=1), expected, rtol=1e-6)


def test_quantities():
    a, b = np.random.default_rng(0).normal(2, 1, (2, 4000)) + np.asarray([[0.0], [2.0]])
    one = ratio(a, b)
    assert abs(one.value - 0.5) < 4 * one.standard_error
    many = [ratio(*pair).value for pair in zip(a.reshape(40, 100), b.reshape(40, 100), strict=True)]
    assert one.standard_error == pytest.approx(np.std(many) / math.sqrt(40), rel=0.4)
    assert estimate([1.0, 3.0]) == Quantity(2.0, 1.0)
    assert root(Quantity(4.0, 0.4)).standard_error == pytest.approx(0.1, rel=0.05)
    assert root(Quantity(-1.0, 0.25)) == Quantity(0.0, 0.5)
    assert Quantity(math.nan, 0.1).above(1e9)
    assert Quantity(1.0, 0.1).above(0.55)
    assert not Quantity(1.0, 0.1).above(0.65)


def test_a_chain_has_its_own_levels():
    found = levels_at(PROCESSES["chain"], (1e-9, 0.02, 0.0201, 1.0, 1e9))
    assert [level.t for level in found] == [3.0, 259.0]
    assert found[1].ratio == pytest.approx(1.0, abs=0.01)


# What is said.


def test_levels_that_training_hardly_visits_are_named():
    seldom = subject(fault=SCALED, share=lambda low, high: 0.001 if low < 0.3 else 0.2)
    text = measured("loss", seldom).meaning
    assert "less than 1%" in text
    assert "--times" in text


def test_the_seed_decides_and_the_batch_does_not():
    def numbers(**options):
        shared = Shared(subject(samples=24, **options))
        found = [q.value for one in shared.passes.training for q in one.correlations.values()]
        return np.asarray(found + [q.value for q in CHECKS["steps"](shared).values.values()])

    first = numbers(batch=48)
    np.testing.assert_allclose(numbers(batch=20), first, atol=1e-3)
    assert np.max(np.abs(numbers(batch=48, seed=1) - first)) > 1e-2


def spoken(findings):
    """What a reader gets: text that fits, JSON, equations and pictures that can be drawn."""
    text = lines(findings)
    assert max(map(len, text.splitlines())) < 100
    json.dumps([one.report() for one in findings], allow_nan=False)
    for one in findings:
        assert one.name in text
        assert all((one.title, one.latex, one.compared, one.meaning or not one.applicable))
        assert "could not be measured" not in one.meaning, one.meaning
        for part in one.latex.split(r"\quad"):
            MathTextParser("path").parse(f"${part.strip()}$")
        if one.plot is not None:
            assert "<svg" in draw(one.plot)
    return text


def test_the_report(exact):
    assert "10 checks: 10 as they should be" in spoken(exact)


FEW_ARE_NEEDED = {
    (1, 1): {
        "loss": "1 training image, 2 are needed",
        "unbiased": "1 training image, 3 are needed",
        "identity": "1 training image, 2 are needed",
        "likelihood": "1 training image, 2 are needed",
        "memorisation": "1 training image, 2 are needed",
        "copies": "1 training image, 2 are needed",
    },
    (2, 0): {
        "unbiased": "2 training images, 3 are needed",
        "memorisation": "no images are held out",
        "copies": "no images are held out",
    },
    (3, 1): dict.fromkeys(("likelihood", "memorisation", "copies"), "1 held-out image, 2 are needed"),
    (3, 2): {},
}
"""What a check that is left out says of itself, by the numbers of training images and of held-out ones."""


@pytest.mark.parametrize("counts", FEW_ARE_NEEDED, ids=str)
def test_too_few_images_are_said_and_no_number_is_nan(counts):
    """Warnings are errors here, and so would be found among the checks that could not be measured."""
    training, held_out = counts
    few = dataclasses.replace(
        subject(samples=16, batch=16),
        training=Pictures(draws()[:training]),
        held_out=Pictures(draws()[600 : 600 + held_out]),
    )
    findings = check(few)
    assert [one.name for one in findings] == list(CHECKS)
    left_out = {one.name: one.verdict.removeprefix("not applicable: ") for one in findings if not one.applicable}
    expected = {name: why.replace("image", "point") for name, why in FEW_ARE_NEEDED[counts].items()}
    assert left_out == expected
    for one in findings:
        assert one.title
        assert "could not be measured" not in one.meaning
        numbers = [*one.values.values(), *(quantity for row in one.rows.values() for quantity in row)]
        assert np.isfinite(np.asarray(numbers)).all(), one.name


def test_images_of_one_colour_are_no_scale():
    flat = Pictures(np.full((5, DIM), 0.25, np.float32))
    of = dataclasses.replace(subject(samples=16, batch=16), training=flat, held_out=flat)
    steps = measured("steps", of)
    assert steps.verdict == "not applicable: every pixel of the training images has one value"
    assert measured("loss", of).out_of_line  # their mean knows all


def test_a_check_that_breaks_is_out_of_line(monkeypatch):
    def broken(shared):
        raise ValueError("no such thing")

    monkeypatch.setattr(trained, "CHECKS", {"curl": broken})
    (found,) = check(subject())
    assert found.out_of_line
    assert "no such thing" in found.meaning


def test_a_run(tiny_run):
    """A DDPM after 12 steps: everything appears, and it knows less than means and covariances do."""
    loaded, told = load_model(tiny_run), []
    data = run_data(loaded)
    findings = check_run(loaded, *data, samples=16, seed=3, batch=32, tell=told.append)
    assert told == findings
    assert [one.name for one in findings] == list(CHECKS)
    spoken(findings)
    assert findings[0].out_of_line
    assert "12 steps of 16 images" in findings[0].meaning


def untrained(**fields):
    """A model with the parameters that it would be trained from, and its data."""
    config = Config(network=MLPConfig(hidden=8, layers=1, embedding=4), **fields)
    training, held_out = split(open_source(config.data), 0.1, 0)
    facts = Facts(training.event_shape, training.num_classes)
    network, params = make_network(config, facts, jax.random.key(0))
    model = Model(config, facts, network, params)
    return subject_of(model, training, held_out, samples=16, seed=0, batch=64), training


def test_a_conditional_flow_with_mirror_images():
    one, training = untrained(
        **{"data": DataConfig(flip=True), "schedule": RectifiedFlow(), "conditional": True},
        preconditioning=Preconditioning("velocity"),
    )
    assert len(one.training) == 2 * len(training)
    np.testing.assert_array_equal(one.training.values[len(training)], training.images[0, :, ::-1])
    found = [measured(name, one) for name in ("loss", "identity")]
    spoken(found)
    assert found[0].out_of_line


def test_a_learned_variance_is_left_aside():
    one, _ = untrained(schedule=Chain(steps=20), preconditioning=Preconditioning("eps"), learned_variance=True)
    spoken([measured("loss", one), measured("identity", one)])


def test_what_a_run_is_sampled_with():
    def of(name):
        return trained.deterministic(Config(sampling=SamplingConfig(sampler=name)))

    assert of("ancestral") == DDIM()
    assert of("heun") == Heun()
    assert of("sde-dpmpp") == DPMSolverMultistep()


def test_what_a_configuration_may_have_to_do_with_it():
    config = Config(ema=EMAConfig(decays=(0.9999,), warmup=False), preconditioning=Preconditioning("x0"))
    assert set(trained._hints(config, imported=False)) == {"", "bias", "undertrained", "slope", "ends"}
    assert set(trained._hints(Config(), imported=False)) == {""}
    assert "high" in trained._hints(Config(schedule=VP(), preconditioning=Preconditioning("eps")), imported=False)
    assert trained._hints(config, imported=True) == {
        "": "This network was trained by somebody else, on data that it does not name."
    }
