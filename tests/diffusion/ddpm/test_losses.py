"""The simplified and the hybrid loss, and the noise that DDPM saves (identity row 3)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import EDM, VP, Betas, Process, perturb
from diffusion.ddpm.chains import GeneratorChain
from diffusion.ddpm.decoders import DiscretisedDecoder
from diffusion.ddpm.elbo import elbo_term
from diffusion.ddpm.losses import hybrid_loss, merge_noises, simplified_loss, two_noise_loss
from diffusion.ddpm.reverse_steps import FixedSmall, Learned
from diffusion.prediction import eps_from_x0

TIMES = {
    "chain": (Process(Betas.ramp(9, 0.4)), 4, 5),
    "vp": (Process(VP()), 0.2, 0.5),
    "edm": (Process(EDM()), 1.0, 3.0),
}


def bend(x, t):
    return jnp.sin(x + jnp.roll(x, 1, axis=-1))


@pytest.mark.parametrize("name", TIMES)
def test_two_noises_are_worth_one(name, x64):
    """Row 3: σ_t ε = α_{t|s} σ_s ε_s + σ_{t|s} ε_step with ω independent, and E_ω |ε_step − (b/B) ε̂|² is
    (b²/B²)|ε − ε̂|² + d a²B₋²/B²: exact means over the corners ω = ±1, a and b by subtraction."""
    process, s, t = TIMES[name]
    x_0, eps = jax.random.normal(jax.random.key(0), (2, 1, 2))
    omega = np.array(list(itertools.product([-1.0, 1.0], repeat=2)))

    @jax.jit
    def run(process, x_0, eps):
        a = process.alpha(t) / process.alpha(s)
        before, after = process.sigma(s), process.sigma(t)
        b = jnp.sqrt(after**2 - a**2 * before**2)
        # The inverse of the turn is its transpose.
        eps_s = (a * before * eps + b * omega) / after
        eps_step = (b * eps - a * before * omega) / after
        wide = jnp.broadcast_to(x_0, eps_s.shape)
        x_t = a * perturb(process, wide, eps_s, s) + b * eps_step
        error = jnp.sum((eps - eps_from_x0(process, x_t, bend(x_t, t), t)) ** 2, axis=-1)
        loss = two_noise_loss(process, bend, wide, eps_s, eps_step, s, t)
        merged = merge_noises(process, eps_s, eps_step, s, t)
        one = perturb(process, wide, jnp.broadcast_to(eps, wide.shape), t)
        return merged, x_t, one, loss, b**2 / after**2 * error + 2 * a**2 * before**2 / after**2

    (merged_eps, merged_omega), x_t, one, loss, reduced = run(process, x_0, eps)
    np.testing.assert_allclose(merged_eps, np.broadcast_to(eps, (4, 2)), rtol=1e-12)
    np.testing.assert_allclose(merged_omega, omega, rtol=1e-12)
    np.testing.assert_allclose(x_t, one, rtol=1e-12)
    np.testing.assert_allclose(loss.mean(), reduced[0], rtol=1e-12)
    assert loss.std() > 0.01  # the noise that is saved


def test_simplified_loss_is_the_square_in_the_noise(x64):
    """|ε − ε̂|²/d with ε̂ from the denoiser, and a learned variance beside it changes nothing."""
    process, t = Process(VP()), jnp.asarray([0.1, 0.5, 0.9])
    x_0 = jax.random.normal(jax.random.key(1), (3, 2, 2))

    @jax.jit
    def run(x_0, key):
        eps = process.noise.sample(key, x_0.shape)
        x_t = perturb(process, x_0, eps, t)
        error = (eps - eps_from_x0(process, x_t, bend(x_t, t), t)) ** 2
        pair = simplified_loss(key, process, lambda x, t: (bend(x, t), x), x_0, t)
        return simplified_loss(key, process, bend, x_0, t), pair, jnp.mean(error, axis=(1, 2))

    mine, pair, expected = run(x_0, jax.random.key(0))
    np.testing.assert_allclose(mine, expected, rtol=1e-11)
    np.testing.assert_array_equal(pair, mine)


def _network(params, x, t):
    """The mean from params["mean"], v from params["v"]."""
    return params["mean"] * bend(x, t), params["v"] + 0.1 * x


@pytest.fixture(scope="module")
def hybrid():
    """Losses and gradients in the mean and in v of all steps of a chain, the decoder's among them."""
    process, times, weight = Process(Betas.linear(50)), np.array([0, 1, 5, 20]), 0.3
    k, x_0 = np.array([1, 2, 3]), np.array([[-1.0, 1.0], [0.2, -1.0], [0.6, 0.4]])

    def chain(params):
        return GeneratorChain(process, Partial(_network, params), times, Learned(), DiscretisedDecoder())

    @jax.jit
    def run(params, key, x_0, k):
        t = jnp.asarray(times)[k]
        x_k = perturb(process, x_0, process.noise.sample(key, x_0.shape), t)
        losses = {
            "hybrid": lambda p: hybrid_loss(key, chain(p), x_0, k, weight),
            "simple": lambda p: simplified_loss(key, process, Partial(_network, p), x_0, t),
            "bound": lambda p: weight * 3 * elbo_term(chain(p), x_0, x_k, k) / 2,
        }
        return {name: (loss(params), jax.jacrev(loss)(params)) for name, loss in losses.items()}

    with jax.enable_x64(True):
        return run({"mean": 0.8, "v": 0.3}, jax.random.key(0), x_0, k)


def test_hybrid_loss_is_simple_plus_the_bound(hybrid):
    value = {name: np.asarray(pair[0]) for name, pair in hybrid.items()}
    np.testing.assert_allclose(value["hybrid"], value["simple"] + value["bound"], rtol=1e-10)
    assert np.all(value["bound"] > 0.1)


def test_the_bound_trains_the_variance_and_not_the_mean(hybrid):
    slope = {name: jax.tree.map(np.asarray, pair[1]) for name, pair in hybrid.items()}
    np.testing.assert_allclose(slope["hybrid"]["mean"], slope["simple"]["mean"], rtol=1e-10)
    np.testing.assert_allclose(slope["hybrid"]["v"], slope["bound"]["v"], rtol=1e-10)
    assert np.all(np.abs(slope["bound"]["mean"]) > 1e-3)
    assert np.all(np.abs(slope["bound"]["v"]) > 1e-3)
    assert np.all(slope["simple"]["v"] == 0)


def test_a_loss_depends_on_its_own_key(x64):
    process, x_0, keys = Process(VP()), jnp.ones((3, 2)), jax.random.split(jax.random.key(0), 3)
    call = jax.jit(lambda keys: simplified_loss(keys, process, bend, x_0, 0.5))
    np.testing.assert_array_equal(call(keys[::-1])[::-1], call(keys))


def test_the_hybrid_loss_needs_a_variance_to_learn():
    chain = GeneratorChain(Process(VP()), Partial(bend), np.array([0.0, 0.5, 1.0]), FixedSmall())
    with pytest.raises(TypeError, match="use simplified_loss"):
        jax.eval_shape(hybrid_loss, jax.random.key(0), chain, jnp.ones((2, 2)), jnp.asarray([1, 2]))
