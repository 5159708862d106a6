"""The parts of networks of EDM's authors, each read from a file and against the file read in its own layout.

Nothing is compiled as a whole here, so that these tests are fast; `test_edm.py` has the networks.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffusion.networks.functional import _graph
from experiments.importing.edm import layout
from experiments.importing.plan import Options, plan_import
from tests.experiments.importing.conftest import ADM, DDPMPP, NCSNPP, arrays_of
from tests.experiments.importing.published import Reference

CLOSE = 2e-5
BLOCKS = {
    "ncsnpp": ("enc.4x4_down", "dec.8x8_up", "dec.4x4_in0"),
    "ddpmpp": ("enc.4x4_block0", "dec.8x8_up"),
    "adm": ("enc.4x4_block0", "enc.4x4_down"),
}
"""One that halves, that doubles and that attends, where it has a form of its own."""


@pytest.fixture(params=[("ncsnpp", NCSNPP), ("ddpmpp", DDPMPP), ("adm", ADM)], ids=lambda param: param[0])
def network(request, published):
    """(Its name, the module, the reference)."""
    name, config = request.param
    params = jax.tree.map(jnp.asarray, plan_import(f"edm:{published(config)}", Options()).read())
    module = nnx.merge(_graph(layout("a file", config).network), params)
    return name, module, Reference(arrays_of(config), config)


def test_the_embedding_is_of_the_level_the_class_and_the_augmentation(network):
    _, module, reference = network
    config, rng = reference.config, np.random.default_rng(3)
    c_noise, labels = np.asarray([0.7, -1.2, 40.0], np.float32), np.asarray([2, 0, 1])
    classes, numbers = config["label_dim"], config.get("augment_dim", 0)
    one_hot = np.eye(classes, dtype=np.float32)[labels] if classes else None
    augment = rng.standard_normal((3, numbers), np.float32)
    answer = module.embedded(jnp.asarray(c_noise), jnp.asarray(labels), jnp.asarray(augment) if numbers else None)
    expected = reference.embedded(c_noise, one_hot, augment)
    np.testing.assert_allclose(answer, expected, atol=CLOSE * np.abs(expected).max())


def test_blocks_and_their_attention(network):
    """Their sums, the order of the attention's channels and its heads, and what is added to a variance."""
    name, module, reference = network
    rng = np.random.default_rng(4)
    emb = rng.standard_normal((2, module.map_layer1.out_features), np.float32)
    for block in BLOCKS[name]:
        way, place = block.split(".")
        part = getattr(module, way)[place]
        x = 3e-3 * rng.standard_normal((2, 4, 4, part.norm0.weight.shape[0]), np.float32)
        answer = part(jnp.asarray(x), jnp.asarray(emb), None)
        expected = np.asarray(reference.block(x.transpose(0, 3, 1, 2), emb, block)).transpose(0, 2, 3, 1)
        np.testing.assert_allclose(answer, expected, atol=CLOSE * np.abs(expected).max(), err_msg=block)
