"""Row 18: losses that differ by a constant and so share their minimiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Key

from diffusion import VP, Noise, Process
from diffusion.pytree import pytree
from diffusion.score_matching.losses import (
    denoising_score_matching,
    denoising_terms,
    explicit_score_matching,
    finite_difference_score_matching,
    implicit_score_matching,
    sliced_score_matching,
)
from diffusion.score_matching.times import TimeDistribution
from experiments.verification.closed_forms import MASSES, POINTS, square
from experiments.verification.laws import alpha_and_sigma
from experiments.verification.registry import Measured, Setting, Within, identity, largest, relative
from experiments.verification.report.plots import Curves

_COMPARED = (
    "the difference of the losses with that constant, and their gradients with each other, at three values of the ten "
    "parameters of B tanh(Ax) + c, which is not a gradient"
)
_ORACLE = "three points blurred by VP in the plane; p_t, its score and the constant by NumPy, means by quadrature"
_WHY = "the trapezoidal rule with 121² points is exact here to rounding"
PROCESS, TIME = Process(VP()), 0.2
Loss = Callable[[Array], Array]


def _field(theta: Array, x: Array) -> Array:
    a, b = theta[:4].reshape(2, 2), theta[4:8].reshape(2, 2)
    return jnp.dot(jnp.tanh(jnp.dot(x, a.T, precision="highest")), b.T, precision="highest") + theta[8:]


def model_of(setting: Setting, theta: Array) -> Partial:
    """The model x -> s(x) with the ten parameters `theta`."""
    return Partial(field_of(setting), theta)


def field_of(setting: Setting) -> Partial:
    """The function (θ, x) -> s(x), its answers rounded in bfloat16."""
    return setting.answered(Partial(_field))


def thetas() -> np.ndarray:
    """Three values of the ten parameters, (3, 10)."""
    return np.random.default_rng(3).normal(size=(3, 10))


def blurred(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p_t and its score at points (n, 2)."""
    alpha, sigma = alpha_and_sigma(PROCESS, TIME)
    gaps = x[:, None] - alpha * POINTS
    parts = MASSES * np.exp(-0.5 * np.sum(gaps**2, -1) / sigma**2) / (2 * np.pi * sigma**2)
    density = parts.sum(1)
    return density, -np.einsum("bk,bkd->bd", parts, gaps) / sigma**2 / density[:, None]


@pytree
class _Law:
    """The law p_t on a grid of the plane."""

    x: Float[Array, "n 2"]
    p: Float[Array, " n"]
    """The density at each point times the area that the point stands for."""
    score: Float[Array, "n 2"]
    constant: Float[Array, ""]
    """The constant ½ E|∇ln p_t|²."""


def whole_law() -> _Law:
    """The law p_t, its score and the constant on a square of the plane."""
    x, area = square(7.0, 121)
    density, score = blurred(x)
    constant = 0.5 * area * np.sum(density * np.sum(score**2, 1))
    return _Law(*(jnp.asarray(value) for value in (x, area * density, score, constant)))


def _explicit(setting: Setting, law: _Law, theta: Array) -> Array:
    return jnp.sum(law.p * explicit_score_matching(model_of(setting, theta), lambda _: law.score, law.x))


def _implicit(setting: Setting, law: _Law, theta: Array) -> Array:
    return jnp.sum(law.p * implicit_score_matching(model_of(setting, theta), law.x))


def _differences(setting: Setting, law: _Law, loss: Loss, constant: Any) -> float:
    """The larger of two errors: of explicit − `loss` against the constant, and of one gradient against the other."""

    def both(theta: Array) -> tuple[Array, Array]:
        def pair(parameters: Array) -> Array:
            return jnp.stack([_explicit(setting, law, parameters), loss(parameters)])

        return pair(theta), jax.jacrev(pair)(theta)

    values, slopes = jax.jit(lambda: jax.lax.map(both, jnp.asarray(thetas())))()
    values, slopes = np.asarray(values, np.float64), np.asarray(slopes, np.float64)
    return largest(relative(values[:, 0] - values[:, 1], np.full(3, constant)), relative(slopes[:, 1], slopes[:, 0]))


@pytree
class GivenNoise(Noise):
    """A noise that takes given values, so that a loss over noise is a sum over them."""

    values: Float[Array, "b d"]

    def sample(self, key: Key[Array, "..."], shape: tuple[int, ...], dtype: Any = None) -> Float[Array, "b *event"]:
        """The given values, whatever the arguments."""
        del key, shape, dtype
        return self.values


