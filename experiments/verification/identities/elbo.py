"""Rows 5 to 7: the chain as an autoregressive variational autoencoder, with every constant."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from diffusion import EDM, VP, Betas, Process
from diffusion.ddpm.chains import EncoderChain, GeneratorChain
from diffusion.ddpm.decoders import DiscretisedNormal, bits_per_dim
from diffusion.ddpm.elbo import elbo_term, elbo_terms, joint_kl, prior_kl
from diffusion.ddpm.reverse_steps import FixedLarge, FixedSmall, Optimal
from diffusion.oracles import GaussianLaw
from experiments.verification.closed_forms import (
    Levels,
    Matrices,
    chain_levels,
    covariances_of,
    denoiser_of,
    encoder_joint,
    generator_joint,
    levels,
    reverse_coefficients,
)
from experiments.verification.laws import mixture
from experiments.verification.registry import Measured, Setting, Within, identity, relative, worst_of
from experiments.verification.report.plots import Curves

TOPICS = ("elbo", "ddpm")

_MATRICES = "Gaussian data and an affine denoiser: both chains are Gaussians, kept as matrices in NumPy"
_SKEW = 0.1


@dataclass(frozen=True)
class _Case:
    """The chain of a generator, with the exact laws of the encoder's chain and of its own."""

    chain: GeneratorChain
    law: Matrices
    encoder: Matrices
    model: Matrices


def _data(d: int, isotropic: bool) -> Matrices:
    rng = np.random.default_rng(0)
    mean, root = 1 + 0.5 * rng.normal(size=d), np.tril(0.3 * rng.normal(size=(d, d)), -1) + 0.7 * np.eye(d)
    return Matrices(mean, 0.49 * np.eye(d) if isotropic else root @ root.T)


def _variances(kind: str, law: Matrices, known: Levels) -> np.ndarray:
    """The variances of the steps k = 1..N, as the papers define them for each kind."""
    _, c_0, large = np.transpose(list(reverse_coefficients(known)))
    small = known.sigma[:-1] ** 2 * large / known.sigma[1:] ** 2
    if kind == "β":
        return large
    if kind == "β̃":
        return np.append(small[1] if len(small) > 1 else large[0], small[1:])
    return small + c_0**2 * covariances_of(law, known)


def _model(law: Matrices, known: Levels, prior_std: float, kind: str, skew: float) -> Matrices:
    exact = (denoiser_of(law, known, k) for k in range(1, known.alpha.size))
    spoilt = (((1 - skew) * gain, (1 - skew) * offset + skew) for gain, offset in exact)
    return generator_joint(known, prior_std, spoilt, _variances(kind, law, known))


def _spoilt(denoise: Partial, skew: float, x: jax.Array, t: jax.Array) -> jax.Array:
    return (1 - skew) * denoise(x, t) + skew


def _case(setting: Setting, name: str) -> _Case:
    """The case of this name: "β" on a subsequence of a chain, "β̃" on EDM, "the best" on VP for isotropic data."""
    betas, best = np.linspace(0.4, 0.06, 9), name == "the best"
    process, times, known, prior_std = {
        "β": (Process(Betas.from_betas(betas)), (t := np.asarray([0, 2, 3, 7, 9])), chain_levels(betas, t), 1.0),
        "β̃": (Process(EDM(sigma_max=9.0)), (t := np.asarray([0, 0.2, 0.5, 1.5, 5.0])), levels("EDM", t), 5.0),
        "the best": (Process(VP()), (t := np.asarray([0, 0.05, 0.15, 0.25])), levels("VP", t), 1.0),
    }[name]
    law, skew = _data(setting.dim, isotropic=best), 0.0 if best else _SKEW
    kind = {"β": FixedLarge(), "β̃": FixedSmall()}.get(name, Optimal(times[1:], covariances_of(law, known)))
    denoise = Partial(_spoilt, GaussianLaw.full(law.mean, law.covariance).denoiser(process), skew)
    chain = GeneratorChain(process, setting.answered(denoise), times, kind)
    return _Case(chain, law, encoder_joint(law, known), _model(law, known, prior_std, name, skew))


