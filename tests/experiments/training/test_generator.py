"""A one-step generator and two density estimators under one loss, and the images of a stable target."""

import dataclasses
import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion import EDM
from diffusion import keys as keys_lib
from diffusion.networks.configs import MLPConfig
from diffusion.prediction import Preconditioning, network_denoiser
from diffusion.score_matching.losses import denoising_terms
from diffusion.score_matching.times import LogUniformSigma
from diffusion.score_matching.weightings import EDMWeighting
from experiments.config.checks import check
from experiments.config.nodes import Denoising, Generator
from experiments.data.scaling import to_model
from experiments.errors import UsageError
from experiments.runs.load import load_model
from experiments.sampling import solver
from experiments.sampling.drawing import draw
from experiments.training.data import REFERENCE, _WithReference, open_data
from experiments.training.generator import (
    DATA,
    GENERATOR,
    SAMPLES,
    alternating,
    data_potential,
    game_losses,
    optimizer_of,
)
from experiments.training.loop import training
from experiments.training.model import make_network
from experiments.training.objective import make_objective
from experiments.training.potential import level_potential, potential
from experiments.training.replicas import Replicas
from experiments.training.resume import starting_point
from experiments.training.state import initial_state
from experiments.training.step import make_step
from tests.experiments.training.tiny_run import BATCH, SHAPE, TinyBatches, tiny_config, tiny_data

PLAIN = MLPConfig(hidden=8, layers=1, embedding=4)
RULES = {"conditional": False, "network": PLAIN, "schedule": EDM(sigma_min=0.1, sigma_max=5.0)}


def game_config(every=2, **fields):
    fields = {"preconditioning": Preconditioning("x0", 0.5), **RULES, **fields}
    return tiny_config(objective=Generator(sigma=0.5, every=every), **fields)


@pytest.fixture(scope="module")
def game():
    config = game_config()
    network, params = make_network(config, tiny_data().facts, jax.random.key(0))
    rng = np.random.default_rng(0)  # an untrained network is zero
    params = jax.tree.map(lambda leaf: np.asarray(leaf) + np.float32(0.1) * normal(rng, leaf.shape), params)
    x_0, slots = to_model(TinyBatches()[0]["image"]), jnp.arange(BATCH)

    def losses(p, x, s):
        return game_losses(p, jax.random.key(1), config, network, x, s)

    @jax.jit
    def losses_and_slopes(p, x):
        def mean(p):
            each = losses(p, x, slots)
            return jnp.mean(each), each

        slopes, each = jax.grad(mean, has_aux=True)(p)
        return each, slopes

    return config, network, params, x_0, slots, jax.jit(losses), losses_and_slopes


def normal(rng, shape):
    return rng.standard_normal(shape).astype(np.float32)


def test_each_loss_moves_its_own_network(game):
    """Changing one network changes no other's gradient but by the estimators' in the generator's."""
    _, _, params, x_0, *_, losses_and_slopes = game
    before = losses_and_slopes(params, x_0)[1]

    def changed(name):
        other = {**params, name: jax.tree.map(lambda leaf: np.float32(1.3) * leaf, params[name])}
        after = losses_and_slopes(other, x_0)[1]
        return {
            part: any(
                not np.allclose(a, b, rtol=1e-4, atol=1e-7)
                for a, b in zip(*map(jax.tree.leaves, (before[part], after[part])), strict=True)
            )
            for part in (DATA, SAMPLES, GENERATOR)
        }

    assert changed(DATA) == {DATA: True, SAMPLES: False, GENERATOR: True}
    assert changed(SAMPLES) == {DATA: False, SAMPLES: True, GENERATOR: True}
    assert changed(GENERATOR)[DATA] is False
    other = before, losses_and_slopes(params, -x_0)[1]
    assert all(np.allclose(a, b) for a, b in zip(*(jax.tree.leaves(s[SAMPLES]) for s in other), strict=True))


