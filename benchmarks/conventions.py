"""How other libraries count what is counted here too: python benchmarks/conventions.py [LIBRARY ...]

Each line is measured where the library is installed and named where it is not. docs/conventions.md has the table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import Betas
from diffusion.distances import energy_distance, sliced_wasserstein, wasserstein2
from samplers import langevin_step


class Found(NamedTuple):
    """A quantity of both, and how they are related."""

    quantity: str
    ours: float
    theirs: float
    relation: str
    """What theirs is, in terms of ours."""
    expected: float
    """The number that the relation says theirs to be."""


RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(200, 2)), RNG.normal(size=(200, 2)) * 1.5 + 1.0
P, Q = np.diag([1.0, 2.0]), np.asarray([[2.0, 0.5], [0.5, 1.0]])


def blackjax() -> list[Found]:
    """The variance of an unadjusted Langevin step of the number 0.1."""
    diffusions = import_module("blackjax.mcmc.diffusions")
    step = diffusions.overdamped_langevin(jax.value_and_grad(lambda x: 0.0 * jnp.sum(x)))
    state = diffusions.DiffusionState(jnp.zeros(20_000), 0.0, jnp.zeros(20_000))
    theirs = float(jnp.var(step(jax.random.key(0), state, 0.1).position))
    ours = langevin_step(
        jax.random.split(jax.random.key(1), 20_000), jnp.zeros((20_000, 1)), jnp.zeros((20_000, 1)), 0.1
    )
    return [Found("variance of a Langevin step of size 0.1", float(jnp.var(ours)), theirs, "twice", 0.2)]


def ott() -> list[Found]:
    """Sliced and Gaussian Wasserstein distances."""
    costs, sliced = import_module("ott.geometry.costs"), import_module("ott.tools.sliced")
    lines = sliced.sliced_wasserstein(jnp.asarray(X), jnp.asarray(Y), n_proj=2000)[0]
    ours = float(sliced_wasserstein(jax.random.key(0), X, Y, projections=2000))
    bures = costs.Bures(2)
    stacked = [costs.mean_and_cov_to_x(jnp.zeros(2), jnp.asarray(cov), 2) for cov in (P, Q)]
    gaussian = float(wasserstein2(np.zeros(2), P, np.zeros(2), Q))
    return [
        Found("sliced W_2", ours, float(lines), "the square", ours**2),
        Found("W_2 of Gaussians", gaussian, float(bures(*stacked)), "the square", gaussian**2),
    ]


def pot() -> list[Found]:
    """The same two."""
    ot = import_module("ot")
    ours = float(sliced_wasserstein(jax.random.key(0), X, Y, projections=2000))
    theirs = ot.sliced.sliced_wasserstein_distance(X, Y, n_projections=2000, seed=0)
    gaussian = float(wasserstein2(np.zeros(2), P, np.zeros(2), Q))
    bures = ot.gaussian.bures_wasserstein_distance(np.zeros(2), np.zeros(2), P, Q)
    return [
        Found("sliced W_2", ours, float(theirs), "the same", ours),
        Found("W_2 of Gaussians", gaussian, float(bures), "the same", gaussian),
    ]


def scipy() -> list[Found]:
    """The energy distance on the line."""
    from scipy.stats import energy_distance as theirs

    ours = float(energy_distance(X[:, :1], Y[:, :1], unbiased=False))
    return [Found("energy distance", ours, float(theirs(X[:, 0], Y[:, 0])), "the root", ours**0.5)]


def geomloss() -> list[Found]:
    """The energy distance."""
    torch, loss = import_module("torch"), import_module("geomloss").SamplesLoss("energy")
    ours = float(energy_distance(X, Y, unbiased=False))
    theirs = loss(torch.as_tensor(X), torch.as_tensor(Y))
    return [Found("energy distance", ours, float(theirs), "half", ours / 2)]


def diffusers() -> list[Found]:
    """DDPM's chain: which way time counts, and what is squared."""
    theirs = import_module("diffusers").DDPMScheduler(num_train_timesteps=1000).alphas_cumprod
    ours = float(Betas.linear(1000).alpha(500))
    return [Found("α of step 500 of 1000", ours, float(theirs[499]), "the square, at 499", ours**2)]


def ema_pytorch() -> list[Found]:
    """The weight that is left of the start after 100 updates with a decay of 0.9."""
    torch, average = import_module("torch"), import_module("ema_pytorch").EMA
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    ema = average(model, beta=0.9, update_after_step=0, inv_gamma=1e-9, power=1.0)
    ema.update()
    torch.nn.init.ones_(model.weight)
    for _ in range(100):
        ema.update()
    left = 1 - float(ema.ema_model.weight)
    return [Found("what 100 updates at 0.9 leave", 0.9**100, left, "that of every tenth update", 0.9**10)]


LIBRARIES: dict[str, Callable[[], list[Found]]] = {
    "blackjax": blackjax,
    "ott-jax": ott,
    "POT": pot,
    "scipy": scipy,
    "geomloss": geomloss,
    "diffusers": diffusers,
    "ema-pytorch": ema_pytorch,
}


def main(names: list[str]) -> int:
    """Print the table; 1 where a relation does not hold."""
    if unknown := set(names) - set(LIBRARIES):
        sys.exit(f"{', '.join(sorted(unknown))} is not compared here; there are {', '.join(LIBRARIES)}.")
    wrong = 0
    print(f"{'library':22}{'quantity':42}{'ours':>10}{'theirs':>10}  theirs is")
    for name in names or LIBRARIES:
        try:
            label, rows = f"{name} {version(name)}", LIBRARIES[name]()
        except (PackageNotFoundError, ImportError) as error:
            print(f"{name:22}not measured: {error}")
            continue
        for row in rows:
            off = abs(row.theirs - row.expected) > 0.05 * abs(row.expected)
            wrong += off
            print(
                f"{label:22}{row.quantity:42}{row.ours:>10.4g}{row.theirs:>10.4g}  {row.relation}"
                + (f", but {row.expected:.4g} was expected" if off else "")
            )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