@jax.jit
def _log_ratio(chain: GeneratorChain, trajectory: jax.Array) -> jax.Array:
    return EncoderChain(chain.process, chain.times).log_prob(trajectory) - chain.log_prob(trajectory)


def _joint_kl(case: _Case) -> float:
    """E[ln q − ln p], exact over a few trajectories because the integrand is quadratic."""
    points, d = case.encoder.points(), case.law.mean.size
    trajectories = np.moveaxis(points.reshape(len(points), -1, d), 1, 0)
    ratio = np.asarray(_log_ratio(case.chain, trajectories), np.float64)
    return float(np.mean(case.law.log_prob(points[:, :d]) + ratio))


@identity(
    row="5a",
    title="How far the backward chain is from the forward chain",
    latex=r"\mathrm{KL}(p(x_0,\ldots,x_T)\,\Vert\,q(x_0,\ldots,x_T)) = \mathbb{E}\ln\frac{p(x_0)\,p(x_1|x_0)\cdots "
    r"p(x_T|x_{T-1})}{q(x_T)\,q(x_{T-1}|x_T)\cdots q(x_0|x_1)}",
    compared="the mean of the library's log-densities over trajectories with the KL of two matrices, for β and β̃",
    oracle=_MATRICES,
    source="Su 2022, the second post on diffusion models; Ho et al. 2020, arXiv:2006.11239, eq. 3",
    bound=Within(1e-10, "sums of logarithms, which keep most of their digits", roundoffs=500),
    functions=(EncoderChain.log_prob, GeneratorChain.log_prob),
    answers=True,
    test="tests/diffusion/ddpm/test_elbo.py",
)
def _joint_divergence(setting: Setting) -> Measured:
    found = {}
    for name in ("β", "β̃"):
        case = _case(setting, name)
        found[name] = relative(_joint_kl(case), case.encoder.kl(case.model))
    return worst_of(found)


@identity(
    row="5b",
    title="At the optimum only the end of the chain is left",
    latex=r"\min\,\mathrm{KL}(p(x_0,\ldots,x_T)\,\Vert\,q(x_0,\ldots,x_T)) = \mathrm{KL}(p(x_T)\,\Vert\,"
    r"\mathcal{N}(0,I))\quad\mathrm{for}\ x_0\sim\mathcal{N}(m,v I)",
    compared="the mean of the library's log-densities over trajectories with the right side, on VP up to t = 0.25",
    oracle="isotropic Gaussian data; the divergence of two Gaussians in closed form",
    source="Su 2022, the second post on diffusion models",
    bound=Within(1e-10, "sums of logarithms, which keep most of their digits", roundoffs=500),
    functions=(GeneratorChain, Optimal),
    answers=True,
    test="tests/diffusion/ddpm/test_elbo.py",
)
def _joint_divergence_optimum(setting: Setting) -> Measured:
    case, d = _case(setting, "the best"), setting.dim
    end = case.encoder.part(np.arange(d) + d * case.chain.steps)
    exact = end.kl(Matrices(np.zeros(d), np.eye(d)))
    lengths, lines = 2 ** np.arange(6), {}
    for kind, label in {"β": "β", "β̃": "the posterior's", "the best": "the best"}.items():
        grids = (levels("VP", np.linspace(0, 0.25, n + 1)) for n in lengths)
        pairs = ((encoder_joint(case.law, known), _model(case.law, known, 1.0, kind, 0.0)) for known in grids)
        lines[label] = [encoder.kl(model) for encoder, model in pairs]
    lines["exact KL(p_T ‖ N(0, I))"] = [exact] * lengths.size
    plot = Curves(lengths, lines, "T", "KL of the chains, in nats", log_x=True)
    return Measured(relative(_joint_kl(case), exact), plot=plot)