def test_the_generator_follows_the_difference_of_the_estimators(game):
    """Its gradient is that of E (ψ_q − ψ_p)(g + ε)/d, formed by hand from denoisers; the value is the other two losses.

    ∇ψ = D − y for the denoiser D of an estimator, told its level.
    """
    config, network, params, x_0, slots, _, losses_and_slopes = game
    process, levels, edm = config.process(), LogUniformSigma(0.5, 3.0), Preconditioning("edm", 0.5)

    @jax.jit
    def by_hand(params, x_0):
        keys = [jax.random.fold_in(jax.random.key(1), i) for i in range(4)]
        latent = 5.0 * keys_lib.normal(keys_lib.sample_keys(keys[0], slots), SHAPE)
        each = keys_lib.sample_keys(keys[3], slots)
        sigma = levels.quantile(process, keys_lib.uniform(keys_lib.fold(each, 1)))
        noise = sigma[:, None, None, None] * keys_lib.normal(keys_lib.fold(each, 0), SHAPE)

        def generated(part):
            whole = {**params, GENERATOR: part}
            return network_denoiser(network, whole, process, config.preconditioning)(latent, 5.0)

        made, pull = jax.vjp(generated, params[GENERATOR])
        denoisers = [network_denoiser(network.estimator, params[name], process, edm) for name in (SAMPLES, DATA)]
        model, data = (denoise(made + noise, sigma) for denoise in denoisers)
        shared = {"weighting": EDMWeighting(0.5), "times": levels, "ids": slots, "batch_size": BATCH}
        value = denoising_terms(keys[1], process, denoisers[1], x_0, **shared).loss
        value += denoising_terms(keys[2], process, denoisers[0], made, **shared).loss
        return value, pull((model - data) / (BATCH * 64))[0]

    losses, slopes = losses_and_slopes(params, x_0)
    value, expected = by_hand(params, x_0)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected)) > 1e-4
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-6), slopes[GENERATOR], expected)
    np.testing.assert_allclose(losses, value, rtol=1e-4)


def test_an_untrained_generator_gives_latents_and_no_generator_goes_far(game):
    _, network, params, *_ = game
    x, call = normal(np.random.default_rng(0), (3, *SHAPE)), jax.jit(lambda p, x: network(p, x, jnp.zeros(3)))
    zero = {**params, GENERATOR: jax.tree.map(np.zeros_like, params[GENERATOR])}
    np.testing.assert_allclose(call(zero, x), 2 * np.tanh(x / 4), rtol=1e-5)
    assert np.abs(call(params, 1000 * x)).max() <= 2.0


def test_the_potential_of_a_level_is_that_of_its_denoiser(game):
    """y + ∇ψ(y) = D(y, σ), by differences of ψ; and it is the smallest level's that is kept of the data."""
    config, network, params, *_ = game
    denoise = network_denoiser(network.estimator, params[DATA], config.process(), Preconditioning("edm", 0.5))
    y, v = np.float32(0.5) * normal(np.random.default_rng(0), (2, 3, *SHAPE))

    @jax.jit
    def slope_and_answer(psi, y, v, sigma):
        return jax.jvp(psi, (y,), (v,))[1], denoise(y, sigma)

    for sigma, psi in (
        (2.0, level_potential(network.estimator, params[DATA], 0.5, 2.0)),
        (0.5, data_potential(network, params, config)),
    ):
        slope, answer = slope_and_answer(psi, y, v, sigma)
        np.testing.assert_allclose(slope, np.sum((v * (answer - y)).reshape(3, -1), 1), rtol=1e-4, atol=1e-4)


def test_losses_depend_on_slots_alone(game):
    _, _, params, x_0, slots, losses, losses_and_slopes = game
    whole, _ = losses_and_slopes(params, x_0)
    np.testing.assert_allclose(losses(params, x_0[4:], slots[4:]), whole[4:], rtol=1e-5)


