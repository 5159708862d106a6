"""One network's parameters for data of another size: what is said in pixels follows, and positions are spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.networks import build
from diffusion.networks.configs import DiTConfig, MLPConfig, UNetConfig
from diffusion.networks.embeddings import position_embedding
from diffusion.networks.functional import Network


def shapes(config, side):
    network = Network(config, (side, side, 1))
    flat, _ = jax.tree_util.tree_flatten_with_path(jax.eval_shape(network.init, jax.random.key(0)))
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in flat}


def test_attention_of_a_unet_stays_at_its_levels():
    side, config = 30, UNetConfig(channels=2, multipliers=(1, 1, 1), blocks=1, attention_resolutions=(8, 32))
    resized = config.resized((32, 32, 1), (side, side, 1))
    assert shapes(resized, side) == shapes(config, 32)
    assert resized.attention_resolutions == (30, 8)
    assert config.resized((32, 32, 1), (64, 64, 1)).attention_resolutions == (64, 16)
    assert resized.resized((side, side, 1), (32, 32, 1)) == config.resized((32, 32, 1), (32, 32, 1))


def test_what_is_said_in_no_pixels_stays():
    assert MLPConfig().resized((2,), (3,)) == MLPConfig()
    assert UNetConfig().resized((8, 8, 1), (32, 32, 1)) == UNetConfig()


def angles(count, scale):
    """The positions that are embedded, read back from the feature of the shortest period."""
    cosine, _, sine, _ = np.asarray(position_embedding(1, count, 8, jnp.float32, scale))[:, 4:].T
    return np.unwrap(np.arctan2(sine, cosine))


@pytest.mark.parametrize("scale", [0.5, 0.25, 2.0])
def test_spread_positions_cover_the_same_stretch_edge_to_edge(scale):
    """Patches of width s tile [−½, N − ½], as those of width 1 do: each spread patch is centred in its part."""
    count = 8
    spread = angles(round(count / scale), scale)
    np.testing.assert_allclose(np.diff(spread), scale, atol=1e-5)
    np.testing.assert_allclose([spread[0] - scale / 2, spread[-1] + scale / 2], [-0.5, count - 0.5], atol=1e-5)
    np.testing.assert_allclose(angles(count, 1.0), np.arange(count), atol=1e-5)


def test_a_transformer_that_counts_its_own_patches_is_the_plain_one():
    """To the bit: 4 patches a side that count as 4 are where they were."""
    x, c_noise = jax.random.normal(jax.random.key(1), (2, 8, 8, 1)), jnp.zeros(2)
    plain = DiTConfig(width=16, depth=1, heads=2)
    answers = []
    for config in (plain, DiTConfig(width=16, depth=1, heads=2, position_grid=4)):
        network, params = build(config, (8, 8, 1), key=jax.random.key(0))
        params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # the untrained one answers zero
        answers.append(np.asarray(network(params, x, c_noise)))
    np.testing.assert_array_equal(*answers)
    assert np.ptp(answers[0]) > 0


def test_a_transformer_of_another_size_counts_the_patches_that_it_knows():
    config = DiTConfig(width=16, depth=1, heads=2)
    twice = config.resized((8, 8, 1), (16, 16, 1))
    assert twice.position_grid == 4
    assert twice.resized((16, 16, 1), (32, 32, 1)).position_grid == 4
    assert twice.resized((16, 16, 1), (8, 8, 1)) == config
    with pytest.raises(ValueError, match="position_grid is -1"):
        DiTConfig(position_grid=-1)