@pytree
class OneTime(TimeDistribution):
    """The distribution that has all its mass at one time."""

    t: float | Array

    def quantile(self, process: Process, u: Float[Array, " b"]) -> Float[Array, " b"]:
        """The one time, for every u."""
        del process
        return jnp.full_like(u, self.t)


def _denoising(setting: Setting, theta: Array) -> Array:
    """½ E|s(x_t) + z/σ|² from the library's loss of the denoiser (x + σ² s)/α, over every point and z of a grid."""
    z, area = square(9.0, 121)
    process = Process(VP(), GivenNoise(jnp.asarray(np.tile(z, (len(POINTS), 1)))))
    alpha, sigma = process.alpha(TIME), process.sigma(TIME)
    model = model_of(setting, theta)
    x_0 = jnp.asarray(np.repeat(POINTS, len(z), 0))
    terms = denoising_terms(
        setting.key(0), process, lambda x, t: (x + sigma**2 * model(x)) / alpha, x_0, times=OneTime(TIME)
    )
    masses = jnp.asarray(np.outer(MASSES, area * np.exp(-0.5 * np.sum(z**2, 1)) / (2 * np.pi)).reshape(-1))
    # The loss is (α²/σ²) |x_0 − D|²/d, and |s + z/σ|² is (α²/σ⁴) |x_0 − D|².
    return jnp.sum(masses * terms.loss) * 0.5 * x_0.shape[1] / sigma**2


@identity(
    row="18a",
    title="Denoising and explicit score matching",
    latex=r"\frac{1}{2}\mathbb{E}|s-\nabla\ln p_t|^2 = \frac{1}{2}\mathbb{E}|s-\nabla\ln p(x_t|x_0)|^2 "
    r"+ \frac{1}{2}\mathbb{E}|\nabla\ln p_t|^2 - \frac{d}{2\sigma^2}",
    compared=_COMPARED,
    oracle=_ORACLE,
    source="Vincent 2011, appendix",
    bound=Within(1e-9, _WHY, roundoffs=1e2),
    functions=(denoising_terms, denoising_score_matching, explicit_score_matching),
    answers=True,
)
def _denoising_score_matching(setting: Setting) -> Measured:
    law = whole_law()
    constant = float(law.constant) - 1 / alpha_and_sigma(PROCESS, TIME)[1] ** 2
    error = _differences(setting, law, lambda theta: _denoising(setting, theta), constant)
    curves = {
        "explicit": lambda theta: _explicit(setting, law, theta),
        "denoising": lambda theta: _denoising(setting, theta),
        "implicit": lambda theta: _implicit(setting, law, theta),
    }
    return Measured(error, f"the constant is {constant:.4f}", _along_a_line(curves))


def _along_a_line(losses: dict[str, Loss]) -> Curves:
    """The losses along the line through two values of the parameters."""
    u, (start, end, _) = np.linspace(-1.5, 1.5, 31), thetas()

    def all_of(v: Array) -> Array:
        theta = jnp.asarray(0.5 * (start + end)) + v * jnp.asarray(end - start)
        return jnp.stack([loss(theta) for loss in losses.values()])

    values = np.asarray(jax.jit(lambda: jax.lax.map(all_of, jnp.asarray(u)))())
    return Curves(u, dict(zip(losses, values.T, strict=True)), "along a line of parameters", "loss")


@identity(
    row="18b",
    title="Implicit and explicit score matching",
    latex=r"\frac{1}{2}\mathbb{E}|s-\nabla\ln p|^2 = \mathbb{E}[\nabla\cdot s + \frac{1}{2}|s|^2] "
    r"+ \frac{1}{2}\mathbb{E}|\nabla\ln p|^2",
    compared=_COMPARED,
    oracle=_ORACLE,
    source="Hyvärinen 2005, theorem 1",
    bound=Within(1e-9, _WHY, roundoffs=5e1),
    functions=(implicit_score_matching, explicit_score_matching),
    answers=True,
)
def _implicit_score_matching(setting: Setting) -> Measured:
    law = whole_law()
    error = _differences(setting, law, lambda theta: _implicit(setting, law, theta), law.constant)
    curves = {
        "exact: explicit": lambda theta: _explicit(setting, law, theta),
        "implicit + constant": lambda theta: _implicit(setting, law, theta) + law.constant,
    }
    return Measured(error, f"the constant is {float(law.constant):.4f}", _along_a_line(curves))


