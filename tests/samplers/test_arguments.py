"""One door: what the functions of the Python interface are given is taken as it is meant, or named in one sentence."""

from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import VP, Betas, Process, RectifiedFlow
from diffusion.arguments import as_ids
from diffusion.likelihood import FixedStep, Hutchinson, decode, encode, even_grid, log_likelihood
from diffusion.oracles import GaussianMixture
from diffusion.prediction import score
from samplers import (
    DDIM,
    Heun,
    Measurement,
    Replacement,
    Restart,
    classifier_free_guidance,
    classifier_guidance,
    clipped,
    cosine,
    dps_guidance,
    invert,
    isotropic_covariance,
    karras,
    optimised_grid,
    pseudoinverse_guidance,
    quadratic,
    sample,
    sample_parallel,
    tweedie_covariance,
    uniform_log_snr,
    uniform_sigma,
    uniform_time,
)
from samplers.adaptive import sample_adaptive

KEY, PROCESS, LAW = jax.random.key(0), Process(VP()), GaussianMixture.isotropic(np.zeros((1, 2)), 0.5)
DENOISE, GRID = LAW.denoiser(PROCESS), uniform_time(PROCESS, 4)
X = np.asarray([[1.0, 2.0], [3.0, 4.0]])
SPAN = FixedStep(even_grid(PROCESS, 2))

pytestmark = pytest.mark.usefixtures("as_users_call_it")
GIVEN = {
    "key": KEY,
    "process": PROCESS,
    "denoise": DENOISE,
    "sampler": DDIM(),
    "grid": GRID,
    "steps": 2,
    "shape": (2, 2),
    "x": X,
}
WAYS = {
    "sample": (sample, ("key", "process", "denoise", "sampler", "grid", "shape"), {}),
    "sample_parallel": (sample_parallel, ("key", "process", "denoise", "sampler", "grid", "shape"), {}),
    "sample_adaptive": (sample_adaptive, ("key", "process", "denoise", "sampler", "shape"), {"rtol": 0.1, "atol": 0.1}),
    "invert": (invert, ("process", "denoise", "x", "sampler", "grid"), {}),
    "log_likelihood": (log_likelihood, ("process", "denoise", "x"), {"solver": SPAN, "method": Hutchinson(1)}),
    "encode": (encode, ("process", "denoise", "x"), {"solver": SPAN}),
    "decode": (decode, ("process", "denoise", "x"), {"solver": SPAN}),
    "optimised_grid": (
        optimised_grid,
        ("key", "process", "denoise", "sampler", "steps", "shape"),
        {"reference_steps": 4, "rounds": 1},
    ),
}
OWN = {
    "sample_adaptive": {"sampler": diffrax.Heun()},
    "invert": {"grid": GRID[:-1]},
    "log_likelihood": {"key": KEY},
}
ALSO = {"ids": ("sample", "sample_parallel", "sample_adaptive", "log_likelihood")}
ALSO["x_init"] = ALSO["ids"][:3]


def call(name, **changed):
    """The states that a function answers with, for good arguments but those that are changed."""
    function, names, options = WAYS[name]
    given = {**GIVEN, **options, **OWN.get(name, {}), **changed}
    rest = {argument: given[argument] for argument in (*options, *OWN.get(name, {}), *changed) if argument not in names}
    answer = function(*(given[argument] for argument in names), **rest)
    if name in ("invert", "optimised_grid"):
        return answer if name == "invert" else answer.grid
    return answer.latent if name == "log_likelihood" else answer.x


WRONG = {
    "process": [(VP(), "schedule; give Process"), (Process, "class Process"), (None, "None; give a Process")],
    "denoise": [(DDIM(), "DDIM; give a function"), (LAW, "GaussianMixture; give a function"), (Heun, "class Heun")],
    "sampler": [("heun", "'heun'; give"), (DDIM, "class DDIM"), (DENOISE, "give a")],
    "grid": [("karras", "'karras'; give descending times")],
    "shape": [((2.5, 2), "whole numbers"), (4, "whole numbers")],
    "x": [("digits", "'digits'; give an array"), (X > 2, "bool; give real numbers"), ([[1, 2], [3]], "type list")],
    "x_init": [([["a", "b"]] * 2, "type list"), (X + 1j, "complex128; give real numbers")],
    "key": [(0, "give jax.random.key")],
    "ids": [([1.5, 2.0], "float64; give whole numbers"), ([True, False], "bool; give whole numbers")],
}
OUT_OF_RANGE = {
    "x": [(X[0], "(batch, *event)"), (X[:0], "(batch, *event)")],
    "ids": [([7, 2**32], "4294967296; give whole numbers"), ([-1, 0], "-1; give"), ([1], "shape (1,) for 2")],
    "shape": [((2,), "(batch, *event)"), ((0, 2), "at least 1")],
    "key": [(jax.random.split(KEY), "shape (2,); give one key")],
    "grid": [([1.0, 2.0], "rises"), ([9.0, 1.0], "lives on"), (0.5, "at least two times")],
}


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize(("table", "error"), [(WRONG, TypeError), (OUT_OF_RANGE, ValueError)], ids=["type", "value"])
def test_what_cannot_be_meant_is_named_in_a_sentence(name, table, error):
    """The argument, the value and the remedy; nothing of JAX's."""
    for argument, cases in table.items():
        if argument not in WAYS[name][1] and name not in ALSO.get(argument, ()):
            continue
        for value, words in cases:
            with pytest.raises(error) as raised:
                call(name, **{argument: value})
            said = str(raised.value)
            # sample_adaptive takes diffrax's solvers, and says so.
            assert (words.partition(";")[0] if argument == "sampler" else words) in said, said
            assert said.endswith(".")
            assert len(said) < 300


