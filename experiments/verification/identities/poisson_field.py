"""Rows 27, 33 and 34: the field of charges on a hyperplane: Gauss's law, the inside of a shell, and the far field."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.fokker_planck import base_flux, box_flux, sphere_flux
from diffusion.oracles import Atoms, StudentTMixture
from diffusion.oracles.law import Law
from diffusion.poisson import Field, augmented_field, curl, divergence, plain_field, poisson_field, shell, shell_field
from experiments.verification.registry import Measured, Setting, Within, identity, largest, relative, worst_of
from experiments.verification.report.plots import Curves, FlowLines

TOPICS = ("poisson",)

_WEIGHTS = np.asarray([0.2, 0.5, 0.3])
_PFGM = "Xu et al. 2022, arXiv:2209.11178"


def charges(dim: int) -> Atoms:
    """Three unequal charges in this dimension."""
    return Atoms(np.random.default_rng(4).normal(size=(3, dim)) / np.sqrt(largest(dim, 2) / 2), _WEIGHTS)


def _cauchy(dim: int) -> StudentTMixture:
    return StudentTMixture(np.asarray(charges(dim).points), np.asarray([0.3, 0.5, 0.2]), 1.0, _WEIGHTS)


@identity(
    row="27a",
    title="Above the data the field has no sources and no curl",
    latex=r"\nabla\cdot E = \partial_i E_i + \partial_r E_r + \frac{D-1}{r}E_r = 0,\quad "
    r"\partial_a E_b = \partial_b E_a\quad(r>0)",
    compared="divergence and curl by automatic differentiation with 0, relative to the derivatives they are made of, "
    "at r from 0.2 to 4, for D = 1 and 4",
    oracle="three charges, and three Cauchy laws at D = 1",
    source=f"{_PFGM}, eq. 2 and 3; Xu et al. 2023, arXiv:2302.04265, section 3.1",
    bound=Within(1e-10, "closed forms: what is left is rounding", roundoffs=200),
    functions=(divergence, curl, augmented_field),
)
def _poisson_field_gauss_and_curl(setting: Setting) -> Measured:
    d, found = setting.dim, {}
    points = np.random.default_rng(0).normal(size=(4, d + 1))
    points[:, d] = [0.2, 0.5, 1.0, 4.0]

    def derivatives(law: Law, df: float, x: jax.Array) -> tuple[jax.Array, ...]:
        field = augmented_field(law, df)
        jacobian = jax.vmap(jax.jacfwd(lambda point: field(point[None])[0]))(x)
        return divergence(field, x, df), curl(field, x), jnp.sum(jnp.abs(jacobian), axis=(1, 2))

    # The field of charges is one formula for all D. That of Cauchy laws is a closed form where D is the number 1.
    for_any = jax.jit(derivatives)
    cases: dict[str, Callable[[jax.Array], tuple[jax.Array, ...]]] = {
        "charges, D = 1": functools.partial(for_any, charges(d), 1.0),
        "charges, D = 4": functools.partial(for_any, charges(d), 4.0),
        "Cauchy, D = 1": jax.jit(functools.partial(derivatives, _cauchy(d), 1.0)),
    }
    for name, case in cases.items():
        sources, turns, size = (np.asarray(value, np.float64) for value in case(jnp.asarray(points)))
        found[f"∇·E, {name}"] = float(np.max(np.abs(sources) / size))
        found[f"curl, {name}"] = float(np.max(np.abs(turns) / size[:, None, None]))
    return worst_of(found)


def _field(law: Law, x: np.ndarray, r: Any, df: float = 1.0) -> Field:
    """`poisson_field` in one program; the law and D are numbers to it, as a closed form may hang on them."""
    return jax.jit(functools.partial(poisson_field, law, df=df))(jnp.asarray(x), jnp.asarray(r))


def _flow_lines() -> FlowLines:
    """The lines of F = −E that lead to three charges on the line z = 0."""
    law = Atoms(np.asarray([[-1.2], [0.1], [1.4]]), _WEIGHTS)
    x, z = np.linspace(-3, 3, 61), np.linspace(0.04, 3, 45)
    grid = np.stack(np.meshgrid(x, z), axis=-1).reshape(-1, 2)
    field = _field(law, grid[:, :1], grid[:, 1])
    u, v = (-np.asarray(a, np.float64).reshape(len(z), len(x)) for a in (field.along_x[:, 0], field.along_r))
    density = np.clip(np.asarray(field.log_norm, np.float64), -4, 0.5).reshape(len(z), len(x))
    return FlowLines(x, z, u, v, density, "x", "z")


@identity(
    row="27b",
    title="Half of the charge goes through every plane",
    latex=r"\int F_z(x,z)\,dx = -\frac{1}{2}\quad\mathrm{for\ every}\ z>0,\quad F = -E",
    compared="the flux through planes at z of 0.3, 1 and 40 with −½, by quadrature in θ for x = (1 + z) tan θ",
    oracle="three charges, and three Cauchy laws, on the line",
    source=f"{_PFGM}, theorem 1 (there with E, which points away)",
    bound=Within(1e-10, "Gauss-Legendre with 400 nodes", roundoffs=50),
    functions=(poisson_field, augmented_field),
    test="tests/diffusion/poisson/test_gauss.py",
)
def _poisson_flux_planes(setting: Setting) -> Measured:
    nodes, weights = np.polynomial.legendre.leggauss(400)
    theta, found = 0.5 * np.pi * nodes, {}
    for name, law in (("charges", charges(1)), ("Cauchy", _cauchy(1))):
        up_at = jax.jit(lambda x, z, law=law: poisson_field(law, x, z).vector[1])
        for z in (0.3, 1.0, 40.0):
            x = (1 + z) * np.tan(theta)
            up = np.asarray(up_at(x[:, None], z), np.float64)
            flux = -np.sum(0.5 * np.pi * weights * up * (1 + z) / np.cos(theta) ** 2)
            found[f"{name}, z = {z:g}"] = abs(float(flux) + 0.5) / 0.5
    return worst_of(found, _flow_lines())


@identity(
    row="27c",
    title="Half of the charge goes through a hemisphere, none through a closed surface that holds none",
    latex=r"\int_{|x|=R,\,z>0} F\cdot n\,dA = -\frac{1}{2},"
    r"\quad \oint F\cdot n\,dA = -Q\ \mathrm{(the\ charge\ inside)}",
    compared="the flux through hemispheres of radius 3 and 50 with −½; through a box, a sphere and a half ball above "
    "the data with 0; through a box around one charge with minus that charge",
    oracle="three charges on the line and in the plane",
    source=f"{_PFGM}, section 3.1",
    bound=Within(1e-8, "quadrature with 40 nodes, 64 where the box around a charge is 0.25 away from it", roundoffs=50),
    functions=(augmented_field, box_flux, sphere_flux, base_flux),
)
def _poisson_flux_closed_surfaces(setting: Setting) -> Measured:
    found = {}
    for d in (1, 2):
        law = Atoms(np.asarray([[-0.8, 0.3], [0.1, -0.5], [0.9, 0.4]])[:, :d], _WEIGHTS)
        flux = {name: float(value) for name, value in _fluxes(law, d).items()}
        for radius in (3, 50):
            found[f"hemisphere of {radius}, N = {d}"] = abs(flux[f"hemisphere of {radius}"] - 0.5)
        found[f"box, N = {d}"] = abs(flux["box"])
        found[f"sphere, N = {d}"] = abs(flux["sphere"])
        found[f"half ball, N = {d}"] = abs(flux["cap"] + flux["base"])
        if abs(flux["cap"]) < 0.01:
            return Measured(float("nan"), f"the open half ball's flux is {flux['cap']:.1e}")
        found[f"box around a charge, N = {d}"] = abs(flux["box around a charge"] - float(_WEIGHTS[1]))
    return worst_of(found)


def _fluxes(law: Atoms, d: int) -> dict[str, jax.Array]:
    """The outward fluxes through surfaces above charges in d dimensions, one of them closed around a charge."""
    low, high = np.r_[-0.5 * np.ones(d), 0.4], np.r_[1.2 * np.ones(d), 1.3]
    centre, around = np.r_[0.2 * np.ones(d), 1.1], np.r_[law.points[1], 0.0]

    @jax.jit
    def all_of_them(law: Atoms) -> dict[str, jax.Array]:
        at = jax.jit(lambda point: augmented_field(law)(point[None])[0])
        field = jax.vmap(at)  # traced once for all surfaces
        hemispheres = jax.lax.map(
            lambda radius: sphere_flux(field, [0.0] * (d + 1), radius, 64, axis=d), jnp.asarray([3.0, 50.0])
        )
        return {
            "hemisphere of 3": hemispheres[0],
            "hemisphere of 50": hemispheres[1],
            "box": box_flux(field, low, high, 40),
            "sphere": sphere_flux(field, centre, 0.7, 40),
            "cap": sphere_flux(field, centre, 0.7, 40, axis=d),
            "base": base_flux(field, centre, 0.7, 40, axis=d),
            "box around a charge": box_flux(field, around - 0.25, around + 0.25, 64),
        }

    return all_of_them(law)


@identity(
    row="33",
    title="Without the extra dimension the field of a shell vanishes inside",
    latex=r"E(x) = \frac{1}{S_{N-1}}\int\rho(y)\frac{x-y}{|x-y|^N}dy = 0\ (|x|<1),\quad "
    r"\frac{x}{S_{N-1}|x|^N}\ (|x|>1);\quad |E_{N+1}(x,z)| > 0",
    compared="the field of charges around a circle and a sphere with 0 inside and that of one charge outside; "
    "just above, in the extra dimension, it must not vanish",
    oracle="Newton's shell theorem",
    source=f"{_PFGM}, section 3.1 and appendix; Newton 1687, book I, propositions 70 and 71",
    bound=Within(1e-10, "the charges stand for the shell up to 0.7 to the power 128", roundoffs=50),
    functions=(plain_field, shell_field, shell),
    test="tests/diffusion/poisson/test_gauss.py",
)
def _plain_field_of_a_shell(setting: Setting) -> Measured:
    found, radii = {}, np.asarray([0.1, 0.3, 0.5, 0.7, 1.5, 2.5, 4.0])
    for dim in (2, 3):
        x = np.random.default_rng(0).normal(size=(len(radii), dim))
        x *= (radii / np.linalg.norm(x, axis=1))[:, None]
        area = {2: 2 * np.pi, 3: 4 * np.pi}[dim]
        exact = np.where(radii < 1, 0.0, 1 / (area * radii**dim))[:, None] * x
        fields = jax.jit(lambda x, dim=dim: (plain_field(shell(dim), x), shell_field(x)))(jnp.asarray(x))
        found[f"charges, N = {dim}"] = relative(fields[0], exact)
        found[f"shell, N = {dim}"] = relative(fields[1], exact)
    at, z = np.linspace(0.0, 2.0, 101), 0.1

    @jax.jit
    def pictured(points: jax.Array) -> tuple[Any, ...]:
        cured = poisson_field(shell(2, points=200), points, z)
        return cured.log_norm, *cured.vector, shell_field(points)

    log_norm, across, down, plain = map(np.asarray, pictured(jnp.asarray(np.stack([at, 0 * at], axis=1))))
    if not np.min(log_norm) > np.log(5e-3):
        return Measured(float("nan"), "the field above the shell vanishes, too")
    lines = {"N dimensions": plain[:, 0], "N + 1: |across|, z = 0.1": np.abs(across[:, 0]), "N + 1: down": down}
    return worst_of(found, Curves(at, lines, "distance from the centre", "field"))


@identity(
    row="34",
    title="From afar the field's directions are those of one charge",
    latex=r"\frac{E}{|E|} = \frac{(x,z)}{|(x,z)|} + O(R^{-1}),\quad O(R^{-2})\ \mathrm{once}\ \mathbb{E}[y]=0",
    compared="the slope of the largest deviation over a hemisphere, R from 20 to 160, with −1 for data off the centre "
    "and −2 for centred data",
    oracle="the power law of the expansion in multipoles",
    source=f"{_PFGM}, theorem 1 (the limit; the rates are the dipole's and the quadrupole's)",
    bound=Within(0.1, "the next multipole is a twentieth of the first at R = 20"),
    functions=(poisson_field,),
)
def _poisson_far_field(setting: Setting) -> Measured:
    radii, found, lines = np.asarray([20.0, 40.0, 80.0, 160.0]), {}, {}
    points, weights = np.asarray(charges(setting.dim).points), _WEIGHTS
    away = np.random.default_rng(1).normal(size=(32, setting.dim + 1))
    away[:, -1] = np.abs(away[:, -1])
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    centre = weights @ points
    field_at = jax.jit(poisson_field)
    for name, data, rate in (("off the centre", points - centre + 0.5, -1), ("centred", points - centre, -2)):
        off = []
        for radius in radii:
            field = field_at(Atoms(data, weights), radius * away[:, :-1], radius * away[:, -1])
            found_at = np.concatenate([np.asarray(field.along_x), np.asarray(field.along_r)[:, None]], axis=1)
            off.append(float(np.max(np.linalg.norm(found_at - away, axis=1))))
        lines[name] = off
        found[name] = abs(float(np.polyfit(np.log(radii), np.log(off), 1)[0]) - rate)
    plot = Curves(radii, lines, "R", "deviation of the direction", True, True)
    return worst_of(found, plot)
