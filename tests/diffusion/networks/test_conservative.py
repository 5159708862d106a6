"""A conservative network answers with a gradient: its Jacobian is symmetric, and its potential is there to be asked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import EDM, Process
from diffusion.energy import asymmetry
from diffusion.networks import MLPConfig, Network, UNetConfig
from diffusion.networks.conservative import Conservative
from diffusion.prediction import Preconditioning, network_denoiser
from tests.diffusion.networks.conftest import perturbed

CASES = {
    "mlp": (MLPConfig(hidden=8, layers=1), (3,)),
    "unet": (UNetConfig(channels=4, multipliers=(1,), blocks=1), (2, 3, 1)),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    plain = Network(*CASES[request.param])
    params = perturbed(plain.init(jax.random.key(0)))
    x = jax.random.normal(jax.random.key(1), (4, *plain.event_shape))
    return plain, params, x, jnp.linspace(-1.0, 1.0, 4)


def test_the_answer_is_the_gradient_of_the_potential(case):
    plain, params, x, c_noise = case
    network, step = Conservative(plain), 1e-2
    v = jax.random.normal(jax.random.key(2), x.shape)
    slope = (network.potential(params, x + step * v, c_noise) - network.potential(params, x - step * v, c_noise)) / (
        2 * step
    )
    along = jnp.sum((network(params, x, c_noise) * v).reshape(4, -1), 1)
    np.testing.assert_allclose(slope, along, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(
        network.potential(params, x, c_noise), jnp.sum((x * plain(params, x, c_noise)).reshape(4, -1), 1), rtol=1e-5
    )


def _at_one_level(denoise, y):
    return denoise(y, 0.7)


def test_its_denoiser_has_no_curl_and_that_of_the_plain_network_has(case):
    """The un-conservative network is the comparison: what is to be read as zero is not zero by itself."""
    plain, params, x, _ = case
    ratios = {}
    for network in (plain, Conservative(plain)):
        for kind in ("edm", "residual"):
            denoise = network_denoiser(network, params, Process(EDM()), Preconditioning(kind))
            ratios[type(network).__name__, kind] = float(asymmetry(Partial(_at_one_level, denoise), x).ratio)
    assert max(ratios["Conservative", kind] for kind in ("edm", "residual")) < 1e-5
    assert min(ratios["Network", kind] for kind in ("edm", "residual")) > 1e-3


def test_untrained_it_is_zero_and_learns_from_there(case):
    plain, _, x, c_noise = case
    network = Conservative(plain)
    params = network.init(jax.random.key(0))
    np.testing.assert_array_equal(network(params, x, c_noise), jnp.zeros_like(x))
    slopes = jax.grad(lambda p: jnp.sum((network(p, x, c_noise) - 1.0) ** 2))(params)
    assert any(float(jnp.max(jnp.abs(leaf))) > 0 for leaf in jax.tree.leaves(slopes))


def test_equal_networks_are_one_and_two_outputs_are_refused():
    config, event_shape = CASES["mlp"]
    assert Conservative(Network(config, event_shape)) == Conservative(Network(config, event_shape))
    with pytest.raises(ValueError, match="outputs is 2; a gradient has the shape of its input"):
        Conservative(Network(config, event_shape, 0, 2))