def same(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.fixture(scope="module")
def game_run(tmp_path_factory):
    """The folder of a run of 7 steps, and the parameters before the first and after each."""
    outdir = tmp_path_factory.mktemp("game")
    config = game_config(every=3, training={"steps": 7, "checkpoint_every": 3, "validate_every": 3})
    data = tiny_data()
    params = [starting_point(config, alternating(config), outdir, data.facts)[1].params]
    for step in training(config, outdir, data=data):
        assert np.isfinite(step.loss)
        params.append(step.params)
    return config, outdir, params


def test_the_generator_moves_in_one_step_of_every(game_run):
    _, _, params = game_run
    moved = {
        name: [not same(before[name], after[name]) for before, after in itertools.pairwise(params)]
        for name in (DATA, SAMPLES, GENERATOR)
    }
    # The first update of each is at the learning rate 0 of its own warm-up.
    assert moved[DATA] == moved[SAMPLES] == [False] + 6 * [True]
    assert moved[GENERATOR] == [False, False, False, False, False, True, False]


def test_the_generator_warms_up_and_decays_over_its_own_updates():
    """Each part's rate by the steps of the training: up to the peak in 6 of them, and down to 0 with the 30th.

    Under the gradient 1 in every step Adam moves by the learning rate. The generator's update k comes in step 3k + 2
    of every third and begins with the rate of step 3k.
    """
    optimizer = {"warmup_steps": 6, "decay": "linear", "learning_rate": 1e-2, "weight_decay": 0.0}
    config = game_config(every=3, optimizer=optimizer, training={"steps": 30})
    assert isinstance(config.objective, Generator)
    params = {name: {"w": jnp.zeros(1)} for name in (DATA, SAMPLES, GENERATOR)}
    rule, gradient = alternating(config), jax.tree.map(jnp.ones_like, params)
    update, state, moves = jax.jit(rule.update), rule.init(params), []
    for _ in range(30):
        move, state = update(gradient, state, params)
        moves.append({name: -float(move[name]["w"][0]) for name in move})
    steps = np.arange(30)
    rates = np.where(steps < 6, steps / 6, (30 - steps) / 24)
    for name in (DATA, SAMPLES):
        np.testing.assert_allclose([move[name] for move in moves], 1e-2 * rates, rtol=1e-4, atol=1e-9)
    peak, own = config.objective.learning_rate, np.where(steps % 3 == 2, rates[steps - 2], 0.0)
    np.testing.assert_allclose([move[GENERATOR] for move in moves], peak * own, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", ["muon", "schedule-free"])
def test_the_game_goes_with_any_optimiser(name):
    """The generator's matrices move with every third step alone, by its own learning rate in Muon's too."""
    rule = {"name": name, "warmup_steps": 0, "learning_rate": 1e-2, "clip_norm": 0.0, "weight_decay": 0.0}
    config = game_config(every=3, optimizer=rule, training={"steps": 30})
    assert isinstance(config.objective, Generator)
    matrix = np.float32(np.random.default_rng(0).standard_normal((4, 3)))
    params = {part: {"blocks": {"0": {"linear": {"kernel": matrix}}}} for part in (DATA, SAMPLES, GENERATOR)}
    optimizer = optimizer_of(config)
    step = jax.jit(lambda state, params: optimizer.update(jax.tree.map(jnp.ones_like, params), state, params))
    state: Any = optimizer.init(params)
    moves = []
    for _ in range(6):
        before = state
        updates, state = step(state, params)
        changes = updates if name == "muon" else jax.tree.map(jnp.subtract, state.z, before.z)
        moves.append({part: np.linalg.norm(np.concatenate(jax.tree.leaves(changes[part]))) for part in changes})
    assert [move[GENERATOR] > 0 for move in moves] == [False, False, True] * 2
    assert all(move[DATA] > 0 for move in moves)
    np.testing.assert_allclose(moves[2][GENERATOR] / moves[2][DATA], config.objective.learning_rate / 1e-2, rtol=1e-3)


def test_a_generator_run_trains_resumes_and_samples_in_one_call(game_run):
    config, outdir, _ = game_run
    whole = load_model(outdir)
    early = load_model(outdir / "checkpoints" / "00000003")
    assert not same(*(model.params[GENERATOR] for model in (whole, early)))
    own = solver.build_own(
        dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, sampler="euler", steps=1))
    )
    drawn = next(draw(whole, own, range(4), batch=4))
    assert drawn.nfe == 1
    assert drawn.images.shape == (4, *SHAPE)
    assert len(np.unique(drawn.images.reshape(4, -1), axis=0)) == 4


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"preconditioning": Preconditioning("edm", 0.5)}, "add --preconditioning.kind x0"),
        ({"conservative": True}, "goes without --conservative"),
        ({"times": LogUniformSigma(0.2, 1.0)}, "leave --network.dropout, --times and --weighting out"),
        ({"network": MLPConfig(hidden=8, layers=1, dropout=0.1)}, "has no dropout"),
        ({"schedule": EDM(sigma_min=0.1, sigma_max=0.4)}, "--objective.sigma is 0.5"),
    ],
)
def test_what_a_generator_cannot_be_is_refused(fields, sentence):
    with pytest.raises(UsageError, match=sentence):
        check(game_config(**fields))
    with pytest.raises(UsageError, match=r"--objective.every is 0"):
        check(game_config(every=0))


