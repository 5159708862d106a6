"""A U-Net whose levels and attention are left to the shape of its images."""

import jax
import pytest

from diffusion.networks.configs import DiTConfig, MLPConfig, UNetConfig
from diffusion.networks.functional import Network
from diffusion.networks.unet import level_sizes

AUTO = UNetConfig(channels=2, multipliers="auto", blocks=1, attention_resolutions="auto")


@pytest.mark.parametrize(
    ("shape", "multipliers", "attention"),
    [
        ((256, 256, 3), (1, 1, 1, 2, 2, 2), (16, 8)),
        ((64, 64, 3), (1, 2, 2, 2), (16, 8)),
        ((33, 33, 1), (1, 2, 2, 2), (9, 5)),
        ((32, 32, 3), (1, 2, 2), (16, 8)),
        ((28, 28, 1), (1, 2, 2), (14, 7)),
        ((48, 64, 3), (1, 2, 2, 2), (16, 8)),
        ((16, 16, 1), (1, 2), (8,)),
        ((8, 8, 1), (1, 2), (4,)),
        ((64, 2, 1), (1, 2), ()),
        ((1, 1, 1), (1,), ()),
    ],
)
def test_levels_lead_to_eight_pixels_and_those_up_to_sixteen_attend(shape, multipliers, attention):
    settled = AUTO.settled(shape)
    assert (settled.multipliers, settled.attention_resolutions) == (multipliers, attention)
    assert level_sizes(*shape[:2], AUTO) == level_sizes(*shape[:2], settled)
    assert settled.settled(shape) is settled


def test_what_is_said_stays_and_the_rest_follows_it():
    assert UNetConfig(multipliers=(1, 1, 2, 2), attention_resolutions="auto").settled((64, 64, 3)) == UNetConfig(
        multipliers=(1, 1, 2, 2), attention_resolutions=(16, 8)
    )
    assert UNetConfig(multipliers="auto", attention_resolutions=(32,)).settled((64, 64, 3)) == UNetConfig(
        multipliers=(1, 2, 2, 2), attention_resolutions=(32,)
    )
    assert UNetConfig(multipliers=(1, 2), attention_resolutions="auto").settled((64, 64, 3)).attention_resolutions == ()
    for config, shape in ((DiTConfig(), (8, 8, 1)), (MLPConfig(), (2,)), (AUTO, (2,))):
        assert config.settled(shape) is config


def test_a_network_of_auto_is_the_one_of_its_numbers():
    def shapes(config):
        return jax.eval_shape(Network(config, (10, 6, 1)).init, jax.random.key(0))

    assert AUTO.settled((10, 6, 1)).multipliers == (1, 2)
    assert shapes(AUTO) == shapes(AUTO.settled((10, 6, 1)))
    assert AUTO.resized((32, 32, 1), (64, 64, 1)).attention_resolutions == (32, 16)