@jax.jit
def _bound(chain: GeneratorChain, x_0: jax.Array, eps: jax.Array) -> jax.Array:
    """−ELBO: the sum of Ho's terms at x_k = α_k x_0 + σ_k ε."""
    times = jnp.asarray(chain.times)

    def at(k: jax.Array) -> jax.Array:
        return elbo_term(chain, x_0, chain.process.alpha(times[k]) * x_0 + chain.process.sigma(times[k]) * eps, k)

    return prior_kl(chain, x_0) + jnp.sum(jax.lax.map(at, jnp.arange(1, chain.steps + 1)), axis=0)


@identity(
    row="6a",
    title="Ho's terms are the joint divergence",
    latex=r"\mathbb{E}[\mathrm{KL}(p(x_T|x_0)\Vert q) + \sum_{t>1}\mathrm{KL}(p(x_{t-1}|x_t,x_0)\Vert q(x_{t-1}|x_t)) "
    r"- \ln q(x_0|x_1)] = \mathrm{KL}(p\Vert q) + h(x_0)",
    compared="the mean of the library's terms over x_0 and ε with the KL of two matrices and the data's entropy",
    oracle=_MATRICES,
    source="Ho et al. 2020, arXiv:2006.11239, eq. 5; Su 2022, the second post on diffusion models",
    bound=Within(1e-10, "sums of logarithms, which keep most of their digits", roundoffs=20),
    functions=(elbo_term, prior_kl),
    answers=True,
)
def _elbo_terms(setting: Setting) -> Measured:
    found, d = {}, setting.dim
    for name in ("β", "β̃"):
        case = _case(setting, name)
        both = np.zeros((2 * d, 2 * d))
        both[:d, :d], both[d:, d:] = case.law.covariance, np.eye(d)
        points = Matrices(np.append(case.law.mean, np.zeros(d)), both).points()
        bound = np.mean(np.asarray(_bound(case.chain, points[:, :d], points[:, d:]), np.float64))
        found[name] = relative(bound, case.encoder.kl(case.model) + case.law.entropy())
    return worst_of(found)


@jax.jit
def _both_forms(key: jax.Array, chain: GeneratorChain, x_0: jax.Array, log_q: jax.Array) -> tuple:
    joint = joint_kl(key, chain, x_0, log_q)
    return joint.total - log_q, joint.encoder, joint.prior, elbo_terms(key, chain, x_0).total


@identity(
    row="6b",
    title="The joint divergence with every entropy written out, for any data",
    latex=r"\mathrm{KL}(p\Vert q) = \mathbb{E}[\ln p(x_0) - \sum_{t\geq 1} h(x_t|x_{t-1}) - \ln q(x_T) - "
    r"\sum_{t\geq 1}\ln q(x_{t-1}|x_t)]",
    compared="the sum of all terms with that of Ho's terms at 64 draws; entropies and E ln q(x_T) with their formulas",
    oracle="the chain rule for entropies; one-step variances by subtraction, Gaussian integrals in NumPy",
    source="Su 2022, the second post on diffusion models; Ho et al. 2020, arXiv:2006.11239, eq. 5",
    bound=Within(1e-10, "sums of logarithms, which keep most of their digits", roundoffs=30),
    functions=(joint_kl, elbo_terms),
)
def _elbo_joint_form(setting: Setting) -> Measured:
    d, betas, times = setting.dim, np.linspace(0.4, 0.06, 9), np.asarray([0, 2, 3, 7, 9])
    process, known = Process(Betas.from_betas(betas)), chain_levels(betas, times)
    chain = GeneratorChain(process, mixture(d).denoiser(process), times)
    x_0 = np.random.default_rng(1).standard_t(4, size=(64, d))
    joint, encoder, prior, ho = _both_forms(setting.key(1), chain, x_0, np.linspace(-1, 1, 64))
    added = _variances("β", _data(d, isotropic=True), known)
    square = np.sum((known.alpha[-1] * x_0) ** 2, axis=1) + d * known.sigma[-1] ** 2
    found = {
        "the sum": relative(joint, ho),
        "entropies": relative(encoder, -0.5 * d * np.log(2 * np.pi * np.e * added)),
        "the prior": relative(prior, 0.5 * d * np.log(2 * np.pi) + 0.5 * square),
    }
    return worst_of(found)


