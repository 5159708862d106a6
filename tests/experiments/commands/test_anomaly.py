"""Energies of runs: scores against exact densities, areas against counts, chains against exact laws, the commands."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import EDM, Process
from diffusion.energy import exact_potential
from diffusion.energy.residual import residual_denoiser
from diffusion.networks.configs import MLPConfig
from diffusion.oracles import GaussianMixture
from diffusion.prediction import Preconditioning, network_denoiser
from diffusion.score_matching.times import LogNormalSigma, LogUniformSigma
from experiments.config.nodes import Generator
from experiments.config.tree import Config
from experiments.data import open_source, split
from experiments.errors import DataError, DivergedError, UsageError
from experiments.evaluation.ranking import auroc, share_below
from experiments.evaluation.strangeness import log_ratio, strangeness
from experiments.pictures import files
from experiments.runs import energy as energy_runs
from experiments.runs.energy import Energy, energy_of
from experiments.runs.load import CheckpointArguments, load_run
from experiments.runs.model import Model
from experiments.sampling.energy import EnergySampler, draw_energy
from experiments.training.data import Facts
from experiments.training.model import make_network
from samplers.energy import _run

SIGMA = 0.5
MEAN = np.asarray([1.0, -1.0, 0.5])


def gaussian(mean=0.0, std=0.7, sigma=SIGMA, high=1.0):
    """The exact energy of N(m, s²I) in three dimensions."""
    law = GaussianMixture.isotropic(means=(mean * MEAN)[None].astype(np.float32), stds=std)
    return Energy(exact_potential(law, sigma), sigma, high, 0.5, (3,))


def minus_log(y, mean, variance):
    return 0.5 * ((y - mean * MEAN) ** 2).sum(1) / variance + 1.5 * np.log(2 * np.pi * variance)


@pytest.fixture(scope="module")
def points():
    return np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)


def test_the_area_is_a_count_of_pairs():
    rng = np.random.default_rng(0)
    high, low = rng.integers(0, 9, 40) + 2.0, rng.integers(0, 9, 31).astype(float)
    pairs = [(a > b) + 0.5 * (a == b) for a in high for b in low]
    assert auroc(high, low).value == pytest.approx(np.mean(pairs), abs=1e-12)
    assert auroc(low, high).value == pytest.approx(1 - np.mean(pairs), abs=1e-12)
    assert auroc(low, high).standard_error == pytest.approx(auroc(high, low).standard_error)
    assert auroc(low + 100, low) == (1.0, 0.0)
    np.testing.assert_allclose(share_below(np.asarray([1.0, 0.0]), np.asarray([1.0, 0.0, -1.0])), [2.5 / 3, 1.5 / 3])
    assert np.isnan(auroc(np.ones(1), low).standard_error)
    with pytest.raises(DataError, match="no NaN"):
        auroc(np.asarray([np.nan]), low)


def test_the_error_of_the_area_is_its_spread():
    """Over 2,000 data sets, to 4 standard errors of a standard deviation; without the errors of one set it is off."""
    rng = np.random.default_rng(1)
    areas = [auroc(rng.normal(1, 1, 30), rng.normal(0, 2, 50)) for _ in range(2000)]
    spread = np.std([area.value for area in areas], ddof=1)
    stated = np.sqrt(np.mean([area.standard_error**2 for area in areas]))
    assert abs(stated / spread - 1) < 4 / np.sqrt(2 * 2000)


def test_scores_are_minus_the_log_density_in_nats(points):
    scores = strangeness(gaussian(1.0), points, copies=0)
    np.testing.assert_allclose(scores, minus_log(points, 1.0, 0.7**2 + SIGMA**2), rtol=2e-5, atol=2e-5)


def test_noisy_copies_give_the_cross_entropy_of_the_noise(points):
    """E −ln p̂(x + σ_0 z) = −ln p̂(x) + d σ_0²/2(s² + σ_0²), and no other noise level does."""
    variance, copies = 0.7**2 + SIGMA**2, 4000
    got = strangeness(gaussian(1.0), points, copies=copies)
    want = minus_log(points, 1.0, variance) + 1.5 * SIGMA**2 / variance
    distance = ((points - MEAN) ** 2).sum(1)
    error = np.sqrt((1.5 * SIGMA**4 + distance * SIGMA**2) / variance**2 / copies)
    assert np.all(np.abs(got - want) < 4 * error)
    assert np.all(1.5 * SIGMA**2 / variance > 8 * error)  # the power: no noise, or twice its variance, would show


def test_a_score_depends_on_the_image_alone(points):
    energy = gaussian(1.0)
    whole = strangeness(energy, points, copies=3)
    np.testing.assert_allclose(strangeness(energy, points, copies=3, batch=4), whole, rtol=1e-5)
    np.testing.assert_allclose(strangeness(energy, points[[7, 2, 2]], copies=3), whole[[7, 2, 2]], rtol=1e-5)


def test_ratios_are_of_the_two_densities(points):
    a, b = gaussian(1.0), gaussian(0.0, std=1.1)
    want = minus_log(points, 0.0, 1.1**2 + SIGMA**2) - minus_log(points, 1.0, 0.7**2 + SIGMA**2)
    np.testing.assert_allclose(log_ratio(a, b, points, copies=0), want, rtol=2e-5, atol=2e-5)
    noisy = [strangeness(one, points, copies=2) for one in (b, a)]
    np.testing.assert_allclose(log_ratio(a, b, points, copies=2), noisy[0] - noisy[1], rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match=r"noise level 0\.4, and --run 0\.5.*--times\.low 0\.5"):
        log_ratio(a, gaussian(sigma=0.4), points, copies=0)
    with pytest.raises(UsageError, match="images of 4, and --run of 3"):
        log_ratio(a, dataclasses.replace(b, event_shape=(4,)), points, copies=0)
    with pytest.raises(DivergedError, match="the score of image 4 is not finite"):
        strangeness(dataclasses.replace(a, psi=lambda y: y[:, 0] / (y[:, 0] != points[4, 0])), points, copies=0)


@pytest.mark.parametrize("kernel", ["mala", "hmc"])
def test_chains_end_in_the_law_that_the_jump_makes_of_the_noisy_one(kernel):
    """y ~ N(m, s² + σ²) jumps to N(m, s⁴/(s² + σ²)), to 4 standard errors of both moments."""
    chain = EnergySampler(kernel, steps=30, hold=40, temperature=4.0, size=0.8, leapfrogs=4)
    parts = list(draw_energy(gaussian(1.0), chain, range(3000), batch=1500))
    x = np.concatenate([part.drawn.images for part in parts])
    variance = 0.7**4 / (0.7**2 + SIGMA**2)
    assert np.all(np.abs(x.mean(0) - MEAN) < 4 * np.sqrt(variance / len(x)))
    assert abs(np.mean((x - MEAN) ** 2) / variance - 1) < 4 * np.sqrt(2 / x.size)
    assert 0.5 < np.mean([part.acceptance for part in parts]) < 1
    other = next(draw_energy(gaussian(1.0), chain, [2999, 1500], batch=2)).drawn.images
    np.testing.assert_allclose(other, x[[2999, 1500]], atol=1e-4)


def test_chains_begin_as_wide_as_data_under_the_largest_noise():
    """Steps of next to no length leave y ~ N(0, σ_max² + σ_d²), and the jump makes s²/(s² + σ²) y of it."""
    chain = EnergySampler("langevin", steps=1, hold=0, temperature=1.0, size=1e-12, leapfrogs=1)
    x = next(draw_energy(gaussian(0.0, high=2.0), chain, range(3000), batch=3000)).drawn.images
    std = np.hypot(2.0, 0.5) * 0.7**2 / (0.7**2 + SIGMA**2)
    assert abs(x.std() / std - 1) < 4 / np.sqrt(2 * x.size)


def test_a_short_last_batch_is_filled_up_and_counts_for_itself():
    """Five seeds in threes: one compilation, two parts; the third place of the last counts for nothing."""
    chain, compiled = (
        EnergySampler("mala", steps=6, hold=0, temperature=2.0, size=3.5, leapfrogs=1),
        cast(Any, _run)._cache_size,
    )
    before = compiled()
    parts = list(draw_energy(gaussian(1.0), chain, range(5), batch=3))
    assert compiled() == before + 1
    assert [part.drawn.seeds for part in parts] == [[0, 1, 2], [3, 4]]
    assert set(parts[-1].acceptance) <= {0.0, 0.5, 1.0}
    whole = next(draw_energy(gaussian(1.0), chain, range(5), batch=9))
    np.testing.assert_allclose(np.concatenate([part.drawn.images for part in parts]), whole.drawn.images, atol=1e-5)
    np.testing.assert_allclose(np.average([p.acceptance for p in parts], axis=0, weights=[3, 2]), whole.acceptance)


def untrained(config):
    facts = Facts((4, 4, 1), 0)
    network, params = make_network(config, facts, jax.random.key(0))
    return Model(config, facts, network, params, Path("runs/x"), 0, "")


NETWORK = MLPConfig(hidden=8, layers=1, embedding=4)
BLIND = Config(
    schedule=EDM(),
    network=NETWORK,
    conservative=True,
    preconditioning=Preconditioning("residual"),
    times=LogUniformSigma(0.2, 1.5),
)


def test_the_energy_of_a_run_is_of_its_own_denoiser():
    trained = untrained(BLIND)
    energy = energy_of(trained)
    assert (energy.sigma, energy.high, energy.event_shape) == (0.2, 1.5, (4, 4, 1))
    denoise = network_denoiser(trained.network, trained.params, Process(EDM()), BLIND.preconditioning)
    both = jax.jit(lambda y: (residual_denoiser(energy.psi)(y, 0.3), denoise(y, 0.3)))
    np.testing.assert_allclose(*both(jax.random.normal(jax.random.key(1), (3, 4, 4, 1))), rtol=1e-4, atol=1e-5)
    rule = Generator(sigma=0.6, sigma_max=2.0)
    game = Config(schedule=EDM(), network=NETWORK, objective=rule, preconditioning=Preconditioning("x0"))
    assert energy_of(untrained(game)).sigma == 0.6
    for other, remedy in (
        (dataclasses.replace(BLIND, conservative=False), "--preset digits-mdsm"),
        (dataclasses.replace(BLIND, preconditioning=Preconditioning("edm")), "--preconditioning.kind residual"),
        (dataclasses.replace(BLIND, times=LogNormalSigma()), "--times log-uniform"),
        (dataclasses.replace(BLIND, conditional=True, label_dropout=0.0), "--no-conditional"),
    ):
        with pytest.raises(UsageError, match=f"--run runs/x has no .*{remedy}"):
            energy_of(untrained(other))


@pytest.fixture(scope="module")
def energy_run(trained):
    """The folder of a tiny energy of digits."""
    return trained(
        *("energy", "--preset", "digits-ddpm", "--schedule", "edm", "--sampling.sampler", "heun"),
        *("--network", "mlp", "--network.hidden", "32", "--network.layers", "1", "--ema.decays", "0.9"),
        *("--training.steps", "60", "--training.validate-every", "0"),
        *("--optimizer.learning-rate", "0.01", "--optimizer.warmup-steps", "0"),
        *("--conservative", "--preconditioning.kind", "residual", "--weighting", "snr"),
        *("--times", "log-uniform", "--times.low", "0.2", "--times.high", "1.5"),
    )


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (30, 8, 8), np.uint8))
    return f"npz:{path}"


def test_noise_is_stranger_than_digits(run_command, energy_run, noise, tmp_path):
    flags = ("--run", energy_run, "--data", noise, "--against-run", energy_run, "--outdir", tmp_path)
    report = run_command("anomaly", *flags, "--json").value
    kept = np.load(tmp_path / "scores.npz")
    trained = load_run(CheckpointArguments(run=energy_run))
    training, held_out = split(open_source("digits"), 0.1, 0)
    energy, pixels = energy_of(trained), open_source(noise).images
    middle = np.median(strangeness(energy, training.images, copies=0))
    np.testing.assert_allclose(kept["scores"], strangeness(energy, pixels, copies=0) - middle, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(kept["index"], np.arange(30))
    np.testing.assert_array_equal(kept["label"], np.full(30, -1))
    np.testing.assert_array_equal(kept["log_density_ratio"], np.zeros(30))
    held = kept["held_out_scores"]
    assert (len(held), len(kept["training_scores"])) == (len(held_out), len(training))
    count = np.mean(kept["scores"][:, None] > held)
    assert report["auroc"]["value"] == pytest.approx(count)
    assert count > 0.9
    assert report["quantiles"]["training"]["0.5"] == pytest.approx(0, abs=1e-9)
    assert report["log_density_ratio"]["auroc"] == {"value": 0.5, "standard_error": 0.0}
    worst = report["strangest"][0]
    assert (worst["score"], worst["index"]) == (kept["scores"].max(), kept["scores"].argmax())
    assert worst["training_as_strange"] == np.mean(kept["training_scores"] >= worst["score"])
    said = files.read_provenance(tmp_path / "scores.npz")
    assert (said["ranked"], said["sigma"], len(said["checkpoint_sha256"])) == (noise, 0.2, 64)
    assert files.read_provenance(tmp_path / "anomalies.png")["auroc"] == report["auroc"]


def test_held_out_images_are_ranked(run_command, energy_run, tmp_path):
    flags = ("anomaly", "--run", energy_run, "--images", "50", "--noised", "2", "--outdir", tmp_path)
    lines = run_command(*flags).out
    assert "the energy −ψ/σ² at σ = 0.2, the mean of 2 noisy copies each" in lines  # of many levels
    assert "strangest of held-out" in lines
    kept = np.load(tmp_path / "scores.npz")
    _, held_out = split(open_source("digits"), 0.1, 0)
    np.testing.assert_array_equal(kept["label"], held_out.labels[kept["index"]])
    assert len(set(kept["index"].tolist())) == 50
    assert f"image {kept['index'][kept['scores'].argmax()]} " in lines.split("strangest")[1].splitlines()[1]


def test_chains_are_drawn_from_the_command_line(run_command, energy_run, tmp_path, monkeypatch):
    def draw(name, *flags):
        told = ("sample", "--run", energy_run, "--steps", "6", "--hold", "3", "--format", "npz", "--json")
        value = run_command(*told, "--outdir", tmp_path / name, *flags).value
        return value, np.load(tmp_path / name / "samples.npz")["images"].astype(int)

    value, whole = draw("a", "--kernel", "mala", "--seeds", "0-4")
    np.testing.assert_allclose(draw("b", "--kernel=mala", "--seeds", "3,0", "--batch", "1")[1], whole[[3, 0]], atol=1)
    assert value["temperature"] == pytest.approx((1.5 / 0.2) ** 2)
    assert 0 < value["acceptance"]["end"] <= 1
    said = files.read_provenance(tmp_path / "a" / "samples.npz")
    assert (said["sampler"], said["kernel"], said["nfe"]) == ("energy-mala", "mala", 11)
    value, _ = draw("c", "--kernel", "hmc", "--seeds", "0", "--leapfrogs", "2", "--temperature", "1")
    assert (value["leapfrogs"], value["nfe"], value["temperature"]) == (2, 20, 1.0)
    stuck = ("sample", "--run", energy_run, "--steps", "6", "--hold", "3", "--kernel", "mala")
    stuck += ("--seeds", "0-4", "--outdir")
    assert run_command(*stuck, tmp_path / "e").err == ""
    too_hot = run_command(*stuck, tmp_path / "f", "--temperature", "57").err
    assert "--temperature 57 is above 56.25, the highest" in too_hot
    # A potential a thousand times as steep, in which steps of 0.3 are far too long.
    steep = Partial(lambda y: -500 * jnp.sum(y**2, axis=(1, 2, 3)))
    monkeypatch.setattr(energy_runs, "energy_of", lambda trained: dataclasses.replace(energy_of(trained), psi=steep))
    said = run_command(*stuck, tmp_path / "g", "--temperature", "1")
    assert "0.0% of the steps at T = 1 were accepted" in said.err
    assert "give a smaller --step-size than 0.3." in said.err
    assert "9 steps of mala at T = 1, accepted 0.0%" in said.out
    assert draw("d", "--kernel", "langevin", "--seeds", "0")[0]["acceptance"] == {"cooling": 1.0, "end": 1.0}


def test_chains_go_on_where_they_stopped(run_command, energy_run, tmp_path):
    run = shutil.copytree(energy_run, tmp_path / "run")
    told = ("sample", "--run", run, "--kernel", "mala", "--steps", "6", "--hold", "3", "--json", "--batch", "2")
    first = run_command(*told, "--format", "png", "--seeds", "0-3").value
    folder = Path(first["files"][0]).parent
    assert folder.parent == run / "samples"
    assert folder.name.startswith(f"step-{first['checkpoint_step']:07d}-energy-mala-6-")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "000001.png").unlink()
    again = run_command(*told, "--format", "png", "--seeds", "0-3").value
    assert (again["already_there"], again["nfe"]) == (3, 11)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    done = run_command(*told, "--format", "png", "--seeds", "0-3").value
    assert (done["already_there"], done["acceptance"], done["nfe"]) == (4, None, 11)
    refused = run_command(*told, "--format", "png", "--step-size", "0.2", "--outdir", folder)
    assert "holds samples of another command (step_size 0.3, not 0.2)" in refused.err


def test_what_somebody_else_wrote_is_not_overwritten(run_command, energy_run, tmp_path):
    (tmp_path / "scores.npz").write_text("theirs")
    outcome = run_command("anomaly", "--run", energy_run, "--outdir", tmp_path)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "scores.npz is there, and is not one of scorefield's own" in outcome.err
    assert (tmp_path / "scores.npz").read_text() == "theirs"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("anomaly", "--run", "PLAIN"), "has no energy"),
        (("sample", "--run", "PLAIN", "--kernel", "mala"), "has no energy"),
        (("anomaly", "--run", "ENERGY", "--against-run", "PLAIN"), "--against-run"),
        (("anomaly", "--run", "ENERGY", "--noised", "-1"), "--noised is -1"),
        (("anomaly", "--run", "ENERGY", "--data.size", "8"), "add --data URI"),
        (("anomaly", "--run", "ENERGY", "--data", "digits", "--data.size", "6"), "this run is of 8×8×1"),
        (("sample", "--run", "ENERGY", "--kernel", "nuts"), "choose langevin, mala, hmc"),
        (("sample", "--run", "ENERGY", "--kernel", "hmc", "--leapfrogs", "0"), "--leapfrogs is 0"),
        (("sample", "--run", "ENERGY", "--kernel", "hmc", "--hold", "-1"), "give at least 0"),
        (("sample", "--run", "ENERGY", "--kernel", "mala", "--temperature", "0.5"), "--temperature is 0.5"),
        (("sample", "--run", "ENERGY", "--kernel", "mala", "--steps", "1"), "--steps 1 cannot lead from T"),
        (("sample", "--run", "ENERGY", "--kernel", "mala", "--step-size", "5"), "--step-size is 5.0"),
        (("sample", "--run", "ENERGY", "--kernel", "mala", "--guidance", "2"), "--guidance"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(run_command, energy_run, tiny_run, arguments, words):
    places = {"PLAIN": tiny_run, "ENERGY": energy_run}
    outcome = run_command(*(places.get(argument, argument) for argument in arguments))
    assert outcome.status == 2
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
