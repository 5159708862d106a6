"""Convolutions by fewer multiplications are convolutions, and so are their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.networks import winograd
from diffusion.networks.winograd import convolve, direct, worthwhile


def drawn(height, width, *, channels=(3, 2), dtype=np.float64, batch=2):
    rng = np.random.default_rng(0)
    x, k = (batch, height, width, channels[0]), (3, 3, *channels)
    return tuple(jnp.asarray(rng.standard_normal(shape), dtype) for shape in (x, k))


def test_it_is_the_convolution_at_the_edges_too(x64):
    x, kernel = drawn(6, 4)
    np.testing.assert_allclose(convolve(x, kernel), direct(x, kernel), rtol=1e-12, atol=1e-13)


def test_its_derivatives_are_those_of_the_convolution(x64):
    x, kernel = drawn(4, 6)

    def slopes(derivative, convolution):
        def value(x, kernel):
            return jnp.sum(jnp.sin(convolution(x, kernel)))

        return jax.jit(derivative(value, argnums=(0, 1)))(x, kernel)

    for derivative in (jax.grad, jax.jacfwd):
        found, exact = slopes(derivative, convolve), slopes(derivative, direct)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), found, exact)


def test_its_rounding_is_that_of_a_convolution():
    x, kernel = drawn(16, 16, channels=(64, 64), dtype=np.float32)
    with jax.enable_x64(True):
        exact = np.asarray(direct(*(jnp.asarray(np.asarray(one), jnp.float64) for one in (x, kernel))))
    errors = [np.abs(np.asarray(one(x, kernel)) - exact).max() / np.abs(exact).max() for one in (convolve, direct)]
    assert errors[0] < max(4 * errors[1], 1e-6), errors


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"height": 8, "width": 8}, False),
        ({"height": 17}, False),
        ({"channels": (3, 64)}, False),
        ({"channels": (64, 32)}, False),
        ({"batch": 1}, True),
    ],
)
def test_it_is_taken_for_large_images_of_many_channels_in_float32(change, fits):
    assert (
        worthwhile(*drawn(**{"height": 16, "width": 16, "channels": (64, 64), "dtype": np.float32, **change})) is fits
    )


def test_a_layer_takes_it_where_it_is_worthwhile(monkeypatch):
    from flax import nnx

    asked = []
    monkeypatch.setattr(winograd, "convolve", lambda x, kernel: asked.append(x.shape) or direct(x, kernel))
    for side, stride, padding in ((3, 1, "SAME"), (3, 1, ((1, 1), (1, 1))), (3, 2, "SAME"), (1, 1, "SAME")):
        layer = winograd.Conv(64, 64, side, stride, padding=padding, rngs=nnx.Rngs(0))
        jax.eval_shape(layer, jax.ShapeDtypeStruct((2, 16, 16, 64), jnp.float32))
    assert asked == [(2, 16, 16, 64)] * 2