@identity(
    row="7a",
    title="What the ELBO misses",
    latex=r"-\mathrm{ELBO}(x_0) + \ln q(x_0) = \mathrm{KL}(p(x_1,\ldots,x_T|x_0)\,\Vert\,q(x_1,\ldots,x_T|x_0))\geq 0",
    compared="the mean over ε of the library's terms, at two x_0, plus ln q(x_0) with the KL of two matrices",
    oracle=f"{_MATRICES}, conditioned on x_0",
    source="Kingma & Welling 2014, arXiv:1312.6114, eq. 1; Su 2022",
    bound=Within(1e-9, "a difference, which costs a few digits", roundoffs=300),
    functions=(elbo_term, prior_kl),
    answers=True,
)
def _elbo_gap(setting: Setting) -> Measured:
    found, d = {}, setting.dim
    for name in ("β", "β̃"):
        case, index = _case(setting, name), np.arange(d)
        eps = Matrices(np.zeros(d), np.eye(d)).points()
        starts = case.law.mean + np.asarray([[0.7], [-1.1]])
        bounds = _bound(case.chain, np.repeat(starts, 2 * d, axis=0), np.tile(eps, (2, 1)))
        bounds = np.mean(np.asarray(bounds, np.float64).reshape(2, -1), axis=1)
        gaps = [case.encoder.given(index, x).kl(case.model.given(index, x)) for x in starts]
        found[name] = relative(bounds + case.model.part(index).log_prob(starts), gaps)
    return worst_of(found)


@jax.jit
def _masses(mean: jax.Array, std: jax.Array, x: jax.Array) -> jax.Array:
    return DiscretisedNormal(mean, std).log_prob(x)


@identity(
    row="7b",
    title="Bits per dimension of 8-bit data scaled to [−1, 1]",
    latex=r"-\frac{1}{d}\log_2 P(x) = -\frac{1}{d}\log_2 p(x) + \log_2 127.5,\quad "
    r"p = P\cdot 127.5^d\ \mathrm{on\ each\ bin}",
    compared="bits of masses, and of the densities that are flat on each of the 256 bins, with −log2 of the masses",
    oracle="differences of the error function in NumPy, in the nearer tail",
    source="Ho et al. 2020, arXiv:2006.11239, eq. 13; Theis et al. 2016, arXiv:1511.01844, section 3.1",
    bound=Within(1e-9, "differences of two error functions, the smallest of them 1e-9", roundoffs=400),
    functions=(bits_per_dim, DiscretisedNormal),
)
def _bits_per_dim(setting: Setting) -> Measured:
    grey, d, found, lines = np.arange(256) / 127.5 - 1, setting.dim, {}, {}
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 127.5 - 1, [np.inf]])
    for mean, std in ((0.3, 0.2), (-0.9, 0.4), (0.01, 0.02)):
        z = (edges - mean) / std / math.sqrt(2)
        tails = np.asarray([math.erfc(abs(each)) / 2 for each in z])
        mass = np.where(z[:-1] * z[1:] > 0, np.abs(np.diff(tails)), 1 - tails[:-1] - tails[1:])
        shown, rows = mass > 1e-9, np.repeat(grey[:, None], d, axis=1)
        nats = -np.asarray(_masses(np.full_like(rows, mean), np.asarray(std), rows), np.float64)
        with np.errstate(divide="ignore"):
            exact = np.where(shown, -np.log2(mass), np.nan)
        density = jnp.asarray(nats - d * math.log(127.5))
        mine = {"masses": bits_per_dim(jnp.asarray(nats), d), "densities": bits_per_dim(density, d, 2 / 255)}
        for name, bits in mine.items():
            found[f"{name}, std {std}"] = relative(np.asarray(bits)[shown], exact[shown])
        lines |= {f"exact, std {std}": exact, f"std {std}": np.where(shown, mine["masses"], np.nan)}
    return worst_of(found, Curves(grey, lines, "grey level", "bits"))
