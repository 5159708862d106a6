"""Frozen dataclasses as pytrees: every class is a tree of its own kind."""

import itertools

import jax
import numpy as np
import pytest
from jax.tree_util import tree_flatten_with_path, tree_structure

from diffusion import EDM, VE, VP, Betas, Cosine, Gaussian, Process, RectifiedFlow, StudentT, SubVP
from diffusion.pytree import as_traced, pytree, static
from samplers import DDIM, DEIS, IPNDM, RK4, DPMSolverMultistep, Euler, EulerMaruyama, Heun, Midpoint, UniPC

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
