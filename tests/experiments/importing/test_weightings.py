"""The loss that a training from an imported network begins with: the square of what the network itself predicts."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, Betas, Preconditioning, Process
from diffusion.prediction import network_x0
from experiments.importing.diffusers import WEIGHTINGS
from experiments.importing.plan import Options, plan_import
from tests.experiments.importing.conftest import TINY

CHAIN, LEVELS = Process(Betas.linear(100)), Process(EDM(0.01, 50.0))


def weights(process, preconditioning, weighting, times):
    """The weight of |δx̂_0|² in units of |δF|²: w(t) (∂x̂_0/∂F)²."""
    x, t = jnp.full((len(times), 1), 0.3), jnp.asarray(times)
    ends = [network_x0(preconditioning, process, jnp.full_like(x, raw), x, t)[:, 0] for raw in (1.0, 0.0)]
    return np.asarray(weighting.weight(process, t) * (ends[0] - ends[1]) ** 2)


@pytest.mark.parametrize("kind", WEIGHTINGS)
def test_of_diffusers(kind, x64):
    process, times = (LEVELS, [0.02, 1.0, 40.0]) if kind == "ve" else (CHAIN, [1, 50, 99])
    np.testing.assert_allclose(weights(process, Preconditioning(kind, 1.0), WEIGHTINGS[kind], times), 1.0, rtol=1e-9)


@pytest.mark.parametrize("precond", ["EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond"])
def test_of_edm_and_what_it_compares(precond, published, x64):
    """Karras et al. 2022, table 1: 1/σ² for VP, VE and iDDPM, 1/σ² + 1/σ_d² for EDM."""
    config = plan_import(f"edm:{published({**TINY, 'precond': precond})}", Options()).config
    process = dataclasses.replace(config.process(), schedule=EDM(0.01, 50.0))
    found = weights(process, config.preconditioning, config.weighting, [0.02, 1.0, 40.0])
    np.testing.assert_allclose(found, 1.0, rtol=1e-9)
