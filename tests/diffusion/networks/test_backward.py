"""Functions with a backward pass of their own: it is taken for a first gradient, and the plain formula for the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffusion.keys import sample_keys
from diffusion.networks.backward import rematerialised, with_backward
from diffusion.networks.blocks import dropout
from tests.diffusion.networks.derivatives import agree, drawn, every_derivative


def plain(q, k, v):
    return jnp.sin(q * k) * v + q


def thrice(cotangent, *arguments):
    return jax.vjp(plain, *arguments)[1](3 * cotangent)


@pytest.fixture(scope="module")
def wanted():
    with jax.enable_x64(True):
        return jax.device_get(every_derivative(plain)(*drawn(7)))


def test_a_first_gradient_is_by_the_backward_pass_and_all_else_by_the_plain_formula(wanted, x64):
    """The second derivatives are those of the backward pass, where that is what is differentiated."""
    found = every_derivative(with_backward(plain, thrice))(*drawn(7))
    backwards = {"reverse", "one of the three", "many cotangents", "rematerialised"}
    backwards |= {"forward over reverse", "reverse over reverse"}
    agree(found, {name: jax.tree.map(lambda a: 3 * a, wanted[name]) for name in backwards}, rtol=1e-11, atol=1e-12)
    agree(found, {name: wanted[name] for name in wanted.keys() - backwards}, rtol=1e-11, atol=1e-12)


def test_the_backward_pass_is_taken_in_a_batch_of_functions_too(x64):
    """Of values that are batched together, or of one value that is shared."""
    q, k, v = drawn(3)
    function = with_backward(plain, thrice)
    for axes in [(0, 0, 0), (None, 0, 0), (0, None, 1)]:
        gradients = [
            jax.grad(lambda *a, f=f, axes=axes: jnp.sum(jnp.cos(jax.vmap(f, in_axes=axes)(*a))), argnums=(0, 1, 2))(
                *(
                    array if axis == 0 else array[0] if axis is None else array.swapaxes(0, 1)
                    for array, axis in zip((q, k, v), axes, strict=True)
                )
            )
            for f in (plain, function)
        ]
        for one, other in zip(*gradients, strict=True):
            np.testing.assert_allclose(other, 3 * one, rtol=1e-11)


class Layer(nnx.Module):
    """sin(q k) v + q, with a weight for k, and with keys for dropout."""

    def __init__(self, weight):
        self.weight = nnx.Param(weight)

    def __call__(self, q, v, keys=None):
        return dropout(plain(q, self.weight[...], v), 0.5, keys)


def test_a_layer_that_is_computed_again_has_all_derivatives(wanted, x64):
    found = every_derivative(lambda q, k, v: rematerialised(Layer(k), True)(q, v, None))(*drawn(7))
    agree(found, wanted, rtol=1e-11, atol=1e-12)


def test_a_layer_that_is_computed_again_drops_the_same_units(x64):
    q, k, v = drawn(3)
    keys = sample_keys(jax.random.key(0), jnp.arange(2))
    kept = [
        jax.value_and_grad(lambda k, remat=remat: jnp.sum(rematerialised(Layer(k), remat)(q, v, keys) ** 2))(k)
        for remat in (False, True)
    ]
    for one, other in zip(*map(jax.tree.leaves, kept), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-12)
    assert 0.3 < np.mean(np.asarray(kept[1][1]) == 0) < 0.7


def test_a_layer_is_as_it_was_unless_it_is_to_be_computed_again():
    layer = Layer(jnp.ones(3))
    assert rematerialised(layer, False) is layer
