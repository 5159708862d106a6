"""EfficientNet-Lite0, as far as it can be told without running it; tests/interop compares its numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation.networks import efficientnet_lite
from experiments.evaluation.networks.weights import _shapes


def test_it_has_the_numbers_of_the_published_network():
    shapes = _shapes(efficientnet_lite)
    trained = [shape for name, shape in shapes.items() if "running" not in name]
    trained += list(efficientnet_lite.UNUSED.values())
    assert sum(map(np.prod, trained)) == 4_652_008
    assert len({name.split(".")[1] for name in shapes if name.startswith("_blocks.")}) == 16


def test_an_image_of_224_pixels_becomes_maps_of_7_and_nothing_exceeds_6():
    def get(name, shape):
        return jnp.ones([shape[axis] for axis in (2, 3, 1, 0)] if len(shape) == 4 else shape)

    said = str(jax.make_jaxpr(lambda x: efficientnet_lite.features(get, x))(np.zeros((1, 224, 224, 3), np.float32)))
    for side, channels in (
        (112, 32),
        (112, 16),
        (56, 24),
        (28, 40),
        (14, 80),
        (14, 112),
        (7, 192),
        (7, 320),
        (7, 1280),
    ):
        assert f"f32[1,{side},{side},{channels}]" in said
    clipped = 1 + 16 + 15 + 1  # the stem, inside every block, before it in all but the first, and the head
    assert said.count("relu6") >= clipped
