import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.data.scaling import to_model, to_uint8

BYTES = np.arange(256, dtype=np.uint8)


def test_the_range_is_minus_one_to_one_and_the_middle_is_zero():
    x = to_model(BYTES)
    assert x.dtype == np.float32
    assert x[0] == -1
    assert x[255] == 1
    np.testing.assert_allclose(x + x[::-1], 0, atol=1e-7)
    np.testing.assert_allclose(np.diff(x), 2 / 255, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_all_256_values_survive_the_round_trip(dtype):
    dtype = jnp.dtype(dtype)  # NumPy knows no bfloat16 by name
    u = to_uint8(to_model(BYTES, dtype))
    assert u.dtype == np.uint8
    np.testing.assert_array_equal(u, BYTES)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_256_values_survive_the_round_trip_in_a_compiled_function(dtype):
    u = jax.jit(lambda u: to_uint8(to_model(u, dtype)))(jnp.asarray(BYTES))
    assert isinstance(u, jax.Array)
    np.testing.assert_array_equal(u, BYTES)


def test_model_values_are_float32_in_float64_mode_too(x64):
    assert to_model(jnp.asarray(BYTES)).dtype == jnp.float32


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20))
@settings(deadline=None)
def test_any_value_in_range_comes_back_within_half_a_level(values):
    x = np.array(values, np.float32)
    np.testing.assert_array_less(np.abs(to_model(to_uint8(x)) - x), 1 / 255 + 1e-6)


@given(st.floats(1, 2.0**100, width=32))
@settings(deadline=None)
def test_values_out_of_range_are_clipped(value):
    x = np.array([-value, value], np.float32)
    np.testing.assert_array_equal(to_uint8(x), [0, 255])
