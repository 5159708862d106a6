"""Rows 31 and 32: the ODE along the field, its derivation, and the places to which it takes the mass."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.oracles import Atoms, StudentTMixture, flow_map_1d
from diffusion.poisson import (
    characteristic_velocity,
    field_lines,
    law_flow,
    poisson_process,
    radial_velocity,
)
from diffusion.poisson.lines import Flow
from experiments.verification.laws import draws, line
from experiments.verification.registry import Measured, Setting, Within, WithinChance, identity, relative, worst_of
from experiments.verification.report.plots import Curves

TOPICS = ("poisson",)

_WEIGHTS = np.asarray([0.2, 0.5, 0.3])
_PFGM, _PLUS = "Xu et al. 2022, arXiv:2209.11178", "Xu et al. 2023, arXiv:2302.04265"


@functools.partial(jax.jit, static_argnames=("variable", "substeps"))
def _lines(flow: Flow, x: jax.Array, radii: np.ndarray, variable: str = "log_r", substeps: int = 1) -> jax.Array:
    return field_lines(flow, x, radii, variable, substeps).x


def _families() -> dict[str, Callable[[jax.Array, jax.Array], jax.Array]]:
    """ln of the densities along one ray, for the velocity (x − x_0)/t, which is z − x_0 in flow matching."""
    ray, x_0 = jnp.asarray([0.6, 0.8]), jnp.asarray([0.3, -1.0])
    return {
        "Gaussian, σ = t": lambda r, t: -0.5 * (r / t) ** 2,
        "PFGM, N = 2": lambda r, t: -1.5 * jnp.log1p((r / t) ** 2),
        "PFGM++, N = 2, D = 8": lambda r, t: -5 * jnp.log1p((r / t) ** 2 / 8),
        "flow matching": lambda r, t: -0.5 * jnp.sum(((r / t)[..., None] * ray + x_0) ** 2, axis=-1),
    }


@identity(
    row="31",
    title="Laws that only grow in scale have one conditional flow",
    latex=r"f = -\psi_t/\psi_r;\quad \psi = \Psi(r/t)\ \Rightarrow\ f(x|x_0) = \frac{x-x_0}{t},\quad "
    r"v = \mathbb{E}[f|x_t]",
    compared="−ψ_t/ψ_r by automatic differentiation with r/t, for four families, and as a vector; its mean given x_t "
    "with the ODE of the field",
    oracle="r/t; a family that does more than grow must disagree",
    source=f"Su's posts on the ODE of diffusion; {_PFGM}, eq. 3; Lipman et al. 2023, arXiv:2210.02747, theorem 3",
    bound=Within(1e-9, "derivatives of closed forms", roundoffs=100),
    functions=(radial_velocity, characteristic_velocity),
    test="tests/diffusion/poisson/test_pfgm.py",
)
def _radial_characteristics(setting: Setting) -> Measured:
    r, t, found = np.asarray([0.3, 1.0, 2.5]), np.asarray([0.5, 2.0, 0.7]), {}
    rng = np.random.default_rng(0)
    x, x_0 = jnp.asarray(rng.normal(size=(3, setting.dim))), jnp.asarray(rng.normal(size=(3, setting.dim)))

    @jax.jit
    def velocities(r: jax.Array, t: jax.Array) -> tuple[dict[str, jax.Array], dict[str, jax.Array], jax.Array]:
        families = _families().items()
        along = {name: radial_velocity(psi, r, t) for name, psi in families}
        moved = {name: characteristic_velocity(psi, x, x_0, t) for name, psi in families}
        return along, moved, radial_velocity(lambda r, t: -0.5 * (r / t) ** 2 - 2 * jnp.log(t), r, t)

    along, moved, beyond = velocities(r, t)
    for name in along:
        found[name] = relative(along[name], r / t)
        found[f"{name}, vector"] = relative(moved[name], (np.asarray(x) - np.asarray(x_0)) / t[:, None])
    if relative(beyond, r / t) < 0.1:
        return Measured(float("nan"), "the density itself, which also gets thinner, is kept on the way")
    found["mean given x_t"] = _mean_of_conditional(setting)
    return worst_of(found)


def _mean_of_conditional(setting: Setting) -> float:
    """The error of the field's direction against E[f(x|x_0) | x], over three points by Bayes' rule in NumPy."""
    points, t = np.random.default_rng(4).normal(size=(3, setting.dim)), 0.8
    x = np.random.default_rng(5).normal(size=(4, setting.dim))
    square = np.sum((x[:, None] - points) ** 2, -1)
    weights = _WEIGHTS * (square + t**2) ** (-0.5 * (setting.dim + 1))
    weights /= weights.sum(1, keepdims=True)

    @jax.jit
    def both(x: jax.Array, starts: jax.Array) -> tuple[jax.Array, jax.Array]:
        psi = _families()["PFGM, N = 2"]
        each = [characteristic_velocity(psi, x, jnp.broadcast_to(y, x.shape), t) for y in starts]
        return law_flow(Atoms(points, _WEIGHTS))(x, t) / t, jnp.stack(each, 1)

    found, each = both(jnp.asarray(x), jnp.asarray(points))
    return relative(found, np.einsum("bk,bkd->bd", weights, np.asarray(each, np.float64)))


@identity(
    row="32a",
    title="The ODE of PFGM takes Cauchy to Cauchy along straight lines",
    latex=r"x_0 = x_T\,\frac{\gamma_0}{\gamma_0+T};\quad \mathrm{in\ general}\ x_s = F_s^{-1}(F_T(x_T))\ (d=1)",
    compared="field lines from T = 20 to 10⁻³ in ln z, in z and, at D = 8, in r = σ√D, with those maps",
    oracle="Cauchy data; two Gaussians on the line, whose flow is the map between their quantiles",
    source=f"{_PFGM}, section 3.3; {_PLUS}, section 4",
    bound=Within(1e-7, "fourth-order steps of 0.013 in ln r", roundoffs=100),
    functions=(field_lines, law_flow, flow_map_1d),
)
def _cauchy_push_forward(setting: Setting) -> Measured:
    gamma, top, end = 0.6, 20.0, 1e-3
    law = StudentTMixture(np.zeros((1, setting.dim)), np.asarray([gamma]), 1.0)
    x = 5 * np.random.default_rng(0).normal(size=(4, setting.dim))
    radii, found = np.geomspace(top, end, 65), {}
    exact = x * ((gamma + radii) / (gamma + top))[:, None, None]
    for variable in ("log_r", "r"):
        # D, a number here, says that the flow is a closed form.
        lines = jax.jit(lambda x, v=variable: field_lines(law_flow(law), x, radii, v, substeps=12).x)(jnp.asarray(x))
        found[f"Cauchy, {variable}"] = relative(lines, exact)
    start, low = jnp.asarray([[-30.0], [-4.0], [0.3], [5.0], [60.0]]), 0.02
    map_between = jax.jit(flow_map_1d)
    for df in (1.0, 8.0):
        scale = float(np.sqrt(df))
        ends = _lines(law_flow(line(), df), start, np.geomspace(top, low, 65) * scale, substeps=12)
        exact = map_between(line(), poisson_process(df), start, top, low)
        found[f"two Gaussians, D = {df:g}"] = relative(np.asarray(ends)[-1], exact)
    return worst_of(found)


@identity(
    row="32b",
    title="Each point of the data catches its share of the prior",
    latex=r"P(x_T\in B_k) = w_k,\quad B_k = \{x_T: x_t\to y_k\ (t\to 0)\}",
    compared="the distribution function of x_T, T = 8, where the lines part, with the sums of the weights",
    oracle="three points on the line; the places where lines part are found by bisection",
    source=f"{_PFGM}, theorem 1",
    bound=Within(1e-7, "the lines end at z = 10⁻⁷, where 10⁻⁸ of the mass is still on its way", roundoffs=1500),
    functions=(field_lines, law_flow),
)
def _basins_hold_their_masses(setting: Setting) -> Measured:
    law, top = Atoms(np.asarray([[-1.0], [0.2], [1.5]]), _WEIGHTS), 8.0
    low_end = 1e-7 if setting.precision == "float64" else 1e-4
    ends = jax.jit(functools.partial(_ends, law, np.geomspace(top, low_end, 101), 8))
    low, high = (np.full((2, 1), end, jnp.result_type(float)) for end in (-50.0, 50.0))
    for _ in range(36):
        x = (low + high) / 2
        left = np.asarray(ends(jnp.asarray(x))) < [[-0.4], [0.85]]
        low, high = np.where(left, x, low), np.where(left, high, x)
    shares = np.asarray(jax.jit(law.cdf)(poisson_process(), jnp.asarray(low), top), np.float64)
    levels = np.linspace(0.01, 0.99, 99)
    starts = top * np.tan(np.pi * (levels - 0.5))
    lines = {"x at z = 0": np.asarray(ends(jnp.asarray(starts)[:, None]))[:, 0]}
    plot = Curves(levels, lines, "share of the prior", "x")
    return Measured(float(np.max(np.abs(shares - np.cumsum(_WEIGHTS)[:2]))), f"parted at {np.ravel(low)}", plot)


def _ends(law: Atoms, radii: np.ndarray, substeps: int, x: jax.Array) -> jax.Array:
    return field_lines(law_flow(law), x, radii, substeps=substeps).x[-1]


@identity(
    row="32c",
    title="Each point catches its share in more dimensions, for any D",
    latex=r"\#\{i: x^{(i)}_T\in B_k\}/n\to w_k",
    compared="the shares of 2,000 lines from p_T that end at each of three points, in standard errors; D = 1 and 6",
    oracle="three points in the plane, with their weights",
    source=f"{_PFGM}, theorem 1; {_PLUS}, theorem 1",
    bound=WithinChance("4 standard errors of six shares; the seed is fixed", detects=0.4),
    functions=(field_lines, Atoms.sample_marginal),
)
def _masses_in_the_plane(setting: Setting) -> Measured:
    points = np.asarray([[-1.0, 0.0], [0.5, 0.8], [0.6, -0.9]])
    law, top, count, found = Atoms(points, _WEIGHTS), 30.0, 2000, {}
    # The first charge is larger by the seeded error.
    wrong = Atoms(points, _WEIGHTS * np.asarray([1 + setting.seeded, 1.0, 1.0]))
    for df in (1.0, 6.0):
        scale = float(np.sqrt(df))
        x = draws(law, setting.key(0), poisson_process(df), count, top / scale)
        ends = np.asarray(_lines(law_flow(wrong, df), x, np.geomspace(top, 0.01, 40)))[-1]
        nearest = np.argmin(np.linalg.norm(ends[:, None] - points, axis=-1), axis=1)
        share = np.bincount(nearest, minlength=3) / count
        off = np.abs(share - _WEIGHTS) / np.sqrt(_WEIGHTS * (1 - _WEIGHTS) / count)
        found[f"D = {df:g}"] = float(np.max(off))
    return worst_of(found)
