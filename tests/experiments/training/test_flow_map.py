"""A network trained as a flow map: its two times, the loss where they meet, and its run as one like any other."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import EDM, Preconditioning, RectifiedFlow
from diffusion import keys as keys_lib
from diffusion.flow_maps.network import GAP_NUMBERS, network_two_time_denoiser
from diffusion.networks.configs import MLPConfig
from diffusion.prediction import network_denoiser
from diffusion.process import perturb
from diffusion.score_matching.weightings import EDMWeighting, VelocityWeighting
from experiments import streams
from experiments.config.checks import check
from experiments.config.nodes import FlowMap, ImportanceConfig
from experiments.data.scaling import to_model
from experiments.errors import UsageError
from experiments.training.flow_map import draw_times, flow_map_losses
from experiments.training.model import make_network
from tests.experiments.training.tiny_run import BATCH, TinyBatches, tiny_config, tiny_data

PLAIN = MLPConfig(hidden=8, layers=1, embedding=4)


def config_of(schedule=None, **rule):
    """A flow map of the tiny images, under EDM unless given."""
    fields = {"schedule": EDM(), "preconditioning": Preconditioning("edm", 0.5), "weighting": EDMWeighting(0.5)}
    if schedule is not None:
        fields = {
            "schedule": schedule,
            "preconditioning": Preconditioning("velocity"),
            "weighting": VelocityWeighting(),
        }
    return tiny_config(objective=FlowMap(**rule), network=PLAIN, conditional=False, **fields)


@pytest.mark.parametrize("schedule", [None, RectifiedFlow()], ids=["EDM", "RectifiedFlow"])
def test_times_are_equal_to_the_data_or_in_order(schedule):
    config = config_of(schedule, together=0.4, to_data=0.5)
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, batch_size=20_000))
    t, s = map(np.asarray, draw_times(jax.random.key(0), config, config.process(), jnp.arange(20_000)))
    error = 4 * np.sqrt(0.25 / 20_000)
    assert abs(np.mean(t == s) - 0.4) < error
    assert abs(np.mean(s == 0) - 0.3) < error
    assert np.all((s <= t) & (t >= float(config.process().t_min)))


@pytest.mark.parametrize("loss", ["meanflow", "shortcut", "consistency"])
@pytest.mark.parametrize("schedule", [None, RectifiedFlow()], ids=["EDM", "RectifiedFlow"])
def test_where_the_times_meet_it_is_the_loss_of_a_denoiser(loss, schedule):
    """w(t) |x_0 − D(x_t, t)|²/d of the same draws; of others it is another loss."""
    config = config_of(schedule, loss=loss, together=0.6)
    network, params = make_network(config, tiny_data().facts, jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.05, params)
    assert getattr(network, "augment_dim", 0) == GAP_NUMBERS
    batch, key, process = TinyBatches()[0], jax.random.key(3), config.process()
    x_0, slots = to_model(jnp.asarray(batch["image"])), jnp.arange(BATCH)
    found = jax.jit(partial(flow_map_losses, network, config=config, labels=None, dropout_keys=None, train=False))(
        params, key, x_0=x_0, slots=slots
    )
    t, s = draw_times(key, config, process, slots)
    keys = keys_lib.sample_keys(jax.random.fold_in(key, streams.FLOW_MAP_Z), slots)
    x_t = perturb(process, x_0, process.noise.sample(keys, x_0.shape), t)
    slow = 0.004 if schedule else 1.0  # a velocity's network is told 4 t/T

    def told(params, x, c_noise, labels):
        return network(params, x, slow * c_noise, labels)

    answer = network_denoiser(told, params, process, config.preconditioning)(x_t, t)
    plain = config.weighting.weight(process, t) * jnp.mean((x_0 - answer) ** 2, axis=(1, 2, 3))
    together = np.asarray(t == s)
    assert 0 < together.sum() < BATCH
    np.testing.assert_allclose(np.asarray(found)[together], np.asarray(plain)[together], rtol=2e-3)
    assert np.all(np.abs(np.asarray(found / plain)[~together] - 1) > 1e-3)


def test_a_power_weighs_large_losses_less_and_leaves_held_out_ones():
    losses = {}
    for power in (0.0, 0.5):
        config = config_of(power=power)
        network, params = make_network(config, tiny_data().facts, jax.random.key(0))
        x_0 = to_model(jnp.asarray(TinyBatches()[0]["image"]))
        for train in (False, True):
            losses[power, train] = np.asarray(
                flow_map_losses(network, params, jax.random.key(3), config, None, x_0, jnp.arange(BATCH), None, train)
            )
    np.testing.assert_array_equal(losses[0.5, False], losses[0.0, True])
    plain = losses[0.0, True]
    np.testing.assert_allclose(losses[0.5, True], plain / np.sqrt(plain + 1e-3), rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"objective": FlowMap(together=1.0)}, "--objective.together is 1; give a part of the batch from 0 to below 1"),
        ({"objective": FlowMap(power=2.0)}, "--objective.power is 2; give 0"),
        ({"times": ImportanceConfig()}, "--objective flow-map goes without --conservative, --learned-variance and"),
        (
            {"objective": FlowMap(loss="consistency"), "preconditioning": Preconditioning("x0")},
            "--objective.loss consistency is held at the data by the preconditioning alone",
        ),
        ({"conservative": True}, "--objective flow-map goes without --conservative"),
        ({"preconditioning": Preconditioning("residual")}, "--preconditioning.kind residual is not told the noise"),
    ],
)
def test_what_does_not_go_with_a_flow_map_is_refused(fields, words):
    config = config_of()
    check(config)
    with pytest.raises(UsageError, match=words):
        check(dataclasses.replace(config, **fields))


def test_it_is_trained_sampled_in_one_call_and_begun_from_a_denoiser(run_command, tmp_path):
    """By the command line: a denoiser's run cannot be sampled so, and is where a flow map may begin."""
    plane = ("--preset", "toy-gaussians", "--schedule", "edm", "--preconditioning.kind", "edm", "--weighting", "edm")
    small = ("--network.hidden", "8", "--network.layers", "1", "--training.steps", "4", "--training.batch-size", "16")
    train = ("train", *plane, *small, "--training.validate-every", "0")
    said = run_command(*train, "--outdir", tmp_path / "denoiser")
    assert said.status == 0, said.err
    draw = ("sample", "--seeds", "0-9", "--sampler", "flow-map", "--steps", "1", "--json")
    said = run_command(*draw, "--run", tmp_path / "denoiser")
    assert (said.status, said.err.count("\n")) == (2, 1)
    assert "it steps by a flow map, and this run is a denoiser; train one with --objective flow-map" in said.err
    flow_map = ("--objective", "flow-map", "--init-from", tmp_path / "denoiser")
    said = run_command(*train, *flow_map, "--sampling.sampler", "flow-map", "--outdir", tmp_path / "map")
    assert said.status == 0, said.err
    said = run_command(*draw, "--run", tmp_path / "map")
    assert (said.status, said.value["nfe"]) == (0, 1), said.err
    said = run_command("evaluate", "--run", tmp_path / "map", "--samples", "50", "--sampler", "heun", "--steps", "4")
    assert said.status == 0, said.err


