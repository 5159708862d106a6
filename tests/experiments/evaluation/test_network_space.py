"""The features of a network from a file: in batches, of any images, each independent of the others."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.errors import DataError, DivergedError
from experiments.evaluation.network_space import NetworkSpace
from experiments.evaluation.networks.weights import INCEPTION, Network

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (11, 6, 6, 3), np.uint8)


def space(batch=4, digest="0" * 64, rule=INCEPTION[0], body=None):
    def means(params, x):
        return x.mean((1, 2)) * params["scale"]

    params = {"scale": np.array([1.0, 2, 3], np.float32)}
    return NetworkSpace(Network("n", None, digest, None, rule, 12, 3, body or means, params), batch)


@pytest.fixture(scope="module")
def features():
    return space()(IMAGES)


def test_features_are_the_networks_of_what_it_sees(features):
    expected = np.asarray(space().network.prepared(IMAGES.astype(np.float32))).mean((1, 2)) * [1, 2, 3]
    np.testing.assert_allclose(features, expected, atol=1e-5)


def test_batches_and_parts_change_nothing(features):
    one = space()
    np.testing.assert_array_equal(one.streamed([IMAGES[:3], IMAGES[3:4], IMAGES[4:]], 11), features)
    np.testing.assert_array_equal(one(IMAGES[5:7]), features[5:7])
    with pytest.raises(ValueError, match="hold 11 images, not 12"):
        one.streamed([IMAGES], 12)


def test_grey_is_three_times_the_same_and_16_bits_are_brought_to_8(features):
    one = space()
    grey = IMAGES[..., :1]
    np.testing.assert_array_equal(one(grey), one(grey.repeat(3, -1)))
    np.testing.assert_allclose(one(IMAGES.astype(np.uint16) * 257), features, atol=1e-5)
    with pytest.raises(DataError, match="4 channels, and n takes 3, or 1 as grey"):
        one(np.zeros((2, 4, 4, 4), np.uint8))


def test_a_space_is_that_of_a_file_and_a_preprocessing():
    digests = {space().digest, space(digest="1" * 64).digest, space(rule=INCEPTION[1]).digest}
    assert len(digests) == 3
    assert space(batch=2).digest in digests
    assert space().name == "n @00000000, tf1"
    assert space().provenance()["preprocessing"] == "tf1: tf1-bilinear to 12×12, (u − (128))/(128)"


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(DivergedError, match="not finite"):
        space(body=lambda params, x: x.mean((1, 2)) * jnp.nan)(IMAGES)
