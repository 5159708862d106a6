"""Attention in its three forms: one function, with derivatives of every kind and order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.networks import attention as forms
from tests.diffusion.networks.derivatives import agree, drawn, every_derivative


def stand_in(q, k, v):
    """What the kernel is to JAX, a function with a backward pass and no other derivative.

    Its backward pass answers thrice what is right, so that it is seen where it was taken.
    """

    @jax.custom_vjp
    def attend(q, k, v):
        return forms.plain(q, k, v)

    def backward(kept, cotangent):
        return jax.vjp(forms.plain, *kept)[1](3 * cotangent)

    attend.defvjp(lambda q, k, v: (attend(q, k, v), (q, k, v)), backward)
    return attend(q, k, v)


@pytest.fixture
def a_gpu(monkeypatch):
    """A machine whose backend calls itself a GPU, with a kernel."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(forms, "FUSED_ON", "cpu")
    monkeypatch.setattr(forms, "kernel", stand_in)
    forms.fused_takes.cache_clear()
    yield
    forms.fused_takes.cache_clear()


@pytest.fixture(scope="module")
def wanted():
    with jax.enable_x64(True):
        return jax.device_get(every_derivative(forms.plain)(*drawn(7)))


def test_by_queries_is_the_plain_form_with_all_its_derivatives(wanted, x64):
    found = every_derivative(functools.partial(forms.by_queries, chunk=3))(*drawn(7))
    agree(found, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 2, 7, 8])
def test_any_number_of_queries_at_a_time_will_do(chunk, x64):
    inputs = drawn(3)
    np.testing.assert_allclose(forms.by_queries(*inputs, chunk=chunk), forms.plain(*inputs), rtol=1e-12)


def test_a_gradient_is_the_kernels_own_and_every_other_derivative_is_of_the_plain_form(a_gpu, wanted, x64):
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(stand_in, tuple(drawn(3)), tuple(drawn(3)))
    found = every_derivative(forms.attention)(*drawn(7))
    thrice = {"reverse", "one of the three", "many cotangents", "rematerialised"}
    agree(found, {name: jax.tree.map(lambda a: 3 * a, wanted[name]) for name in thrice}, rtol=1e-11, atol=1e-12)
    agree(found, {name: wanted[name] for name in wanted.keys() - thrice}, rtol=1e-11, atol=1e-12)


def test_the_kernel_runs_where_a_batch_is_spread_over_devices(a_gpu):
    q, k, v = (array[None] for array in drawn(3, jnp.float32))
    gradient = jax.grad(lambda q, k, v: jnp.sum(forms.attention(q, k, v) ** 2))
    np.testing.assert_allclose(jax.pmap(gradient)(q, k, v)[0], gradient(q[0], k[0], v[0]), atol=1e-6)


@pytest.mark.parametrize("refusal", [NotImplementedError, ValueError, RuntimeError])
def test_the_kernel_is_left_out_where_it_refuses(a_gpu, monkeypatch, refusal):
    def refusing(q, k, v):
        raise refusal("Q must be fp16/bf16")

    monkeypatch.setattr(forms, "kernel", refusing)
    inputs = [array[:, :5] for array in drawn(3, jnp.float32)]
    assert not forms.fused_takes(inputs[0].shape, inputs[0].dtype)
    np.testing.assert_array_equal(forms.attention(*inputs), forms.plain(*inputs))


def test_without_a_gpu_the_kernel_is_not_asked_for(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    inputs = drawn(3, jnp.float32)
    assert "tangent_with_backward" not in str(jax.make_jaxpr(lambda *a: jax.jvp(forms.attention, a, a))(*inputs))
    np.testing.assert_array_equal(forms.attention(*inputs), forms.plain(*inputs))


def test_cudnn_takes_nothing_on_a_cpu():
    """What JAX raises there is among the refusals."""
    assert not forms.fused_takes((1, 8, 2, 16), jnp.dtype(jnp.bfloat16))
    assert not forms.fused_takes((1, 8, 2, 16), jnp.dtype(jnp.float32))


def avals(jaxpr):
    for equation in jaxpr.eqns:
        yield from (variable.aval for variable in equation.outvars)
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from avals(inner)


@pytest.mark.parametrize(("tokens", "whole"), [(forms.MOST_LOGITS, True), (2 * forms.MOST_LOGITS + 100, False)])
def test_the_logits_of_many_tokens_never_exist_at_once(tokens, whole):
    """Neither on the way forward nor for the gradient, whatever XLA makes of it."""
    one = jax.ShapeDtypeStruct((2, tokens, 2, 8), jnp.float32)
    gradient = jax.make_jaxpr(jax.grad(lambda q, k, v: jnp.sum(forms.attention(q, k, v) ** 2), argnums=(0, 1, 2)))
    largest = max(np.prod(aval.shape) for aval in avals(gradient(one, one, one).jaxpr))
    assert largest == 4 * tokens * (tokens if whole else forms.CHUNK)


def test_bfloat16_is_summed_and_normalised_in_float32():
    q, k, v = (jnp.asarray(array, jnp.bfloat16) for array in drawn(3, jnp.float32))
    for form in (forms.plain, functools.partial(forms.by_queries, chunk=2)):
        found = form(q, k, v)
        assert found.dtype == jnp.bfloat16
        wide = forms.plain(*(array.astype(jnp.float32) for array in (q, k, v)))
        np.testing.assert_allclose(found.astype(jnp.float32), wide, atol=4 * 2.0**-8)  # weights, sum, result
    types = {e.primitive.name: e.invars[0].aval.dtype for e in jax.make_jaxpr(forms.plain)(q, k, v).jaxpr.eqns}
    assert types.get("exp", jnp.float32) == jnp.float32


def test_the_plain_form_agrees_with_jax(x64):
    inputs = drawn(3)
    theirs = jax.nn.dot_product_attention(*inputs, implementation="xla")
    np.testing.assert_allclose(forms.plain(*inputs), theirs, atol=1e-6)  # its softmax is in float32
