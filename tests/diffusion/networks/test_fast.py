"""The forms for a CPU equal the plain ones in value and in every derivative, and are used on a CPU alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffusion.networks import DiTConfig, Network, UNetConfig, fast
from tests.diffusion.networks.conftest import unoptimised


def _layer(kind, *sizes, **options):
    graph, state = nnx.split(kind(*sizes, rngs=nnx.Rngs(0), **options))
    return lambda x, *leaves: nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(state), leaves))(x)


def _normalised(x, scale, shift):
    return fast.group_normalise(x.reshape(x.shape[0], -1, x.shape[-1]), 2, scale, shift)


# 12 × 50 positions have rows to add first, 7 have not.
CASES = {
    "linear": (_layer(fast.Linear, 3, 2), [(4, 150, 3), (2,), (3, 2)]),
    "linear of few rows": (_layer(fast.Linear, 3, 2), [(4, 3), (2,), (3, 2)]),
    "convolution": (_layer(fast.Conv, 3, 2, 3, 1), [(2, 5, 4, 3), (2,), (3, 3, 3, 2)]),
    "convolution of stride 2": (_layer(fast.Conv, 3, 2, 3, 2), [(2, 5, 4, 3), (2,), (3, 3, 3, 2)]),
    "convolution of one pixel": (_layer(fast.Conv, 3, 2, 1, 1), [(2, 5, 4, 3), (2,), (1, 1, 3, 2)]),
    "convolution of one pixel, of stride 2": (_layer(fast.Conv, 3, 2, 1, 2), [(2, 5, 4, 3), (2,), (1, 1, 3, 2)]),
    "layer norm": (fast.layer_normalise, [(2, 5, 6)]),
    "group norm": (_normalised, [(2, 12, 50, 4), (2, 4), (2, 4)]),
    "group norm of a prime number of positions": (_normalised, [(2, 7, 4), (1, 4), (1, 4)]),
}


def _answers(function, inputs, directions, weights):
    """Value; jvp; vjp; the derivative of the vjp, which is a Hessian's product: reverse in forward and in reverse."""

    def gradient(*inputs):
        return jax.vjp(function, *inputs)[1](weights)

    def slope(*inputs):
        return sum(jnp.vdot(g, v) for g, v in zip(gradient(*inputs), directions, strict=True))

    value, along = jax.jvp(function, inputs, directions)
    n = tuple(range(len(inputs)))
    return value, along, gradient(*inputs), jax.jvp(gradient, inputs, directions)[1], jax.grad(slope, n)(*inputs)


def _draws(shapes, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes)


def _both(monkeypatch, function, shapes, dtype):
    """The answers on a CPU, and in the plain form of other platforms."""
    inputs, directions = _draws(shapes, dtype), _draws(shapes, dtype, 1)
    weights = jnp.cos(jnp.arange(jax.eval_shape(function, *inputs).size, dtype=dtype))
    weights = weights.reshape(jax.eval_shape(function, *inputs).shape)
    ours = unoptimised(lambda *args: _answers(function, *args))(inputs, directions, weights)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    plain = unoptimised(
        lambda *args: _answers(
            function,
            *args,
        )
    )(inputs, directions, weights)
    return jax.device_get((ours, plain))


@pytest.mark.parametrize("name", CASES)
def test_value_and_derivatives_of_either_mode_and_order_are_the_plain_ones(name, monkeypatch, x64):
    ours, plain = _both(monkeypatch, *CASES[name], jnp.float64)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        assert a.dtype == b.dtype == np.float64
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11 * (1 + np.abs(b).max()))


@pytest.mark.parametrize("name", CASES)
def test_in_float32_they_are_equal_to_rounding(name, monkeypatch):
    ours, plain = _both(monkeypatch, *CASES[name], jnp.float32)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_allclose(a, b, atol=1e-5 * (1 + np.abs(b).max()), rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_in_bfloat16_they_are_as_near_to_float32_as_the_plain_ones(name, monkeypatch):
    """Second derivatives of a normalisation cancel: there neither form has a digit left, and they may differ."""
    function, shapes = CASES[name]
    ours, plain = _both(monkeypatch, function, shapes, jnp.bfloat16)
    inputs, directions = (
        tuple(x.astype(jnp.float32) for x in _draws(shapes, jnp.bfloat16, seed)) for seed in (0, 1)
    )  # the same draws, rounded as they were
    weights = jnp.cos(jnp.arange(ours[0].size, dtype=jnp.bfloat16)).reshape(ours[0].shape).astype(jnp.float32)
    exact = jax.device_get(unoptimised(lambda *args: _answers(function, *args))(inputs, directions, weights))
    for a, b, c in zip(*map(jax.tree.leaves, (ours, plain, exact)), strict=True):
        assert a.dtype == b.dtype == jnp.bfloat16
        off, off_plain = (np.abs(np.asarray(one, np.float32) - c).max() for one in (a, b))
        assert off <= 3 * off_plain + 0.01 * np.abs(c).max()


@pytest.mark.parametrize("name", ["layer norm", "group norm"])
def test_a_large_mean_leaves_a_normalisation_and_its_gradient_accurate(name, monkeypatch):
    function, shapes = CASES[name]
    x, *rest = _draws(shapes, np.float32)
    away = jnp.asarray(x + np.float32(1024.0))  # what is left of x then is exact in both
    x = away - np.float32(1024.0)
    at = unoptimised(lambda x: (function(x, *rest), jax.grad(lambda x: jnp.sum(jnp.sin(function(x, *rest))))(x)))
    for a, b in zip(at(away), at(x), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)


@pytest.mark.parametrize(
    ("config", "shape"),
    [(DiTConfig(patch=1, width=8, depth=1, heads=2), (4, 4, 1)), (UNetConfig(channels=8, multipliers=(1,)), (4, 4, 1))],
    ids=["dit", "unet"],
)
def test_networks_have_the_forms_on_a_cpu_and_not_elsewhere(config, shape, monkeypatch):
    def program():
        network = Network(config, shape)
        params = jax.eval_shape(network.init, jax.random.key(0))
        x, c_noise = jax.ShapeDtypeStruct((32, *shape), np.float32), jax.ShapeDtypeStruct((32,), np.float32)
        jax.clear_caches()
        return str(jax.make_jaxpr(lambda *args: network(*args))(params, x, c_noise))

    assert "optimization_barrier" in program()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "optimization_barrier" not in program()
    with jax.default_device(jax.devices("cpu")[0]):
        assert "optimization_barrier" in program()
