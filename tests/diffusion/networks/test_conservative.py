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
from tests.diffusion.networks.conftest import perturbed, unoptimised

CASES = {
    "mlp": (MLPConfig(hidden=8, layers=1), (3,)),
    "unet": (UNetConfig(channels=4, multipliers=(1,), blocks=1), (2, 3, 1)),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    plain = Network(*CASES[request.param])
    initial = plain.init(jax.random.key(0))
    x = np.random.default_rng(1).standard_normal((4, *plain.event_shape), np.float32)
    return plain, initial, perturbed(initial), x, np.linspace(-1.0, 1.0, 4, dtype=np.float32)


def test_the_answer_is_the_gradient_of_the_potential(case):
    plain, _, params, x, c_noise = case
    network, step = Conservative(plain), np.float32(1e-2)
    v = np.random.default_rng(2).standard_normal(x.shape, np.float32)
    potential = unoptimised(network.potential)
    above, below, here = (np.asarray(potential(params, y, c_noise)) for y in (x + step * v, x - step * v, x))
    both = unoptimised(lambda *inputs: (network(*inputs), plain(*inputs)))
    answer, plain_answer = jax.device_get(both(params, x, c_noise))
    along = np.sum((answer * v).reshape(4, -1), 1)
    np.testing.assert_allclose((above - below) / (2 * step), along, rtol=2e-3, atol=2e-3)
    # A sum whose terms cancel is known to the rounding of the terms, which are of the size of 1.
    np.testing.assert_allclose(here, np.sum((x * plain_answer).reshape(4, -1), 1), rtol=1e-5, atol=1e-6)


def _at_one_level(denoise, y):
    return denoise(y, 0.7)


def test_its_denoiser_has_no_curl_and_that_of_the_plain_network_has(case):
    """The un-conservative network is the comparison: what is to be read as zero is not zero by itself.

    Both kinds of preconditioning for the perceptron, one for the U-Net: they are read off what a network answers.
    """
    plain, _, params, x, _ = case
    kinds = ("edm", "residual") if isinstance(plain.config, MLPConfig) else ("edm",)
    ratios = {}
    for network in (plain, Conservative(plain)):
        for kind in kinds:
            denoise = network_denoiser(network, params, Process(EDM()), Preconditioning(kind))
            ratio = unoptimised(lambda field, x: asymmetry(field, x).ratio)(Partial(_at_one_level, denoise), x)
            ratios[type(network).__name__, kind] = float(ratio)
    assert max(ratios["Conservative", kind] for kind in kinds) < 1e-5
    assert min(ratios["Network", kind] for kind in kinds) > 1e-3


def test_untrained_it_is_zero_and_learns_from_there(case):
    plain, initial, _, x, c_noise = case
    network = Conservative(plain)
    params = network.init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, params, initial)

    def loss(params):
        answer = network(params, jnp.asarray(x), jnp.asarray(c_noise))
        return jnp.sum((answer - 1.0) ** 2), answer

    slopes, answer = unoptimised(jax.grad(loss, has_aux=True))(params)
    np.testing.assert_array_equal(answer, np.zeros_like(x))
    assert any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(slopes))


def test_equal_networks_are_one_and_two_outputs_are_refused():
    config, event_shape = CASES["mlp"]
    assert Conservative(Network(config, event_shape)) == Conservative(Network(config, event_shape))
    with pytest.raises(ValueError, match="outputs is 2; a gradient has the shape of its input"):
        Conservative(Network(config, event_shape, 0, 2))