@pytest.mark.parametrize("name", WAYS)
def test_a_function_that_takes_no_x_and_t_is_no_denoiser(name):
    """The method that makes a denoiser, not called; what takes more by default, or any number, is one."""
    for value, words in (
        (LAW.denoiser, "takes (process) and is called with (x, t)"),
        (lambda: X, "takes () and is called with (x, t)"),
        (lambda x, t, *, labels: x, "takes (x, t, labels) and"),
        (lambda *, a, **rest: X, "takes (a, rest) and"),
    ):
        with pytest.raises(TypeError) as raised:
            call(name, denoise=value)
        assert words in str(raised.value)
        assert "such as law.denoiser(process)" in str(raised.value)
        assert len(str(raised.value)) < 300


@pytest.mark.parametrize("denoise", [lambda x, t, scale=0.5: scale * x, lambda *both: both[0], jax.jit(lambda x, t: x)])
def test_a_function_that_takes_x_and_t_is_a_denoiser_whatever_else_it_takes(denoise):
    assert call("sample", denoise=denoise).shape == (2, 2)


@pytest.mark.parametrize("name", ["invert", "encode", "decode", "log_likelihood"])
def test_integers_lists_and_narrow_floats_are_the_numbers_that_they_are(name):
    expected = call(name)
    for x in (X.astype(int), X.tolist(), X.astype(np.float16), jnp.asarray(X, jnp.bfloat16)):
        np.testing.assert_array_equal(call(name, x=x), expected)
        assert expected.dtype == np.float32


def test_lists_stand_for_arrays():
    np.testing.assert_array_equal(
        call("sample", grid=GRID.tolist(), x_init=X.tolist(), ids=[0, 1]), call("sample", x_init=X)
    )
    listed = Replacement(DDIM(), [2.0, 0.0], [True, False])
    arrays = Replacement(DDIM(), np.asarray([2.0, 0.0]), np.asarray([True, False]))
    np.testing.assert_array_equal(call("sample", sampler=listed), call("sample", sampler=arrays))
    np.testing.assert_array_equal(Measurement([[1.0, 1.0]], [2.0], 0.1).residual(jnp.asarray(X)), [[-1.0], [-5.0]])
    with pytest.raises(TypeError, match="observe is of type list; give an array"):
        Measurement([[1.0, 1.0], [2.0]], [2.0], 0.1)


def test_an_id_is_a_sample_of_its_own_up_to_the_last():
    """2^32 − 1 is the largest number that a key is folded with; under a trace there are only types to check."""
    high = call("sample", ids=np.asarray([2**32 - 1, 2**31]))
    np.testing.assert_array_equal(call("sample", ids=np.asarray([2**31, 2**32 - 1], np.uint64)), high[::-1])
    assert len(np.unique(np.asarray(high))) == 4
    np.testing.assert_array_equal(jax.jit(partial(as_ids, batch=2))(jnp.asarray([3, 4])), [3, 4])


@pytest.mark.parametrize("start", [20, 1])
def test_a_chain_starts_where_it_is_told_to(start):
    """More steps than times below it were counted upwards, to a noise that the state did not have."""
    chain = Process(Betas.linear(100))
    np.testing.assert_array_equal(uniform_time(chain, start, t_start=start), np.arange(start, -1, -1))
    has = "20 times from 20 to 1" if start == 20 else "1 time, 1, within the limits"
    with pytest.raises(ValueError, match=f"steps = {start + 1}, and this chain has {has}; use at most as many"):
        uniform_time(chain, start + 1, t_start=start)


