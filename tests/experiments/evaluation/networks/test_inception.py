"""Inception in FID's form, as far as it can be told without running it; tests/interop compares its numbers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.evaluation.networks import inception
from experiments.evaluation.networks.layers import batch_norm, convolution, getter
from experiments.evaluation.networks.weights import _shapes


def test_it_has_94_convolutions_and_the_numbers_of_its_relative():
    shapes = _shapes(inception)
    kernels = [shape for name, shape in shapes.items() if name.endswith("conv.weight")]
    assert len(kernels) == 94
    assert len(shapes) == 94 * 5
    trained = [shape for name, shape in shapes.items() if "running" not in name] + list(inception.UNUSED.values())
    torchvision, its_classes = 27_161_264, 1000  # with its auxiliary classifier of 3,326,696
    assert sum(map(np.prod, trained)) == torchvision - 3_326_696 + (1008 - its_classes) * 2049


@pytest.fixture(scope="module")
def jaxpr():
    """What is computed of one image."""
    shapes = _shapes(inception)

    def get(name, shape):
        assert shapes[name] == shape
        return jnp.zeros([shape[axis] for axis in (2, 3, 1, 0)] if len(shape) == 4 else shape)

    return str(jax.make_jaxpr(lambda x: inception.features(get, x))(np.zeros((1, 299, 299, 3), np.float32)))


def test_the_last_block_has_a_maximum_and_the_one_before_an_average(jaxpr):
    pools = re.findall(r"reduce_window_(max|sum)", jaxpr)
    images = [kind for i, kind in enumerate(pools) if kind == "max" or i + 1 < len(pools)]
    assert pools[-1] == "max"
    assert pools.count("max") == 2 + 2 + 1  # the stem, where sides are halved, and the last block
    assert pools.count("sum") == 2 * (3 + 4 + 1)  # of each average the sum, and how many there are
    assert images[-2] == "sum"


def test_the_maps_have_the_sizes_of_the_graph(jaxpr):
    for height, channels in ((149, 32), (147, 64), (73, 80), (71, 192), (35, 288), (17, 768), (8, 1280), (8, 2048)):
        assert f"f32[1,{height},{height},{channels}]" in jaxpr


def test_a_block_joins_its_branches_in_the_order_of_the_weights():
    """The next block's kernels count on it: each branch is told apart by what its last bias adds."""
    names = []

    def unit(name, x, out, *kernel, **how):
        names.append(name)
        return jnp.full((*x.shape[:-1], out), len(names), np.float32)

    x = np.zeros((1, 4, 4, 8), np.float32)
    joined = np.asarray(inception._wide(unit, "W", x, inception.average_pool))[0, 0, 0]
    order = [names[int(value) - 1].removeprefix("W.") for value in joined[np.sort(np.unique(joined, True)[1])]]
    assert order == [
        "branch1x1",
        *[f"branch3x3_2{s}" for s in "ab"],
        *[f"branch3x3dbl_3{s}" for s in "ab"],
        "branch_pool",
    ]


def test_a_unit_is_a_convolution_a_norm_and_no_less_than_zero():
    rng = np.random.default_rng(0)
    params = {"u.conv.weight": rng.normal(size=(3, 3, 2, 4)).astype(np.float32)}
    params |= {f"u.bn.{name}": rng.uniform(0.5, 1, 4).astype(np.float32) for name in ("weight", "bias", "running_mean")}
    params["u.bn.running_var"] = np.full(4, 1e-3, np.float32)  # so that ε is seen
    x = rng.normal(size=(1, 5, 5, 2)).astype(np.float32)
    h = convolution(getter(params), "u.conv", x, 4, (3, 3))
    expected = (np.asarray(h) - params["u.bn.running_mean"]) / np.sqrt(2e-3)
    expected = expected * params["u.bn.weight"] + params["u.bn.bias"]
    np.testing.assert_allclose(batch_norm(getter(params), "u.bn", h, inception.EPSILON), expected, rtol=1e-4)
