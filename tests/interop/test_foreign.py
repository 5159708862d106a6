"""Modules of PyTorch as networks of JAX: the example of the documentation, and what a callback answers."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scorefield
from diffusion import VP, Betas, Process, foreign_denoiser
from samplers import DDIM, sample, trailing

PAGE = Path(__file__).parents[2] / "docs" / "diffusers.md"


def test_the_examples_of_the_documentation_run(diffusers):
    pytest.importorskip("equinox", reason="equinox is not installed")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["images"].shape == (2, 8, 8, 3)
    assert np.all(np.isfinite(names["images"]))
    for kind in ("points", "plane"):
        found = jax.jit(lambda denoise: denoise(jnp.ones((4, 2)), 500.0))(names[kind])
        assert found.shape == (4, 2)


@pytest.mark.parametrize("wide", [False, True])
def test_a_module_is_asked_what_the_imported_network_is(diffusers, wide):
    """A whole run of DDIM through the callback is that of the network of JAX with the same weights."""
    from jax.tree_util import Partial

    from tests.interop import sides
    from tests.interop.test_scheduler_parity import NETWORK

    with jax.enable_x64(wide):
        model = sides.make(diffusers, NETWORK)
        network, params = sides.imported(model)
        model = model.double() if wide else model.float()
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), params)
        chain, seen = Process(Betas.linear(1000)), []

        def call(x, time):
            seen.append((x.dtype, tuple(x.shape), time.tolist()))
            return model(x, time)

        called = scorefield.torch_network(model, call)
        there = foreign_denoiser(chain, called, "eps", time=lambda t: t - 1)
        here = foreign_denoiser(chain, Partial(_network(network), params), "eps", time=lambda t: t - 1)
        grid, shape = trailing(chain, 3), (2, *network.event_shape)
        states = [sample(jax.random.key(0), chain, one, DDIM(), grid, shape).x for one in (there, here)]
        assert sides.difference(*map(np.asarray, states)) < 1e-4
        assert states[0].dtype == jnp.result_type(float)
        kind = next(model.parameters()).dtype
        assert seen[0] == (kind, (2, 3, 8, 8), [999.0, 999.0])


def _network(network):
    def answer(params, x, time):
        return network(params, x, time, None)

    return answer


def test_answers_in_other_forms_and_shapes(diffusers):
    import torch

    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 4, 3)), jnp.float32)
    told = jnp.asarray([0.25, 0.5])
    pair = scorefield.torch_network(lambda x, time: (x * time[:, None, None, None], None))
    np.testing.assert_allclose(jax.jit(pair)(x, told), x * told[:, None, None, None], rtol=1e-6)
    rows = scorefield.torch_network(torch.nn.Identity(), lambda x, time: x[..., :1] + 0 * x, channels_first=False)
    np.testing.assert_allclose(rows(x, told), x[..., :1] + 0 * x, rtol=1e-6)
    half = scorefield.torch_network(torch.nn.Conv2d(3, 3, 1).to(torch.bfloat16), lambda x, time: 2 * x)
    np.testing.assert_allclose(half(x, told), 2 * x, rtol=1e-2)
    several = jax.vmap(pair, in_axes=(0, None))(jnp.stack([x, -x]), told)
    np.testing.assert_allclose(several[1], -several[0], rtol=1e-6)
    wrong = foreign_denoiser(Process(VP()), scorefield.torch_network(lambda x, time: x[:, :1]), "eps")
    with pytest.raises(Exception, match=r"the module answers \(2, 1, 4, 4\) to an x of \(2, 3, 4, 4\)"):
        jax.block_until_ready(wrong(x, told))
    with pytest.raises(scorefield.UsageError, match="module is an object of type int"):
        scorefield.torch_network(3)