def test_what_would_mean_nothing_is_refused():
    """More than one step of a generator, and levels of an energy that training would cut to the schedule's."""
    config = game_config()
    with pytest.raises(UsageError, match="makes an image in one call; give --sampler euler --steps 1"):
        solver.build_own(config)
    with pytest.raises(UsageError, match=r"leave the schedule's range, 0\.1 to 5"):
        check(tiny_config(**{**RULES, "times": LogUniformSigma(0.05, 2.0)}))


def test_a_noise_blind_conservative_run_has_a_potential():
    """Its denoiser is y + ∇ψ(y), ψ the potential, at every noise level."""
    fields = {
        "conservative": True,
        "times": LogUniformSigma(0.1, 2.0),
        "preconditioning": Preconditioning("residual", 0.5),
    }
    config = tiny_config(**{**RULES, **fields})
    network, params = make_network(config, tiny_data().facts, jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.asarray(leaf) + np.float32(0.05), params)
    y = normal(np.random.default_rng(1), (3, *SHAPE))
    denoise = jax.jit(network_denoiser(network, params, config.process(), config.preconditioning))
    psi = potential(network, params, 0.5)
    slope = jax.jit(jax.grad(lambda x: jnp.sum(psi(x))))(y)
    assert np.abs(slope).max() > 1e-2
    for t in (0.1, 3.0):
        np.testing.assert_allclose(denoise(y, t), y + slope, rtol=1e-5, atol=1e-5)


def test_reference_images_are_whole_everywhere_and_others_every_step():
    config = tiny_config(conditional=False, objective=Denoising(reference=12))
    data = open_data(dataclasses.replace(config, data=dataclasses.replace(config.data, source="digits")))
    assert isinstance(data.batches, _WithReference)
    first, second = data.batches[0], data.batches[1]
    assert first[REFERENCE].shape == (12, *SHAPE)
    assert first["image"].shape == (BATCH, *SHAPE)
    assert not np.array_equal(first[REFERENCE], second[REFERENCE])
    np.testing.assert_array_equal(first[REFERENCE], data.batches[0][REFERENCE])
    assert not np.array_equal(first[REFERENCE][:BATCH], first["image"])
    assert all(REFERENCE not in batch for batch in data.held_out)
    split = Replicas(tuple(jax.devices()[:1]) * 1, 1).split([first, second])
    assert split[REFERENCE].shape == (1, 2, 12, *SHAPE)
    assert split["image"].shape == (1, 2, BATCH, *SHAPE)


def test_micro_batches_and_shares_have_the_same_target():
    """The loss with reference images is the same, however the batch is divided; and it is not the one without."""
    config = tiny_config(conditional=False, network=PLAIN, objective=Denoising(reference=12))
    network, params = make_network(config, tiny_data().facts, jax.random.key(0))
    objective = make_objective(config, network, 4, False)
    batch = {**TinyBatches()[0], REFERENCE: TinyBatches()[1]["image"]}
    loss = jax.jit(lambda b: objective(params, jax.random.key(0), b, jnp.ones(1), True)[0])
    whole = loss(batch)
    half = {name: leaf if name == REFERENCE else leaf[4:] for name, leaf in batch.items()}
    np.testing.assert_allclose(loss(half), whole[4:], rtol=1e-5)
    plain = loss({name: leaf for name, leaf in batch.items() if name != REFERENCE})
    assert np.abs(plain - whole).max() > 1e-3
    twice = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, accumulate=2))
    states = []
    for each, unroll in ((config, True), (twice, True), (twice, False)):
        state = initial_state(params, optax.sgd(0.1), each)
        states.append(jax.jit(make_step(objective, optax.sgd(0.1), each, unroll=unroll))(state, batch)[0].params)
    for other in states[1:]:
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), states[0], other)