def _two_keys(setting: Setting, count: int) -> list[Array]:
    """Two keys, each `count` times, whose slices have v_1 v_2 = 1 and −1: all that a slice in the plane depends on."""
    keys = jax.random.split(setting.key(1), 16)

    def swap(y: Array) -> Array:
        return jnp.stack([y[:, 1], jnp.zeros_like(y[:, 0])], 1)

    @jax.jit
    def two() -> list[Array]:
        product = sliced_score_matching(keys, swap, jnp.zeros((16, 2)))
        return [jnp.broadcast_to(keys[pick(product)], count) for pick in (jnp.argmax, jnp.argmin)]

    return two()


def _mean_of_slices(setting: Setting, law: _Law, loss: Callable[..., Array], keys: list[Array], *rest: Any) -> Loss:
    """The mean of the loss over p and over the two kinds of slices, which are equally likely."""

    def mean(theta: Array) -> Array:
        values = [loss(key, model_of(setting, theta), law.x, *rest) for key in keys]
        return jnp.sum(law.p * (values[0] + values[1]) / 2)

    return mean


@identity(
    row="18c",
    title="Sliced and explicit score matching",
    latex=r"\frac{1}{2}\mathbb{E}|s-\nabla\ln p|^2 = \mathbb{E}[v^T(\nabla s)\,v + \frac{1}{2}|s|^2] "
    r"+ \frac{1}{2}\mathbb{E}|\nabla\ln p|^2,\quad v_i = \pm 1",
    compared=_COMPARED + ", over all slices",
    oracle=_ORACLE,
    source="Song et al. 2019, arXiv:1905.07088, theorem 1",
    bound=Within(1e-9, _WHY, roundoffs=1e2),
    functions=(sliced_score_matching, explicit_score_matching),
    answers=True,
)
def _sliced_score_matching(setting: Setting) -> Measured:
    law = whole_law()
    keys = _two_keys(setting, len(law.p))
    loss = _mean_of_slices(setting, law, sliced_score_matching, keys)
    error = _differences(setting, law, loss, law.constant)
    one, other = (_mean_of_slices(setting, law, sliced_score_matching, [key, key]) for key in keys)
    curves = {
        "exact: explicit": lambda theta: _explicit(setting, law, theta),
        "one slice + constant": lambda theta: one(theta) + law.constant,
        "the other + constant": lambda theta: other(theta) + law.constant,
    }
    plot = _along_a_line(curves)
    first, second = (plot.lines[name] for name in list(curves)[1:])
    plot = replace(plot, lines=plot.lines | {"their mean": 0.5 * (first + second)})
    return Measured(error, f"the constant is {float(law.constant):.4f}", plot)


@identity(
    row="18d",
    title="Finite differences along the slices",
    latex=r"\frac{1}{2}\mathbb{E}|s-\nabla\ln p|^2 = \mathbb{E}\,[v\cdot\frac{s(x+hv)-s(x-hv)}{2h} + "
    r"\frac{1}{2}|s|^2] + \frac{1}{2}\mathbb{E}|\nabla\ln p|^2 + O(h^2)",
    compared=_COMPARED + ", over all slices, with h of 3e-6, or 5e-3 in less than float64",
    oracle=_ORACLE,
    source="Pang et al. 2020, arXiv:2007.03317, section 3",
    bound=Within(
        1e-9, "h² is 1e-11, and the rounding of the difference, about ε/h = 4e-11, averages out", roundoffs=6e2
    ),
    functions=(finite_difference_score_matching, explicit_score_matching),
)
def _finite_difference_score_matching(setting: Setting) -> Measured:
    law, step = whole_law(), 3e-6 if setting.precision == "float64" else 5e-3
    keys = _two_keys(setting, len(law.p))
    loss = _mean_of_slices(setting, law, finite_difference_score_matching, keys, step)
    return Measured(_differences(setting, law, loss, law.constant), plot=_against_the_step(setting, law, keys))


def _against_the_step(setting: Setting, law: _Law, keys: list[Array]) -> Curves:
    steps, theta = np.geomspace(1e-6, 1.0, 25), jnp.asarray(thetas()[0])

    def error(h: Array) -> Array:
        return _mean_of_slices(setting, law, finite_difference_score_matching, keys, h)(theta)

    @jax.jit
    def both() -> tuple[Array, Array]:
        return _explicit(setting, law, theta) - law.constant, jax.lax.map(error, jnp.asarray(steps))

    exact, errors = both()
    found = np.abs(np.asarray(errors) - float(exact))
    at = int(np.searchsorted(steps, 0.01))
    lines = {"exact slope 2": found[at] * (steps / steps[at]) ** 2, "of the loss": found}
    return Curves(steps, lines, "h", "error", log_x=True, log_y=True)