@pytest.mark.parametrize("grid", [uniform_time, quadratic])
def test_a_chain_starts_at_no_time_that_it_does_not_have(grid):
    """A start below its first was rounded up to it."""
    chain = Process(Betas.linear(100))
    np.testing.assert_array_equal(grid(chain, 1, t_start=1.0), [1, 0])
    for start in (0.3, 0.99):
        with pytest.raises(ValueError, match=f"t_start = {start} is below 1, the first noisy time of the chain"):
            grid(chain, 1, t_start=start)


@pytest.mark.parametrize("build", [karras, uniform_log_snr, uniform_sigma, cosine])
def test_a_chain_starts_at_no_level_that_it_does_not_have(build):
    chain = Process(Betas.linear(100))
    np.testing.assert_array_equal(build(chain, 1, sigma_min=0.01, sigma_max=0.010001), [1, 0])
    with pytest.raises(ValueError, match=r"sigma_max = 0\.005 is below 0\.0100005, σ/α at the chain's first"):
        build(chain, 1, sigma_min=1e-3, sigma_max=0.005)


def test_a_bent_grid_starts_where_it_is_told_to_and_is_the_end_of_the_whole_line():
    process = Process(RectifiedFlow())
    for start, shift in ((0.5, 3.0), (1.0, 3.0), (0.25, 0.2)):
        grid = uniform_time(process, 5, t_start=start, shift=shift)
        assert grid[0] == start
        assert grid[-1] == 0
        bent = grid / (shift - (shift - 1) * grid)  # straightened: u from c u/(1 + (c − 1) u)
        np.testing.assert_allclose(np.diff(bent), np.diff(bent)[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("inside", "words"), [("heun", "sampler is the text 'heun'"), (DDIM, "sampler is the class DDIM; give DDIM()")]
)
@pytest.mark.parametrize(
    "around", [lambda inside: Replacement(inside, X[0], [True, False]), Restart], ids=["replacement", "restart"]
)
def test_a_sampler_inside_another_is_one_too(around, inside, words):
    with pytest.raises(TypeError, match=words):
        call("sample", sampler=around(inside))


@pytest.mark.parametrize("grid", [uniform_time, karras, uniform_log_snr])
@pytest.mark.parametrize(
    ("process", "steps", "words"),
    [
        (VP(), 4, r"process is a schedule; give Process\(VP"),
        (Process, 4, "process is the class Process"),
        (PROCESS, "4", "steps is the text '4'; give a whole number"),
        (PROCESS, 4.0, "steps is of type float"),
    ],
)
def test_a_grid_is_of_a_process_and_a_number_of_steps(grid, process, steps, words):
    with pytest.raises(TypeError, match=words):
        grid(process, steps)


@pytest.mark.parametrize(("part", "words"), [("vp", "schedule is the text 'vp'"), (VP, "schedule is the class VP")])
def test_a_process_is_made_of_objects(part, words):
    with pytest.raises(TypeError, match=f"{words}; give an object, such as VP"):
        Process(part)


@pytest.mark.parametrize("use", [lambda p: LAW.denoiser(p)(X, 0.5), lambda p: score(p, DENOISE)(X, 0.5)])
def test_a_schedule_in_the_place_of_a_process_says_so_wherever_it_stands(use):
    with pytest.raises(AttributeError, match=r"VP\(.*\) is a schedule, and a Process is needed; give Process\(VP"):
        use(VP())


@pytest.mark.parametrize(
    "use",
    [
        lambda p: classifier_guidance(p, PROCESS, lambda x, t: x[:, 0]),
        lambda p: dps_guidance(p, PROCESS, Measurement(np.eye(2), X, 0.1)),
        lambda p: pseudoinverse_guidance(p, PROCESS, Measurement(np.eye(2), X, 0.1)),
        lambda p: tweedie_covariance(p, PROCESS),
        isotropic_covariance,
    ],
)
def test_a_denoiser_in_the_place_of_a_process_is_named(use):
    with pytest.raises(TypeError, match=r"process is of type .*; give a Process, such as Process"):
        use(DENOISE)


@pytest.mark.parametrize(
    "use",
    [
        lambda wrong: classifier_free_guidance(wrong, DENOISE, 2.0),
        clipped,
        lambda wrong: dps_guidance(PROCESS, wrong, Measurement(np.eye(2), X, 0.1)),
    ],
)
@pytest.mark.parametrize(("wrong", "words"), [(DDIM(), "an object of type DDIM"), ("heun", "the text 'heun'")])
def test_what_is_no_denoiser_is_named(use, wrong, words):
    with pytest.raises(TypeError, match=f"{words} stands where a function belongs"):
        use(wrong)
