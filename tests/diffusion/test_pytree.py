"""Frozen dataclasses as pytrees: every class is a tree of its own kind."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial, tree_flatten_with_path, tree_structure

from diffusion import (
    EDM,
    VE,
    VP,
    Betas,
    Cosine,
    Gaussian,
    Process,
    RectifiedFlow,
    StudentT,
    SubVP,
    reverse_sde,
    score,
    transfer,
    velocity,
)
from diffusion.ddpm import mean_denoiser
from diffusion.oracles import GaussianMixture
from diffusion.prediction import Preconditioning, network_denoiser
from diffusion.pytree import ShortPartial, as_traced, bound, pytree, short_repr, static
from samplers import (
    DDIM,
    DEIS,
    IPNDM,
    RK4,
    DPMSolverMultistep,
    Euler,
    EulerMaruyama,
    Heun,
    Interval,
    Midpoint,
    Restart,
    UniPC,
    classifier_free_guidance,
    karras,
    sample,
)

NOUNS = [
    *(VP(), SubVP(), VE(), EDM(), Cosine(), RectifiedFlow(), Betas.linear(3), Gaussian(), StudentT(), Process()),
    *(DDIM(), DEIS(), IPNDM(), RK4(), DPMSolverMultistep(), Euler(), EulerMaruyama(), Heun(), Midpoint(), UniPC()),
]


def test_no_two_classes_have_one_structure():
    """Or jit, which looks programs up by the structure, may run one for the other."""
    for first, second in itertools.combinations(NOUNS, 2):
        assert tree_structure(first) != tree_structure(second), (first, second)
    for noun in NOUNS:
        assert tree_structure(noun) == tree_structure(as_traced(noun))


def test_a_process_keeps_its_program_in_the_company_of_many():
    """Fifty classes with the fields of VP come into the table of programs; the first one still finds its own."""
    alpha = jax.jit(lambda schedule: schedule.alpha(0.5) if isinstance(schedule, VP) else jax.numpy.float32(-1.0))
    right = float(alpha(VP()))
    for i in range(50):
        other = pytree(type(f"Other{i}", (), {"__annotations__": {"a": float, "b": float}, "a": 0.1, "b": 20.0}))
        assert float(alpha(other())) == -1.0
        assert float(alpha(VP())) == right


@pytree
class Sample:
    """A leaf and something compiled in."""

    weight: float = 1.0
    name: str = static(default="x")


def test_leaves_have_names_and_statics_are_structure():
    leaves, structure = tree_flatten_with_path(Sample(2.0, "y"))
    assert [(str(path[0]), leaf) for path, leaf in leaves] == [(".weight", 2.0)]
    assert structure != tree_structure(Sample(2.0, "x"))
    assert jax.tree.map(lambda leaf: leaf + 1, Sample(2.0, "y")) == Sample(3.0, "y")
    np.testing.assert_allclose(jax.grad(lambda sample: sample.weight**2)(Sample(3.0)).weight, 6.0)
    with pytest.raises(AttributeError):
        Sample().weight = 3.0  # pyright: ignore[reportAttributeAccessIssue]


class Pair(NamedTuple):
    """A named tuple with the same repr."""

    x: jax.Array
    size: int

    __repr__ = short_repr


def test_a_repr_is_short_and_shows_what_is_small():
    assert repr(VP(beta_max=10.0)) == "VP(beta_min=0.1, beta_max=10.0)"
    assert repr(Betas.linear(1000)) == "Betas(log_alphas=float64[1001])"
    assert repr(Pair(jax.numpy.ones((3, 4)), 2)) == "Pair(x=float32[3,4], size=2)"
    assert repr(as_traced(StudentT(4.0))) == "StudentT(df=4.0)"
    with jax.enable_x64(False):
        shown = []
        jax.jit(lambda noise: shown.append(repr(noise)) or noise)(StudentT(4.0))
    assert shown == ["StudentT(df=float32[])"]
    assert repr(Restart(intervals=(Interval(repeats=4),))).endswith(
        "intervals=(Interval(low=0.06, high=0.3, repeats=4, steps=3),))"
    )


def test_results_laws_and_networks_have_a_repr_of_a_line():
    process, law = Process(), GaussianMixture.isotropic(np.zeros((100, 64)), 1.0)
    drawn = sample(jax.random.key(0), process, law.denoiser(process), DDIM(), karras(process, 3), (256, 64))
    assert repr(drawn) == "Sampled(x=float32[256,64], trajectory=None, times=None, nfe=3)"
    params = {"dense": {"kernel": np.ones((64, 64)), "bias": np.ones(64)}}
    network = network_denoiser(len, params, process, Preconditioning())
    assert "{arrays: 2, numbers: 4160}" in repr(network)
    for noun in (drawn, law, law.denoiser(process), network, classifier_free_guidance(network, network, 2.0)):
        assert len(repr(noun)) < 800, repr(noun)


def test_a_partial_with_a_short_repr_is_a_partial():
    """A tree with paths, whose function is structure and whose arguments are leaves."""
    first = ShortPartial(jax.numpy.add, jax.numpy.ones(2))
    assert isinstance(first, Partial)
    assert tree_structure(first) == tree_structure(ShortPartial(jax.numpy.add, jax.numpy.zeros(2)))
    assert tree_structure(first) != tree_structure(ShortPartial(jax.numpy.multiply, jax.numpy.ones(2)))
    np.testing.assert_array_equal(jax.jit(lambda f, x: f(x))(first, 2.0), [3.0, 3.0])
    [(path, _)] = tree_flatten_with_path(first)[0]
    assert jax.tree_util.keystr(path) == ".args[0]"
    named = ShortPartial(jax.numpy.full, shape=(2,), fill_value=3.0)
    assert repr(named).endswith("shape=(2,), fill_value=3.0)")
    assert jax.tree.map(lambda leaf: leaf, named).keywords == named.keywords


def test_a_plain_function_may_stand_in_what_is_made_of_denoisers():
    """All of it goes through jit, as it does with a Partial inside."""
    process, other = Process(VP()), Process(EDM())
    plain = lambda x, t: 0.5 * x  # noqa: E731
    x, t = jnp.ones((2, 3)), jnp.asarray(0.5)
    made = [
        score(process, plain),
        velocity(process, plain),
        reverse_sde(process, plain).drift,
        transfer(plain, process, other),
        mean_denoiser(lambda x, t: (0.5 * x, x)),
    ]
    for function in made:
        jax.jit(lambda f, x, t: f(x, t))(function, x, t)
    assert bound(plain, process).args[0] is process
