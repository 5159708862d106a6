"""The likelihood of each image, on a model of Gaussian pixels whose masses are known; and a chain's bound."""

import csv
import dataclasses
import math
from typing import Any, cast

import numpy as np
import pytest
from scipy.stats import norm

from diffusion.oracles import GaussianLaw
from diffusion.prediction import Preconditioning
from diffusion.pytree import as_partial
from diffusion.schedules import EDM
from experiments.config.nodes import Chain
from experiments.config.tree import Config
from experiments.data import Source
from experiments.data.scaling import bin_width, to_model
from experiments.evaluation import likelihood as module
from experiments.evaluation.likelihood import Likelihoods, likelihoods
from experiments.runs.model import Model
from experiments.training.data import Facts

IMAGES = np.random.default_rng(0).integers(90, 170, (6, 2, 2, 1)).astype(np.uint8)
STD = 0.3


@pytest.fixture
def gaussian(monkeypatch):
    law = GaussianLaw.isotropic(np.full((2, 2, 1), 0.1), STD)
    monkeypatch.setattr(
        module, "make_denoiser", lambda model, labels, with_variance=False: as_partial(law.denoiser(model.process))
    )
    config = Config(schedule=EDM(), preconditioning=Preconditioning("edm", 0.5))
    return Model(config, Facts((2, 2, 1), 0), None, None)


def no_data():
    raise AssertionError("no data are needed")


def masses(x, spread):
    """ln P of each image: of the bins of its levels under N(0.1, spread²)."""
    ends = [norm.cdf((x.astype(np.float64) + side * bin_width(8) - 0.1) / spread) for side in (0.5, -0.5)]
    return np.log(ends[0] - ends[1]).reshape(len(x), -1).sum(1)


def test_both_dequantisations_bound_the_mass_of_each_image(gaussian, tmp_path):
    """Σ ln (Φ((x + w/2 − m)/s) − Φ((x − w/2 − m)/s)), s² = v + σ_min²; the bin is narrow, and the bounds near."""
    source, rows = Source(images=IMAGES), np.asarray([0, 2, 3, 5])
    found = likelihoods(gaussian, source, rows, None, draws=3, training=no_data, batch=3)
    exact = masses(to_model(IMAGES[rows]), math.hypot(STD, float(gaussian.process.t_min)))
    for measure in ("uniform", "truncated-normal"):
        assert np.all(np.abs(found.nats[measure] - exact) < 4.5 * found.errors[measure] * math.sqrt(3) + 0.02)
        bits, errors = found.bits(measure)
        np.testing.assert_allclose(bits, -found.nats[measure] / (4 * math.log(2)))
        np.testing.assert_allclose(errors, found.errors[measure] / (4 * math.log(2)))
        summary = found.summary()[measure]
        assert summary["nats"] == pytest.approx(found.nats[measure].mean())
        assert summary["nats_error"] == pytest.approx(found.nats[measure].std(ddof=1) / 2)
    found.save_csv(tmp_path / "x.csv")
    with open(tmp_path / "x.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["index"]) for line in lines] == [0, 2, 3, 5]
    assert [float(line["uniform_nats"]) for line in lines] == found.nats["uniform"].tolist()
    assert len(lines[0]) == 9


def test_the_divergence_is_exact_where_it_is_cheap_or_asked_for(gaussian):
    """Of a Jacobian that is a multiple of 1, v·Jv with entries ±1 is the trace itself."""
    source, rows = Source(images=IMAGES), np.arange(2)
    ways = [likelihoods(gaussian, source, rows, None, draws=2, training=no_data, probes=n) for n in (None, 0, 3)]
    for found in ways[1:]:
        np.testing.assert_allclose(found.nats["uniform"], ways[0].nats["uniform"], atol=2e-3)
    large = dataclasses.replace(gaussian, facts=Facts((8, 8, 1), 0))
    methods = [module._method(model, n) for model, n in ((gaussian, None), (gaussian, 3), (large, None), (large, 0))]
    assert [method and cast(Any, method).probes for method in methods] == [None, 3, 2, None]


def test_a_chain_has_its_elbo(gaussian):
    """A bound on the known mass, and near it where the chain has many steps; an imported run needs no data for it."""
    config = dataclasses.replace(gaussian.config, schedule=Chain(steps=400))
    chain = dataclasses.replace(gaussian, config=config, imported=cast(Any, object()))
    found = likelihoods(chain, Source(images=IMAGES), np.arange(6), None, draws=6, training=no_data)
    assert list(found.nats) == ["elbo"]
    exact = masses(to_model(IMAGES), STD)
    off, error = exact - found.nats["elbo"], found.errors["elbo"]
    assert np.all(off > -5 * error - 0.02)
    assert off.mean() < 1.0 + 5 * math.sqrt(np.sum(error**2)) / 6
    assert np.all(error > 0)


def test_a_mean_leaves_out_what_has_no_number():
    nats = np.asarray([-3.0, np.nan, -5.0])
    found = Likelihoods(np.arange(3), None, 4, {"uniform": nats}, {"uniform": np.zeros(3)})
    (row,) = found.summary().values()
    assert (row["images"], row["failed"], row["nats"], row["nats_error"]) == (2, 1, -4.0, 1.0)
    assert row["bits_per_dim"] == pytest.approx(1 / math.log(2))
