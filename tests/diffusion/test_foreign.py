"""Somebody else's network as a denoiser: its own prediction, its own input, its own clock."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

from diffusion import EDM, VP, Betas, Process, convert, foreign_denoiser, perturb
from diffusion.arrays import expand
from diffusion.oracles import GaussianMixture

LAW = GaussianMixture.isotropic(np.asarray([[-1.0, 0.0], [1.5, 0.5]]), 0.4)


@pytest.mark.parametrize("kind", ["x0", "eps", "score", "v", "velocity"])
def test_every_prediction_gives_the_denoiser_back(kind, x64):
    process = Process(VP())
    exact = LAW.denoiser(process)
    x, t = jnp.asarray([[0.3, -0.2], [1.0, 2.0]]), jnp.asarray([0.3, 0.8])
    network = lambda x, t: convert(exact(x, t), x, t, process, "x0", kind)  # noqa: E731
    np.testing.assert_allclose(foreign_denoiser(process, network, kind)(x, t), exact(x, t), rtol=1e-12)


def test_ddpms_networks_count_from_zero(x64):
    """A standard ε-network takes x as it is and the times 0..T − 1."""
    chain = Process(Betas.linear(10))
    exact, seen = LAW.denoiser(chain), []

    def network(shift, x, k):
        seen.append(np.asarray(k))
        return convert(exact(x, k + shift), x, k + shift, chain, "x0", "eps")

    denoise = foreign_denoiser(chain, Partial(network, 1), "eps", time=lambda t: t - 1)
    x = perturb(chain, LAW.sample(jax.random.key(0), 3), jnp.ones((3, 2)), 10.0)
    np.testing.assert_allclose(denoise(x, 10.0), exact(x, 10.0), rtol=1e-12)
    np.testing.assert_array_equal(seen[0], [9, 9, 9])


def test_an_input_may_be_scaled(x64):
    process = Process(EDM())
    exact, scale = LAW.denoiser(process), lambda t: 1 / jnp.sqrt(1 + t**2)
    network = lambda y, t: exact(y / expand(scale(t), y), t)  # noqa: E731
    x, t = jnp.asarray([[0.3, -0.2], [10.0, 2.0]]), jnp.asarray([0.3, 8.0])
    np.testing.assert_allclose(
        foreign_denoiser(process, network, "x0", input_scale=scale)(x, t), exact(x, t), rtol=1e-12
    )


def test_a_prediction_from_a_scaled_input_is_of_the_unscaled_state(x64):
    """x̂_0 = (x − σ ε̂)/α, with the x that was not scaled, for a network that sees c x."""
    process = Process(VP())
    network = lambda y, t: jnp.sin(y) + expand(t, y)  # noqa: E731
    x, t = np.asarray([[0.3, -0.2], [10.0, 2.0]]), np.asarray([0.3, 0.8])
    alpha, sigma = (np.asarray(f(t))[:, None] for f in (process.alpha, process.sigma))
    eps = np.sin((1 + t[:, None]) * x) + t[:, None]
    found = foreign_denoiser(process, network, "eps", input_scale=lambda t: 1 + t)(jnp.asarray(x), jnp.asarray(t))
    np.testing.assert_allclose(found, (x - sigma * eps) / alpha, rtol=1e-12)


@pytest.mark.usefixtures("as_users_call_it")
def test_an_unknown_prediction_is_named():
    with pytest.raises(ValueError, match="kind = 'noise' is not a prediction; choose one of x0, eps"):
        foreign_denoiser(Process(VP()), lambda x, t: x, "noise")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Affine:
    """A network that is a pytree itself, and has a function in it that is none."""

    weight: jax.Array
    act: Callable = jnp.sin

    def __call__(self, x, time):
        return self.act(self.weight * x) + expand(time, x)


def test_a_network_that_is_a_pytree_has_its_arrays_as_leaves():
    """As a module of equinox is: other weights are other leaves of one program."""
    process, x = Process(VP()), jnp.asarray([[0.3, -0.2], [1.0, 2.0]])
    traced = []

    @jax.jit
    def ask(denoise, x):
        traced.append(None)
        return denoise(x, 0.5)

    for weight in (2.0, 3.0):
        denoise = foreign_denoiser(process, Affine(jnp.asarray(weight)), "x0")
        np.testing.assert_allclose(ask(denoise, x), np.sin(weight * x) + 0.5, rtol=1e-6)
    assert len(traced) == 1


def test_a_module_of_flax_is_given_as_it_is():
    class Plane(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x, time):
            return self.layer(jnp.concatenate([x, time[:, None]], axis=1))

    process, x = Process(VP()), jnp.asarray([[0.3, -0.2], [1.0, 2.0]])
    module = Plane(nnx.Rngs(0))
    found = jax.jit(lambda denoise, x: denoise(x, 0.5))(foreign_denoiser(process, module, "x0"), x)
    np.testing.assert_allclose(found, module(x, jnp.full((2,), 0.5)), rtol=1e-6)


@pytest.mark.usefixtures("as_users_call_it")
def test_an_answer_of_another_shape_is_refused():
    denoise = foreign_denoiser(Process(VP()), lambda x, t: x[:, :1], "eps")
    with pytest.raises(ValueError, match=r"answers \(2, 1\) to x of \(2, 2\); give one that answers in the shape"):
        denoise(jnp.zeros((2, 2)), 0.5)