def test_consistency_moves_an_answer_towards_that_of_less_noise(x64):
    """⟨∇f, g/(|g| + c)⟩ with g = df/d ln ρ along the pair's line, by a difference: its sign and its size."""
    config = config_of(loss="consistency", together=0.0, power=0.0, tangent=0.1)
    network, params = make_network(config, tiny_data().facts, jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64) + 0.05, params)
    slots, key = jnp.arange(BATCH), jax.random.key(3)
    x_0, process = to_model(jnp.asarray(TinyBatches()[0]["image"])).astype(jnp.float64), config.process()
    t, _ = draw_times(key, config, process, slots)
    keys = keys_lib.sample_keys(jax.random.fold_in(key, streams.FLOW_MAP_Z), slots)
    z = process.noise.sample(keys, x_0.shape, x_0.dtype)

    def answer(params, time):
        told = network_two_time_denoiser(network, params, process, config.preconditioning)
        return told(perturb(process, x_0, z, time), time, 0 * time)

    def found(params):
        return jnp.mean(flow_map_losses(network, params, key, config, None, x_0, slots, None, True))

    step = 1e-5
    g = (answer(params, t * (1 + step)) - answer(params, t * (1 - step))) / (2 * step)  # under EDM ln ρ = ln t
    g = g / (jnp.sqrt(jnp.mean(g**2, axis=(1, 2, 3), keepdims=True)) + 0.1)
    wanted = jax.grad(lambda p: 2 * jnp.mean(answer(p, t) * g))(params)
    for one, other in zip(jax.tree.leaves(jax.grad(found)(params)), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
