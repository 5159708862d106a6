"""An exact answer for the chains: Gaussian data and affine denoisers make every law a matrix, built here in NumPy."""

import dataclasses
import functools
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from diffusion import EDM, VP, Betas, Process, RectifiedFlow
from diffusion.arrays import expand
from diffusion.ddpm.chains import EncoderChain, GeneratorChain
from diffusion.ddpm.elbo import elbo_term, prior_kl
from diffusion.ddpm.reverse_steps import FixedLarge, FixedSmall, Optimal

MEAN = np.array([0.3, -0.2, 0.5, 0.1])
ROOT = np.array([[0.9, 0.0, 0.0, 0.0], [0.3, 0.5, 0.0, 0.0], [-0.2, 0.1, 0.7, 0.0], [0.1, 0.2, -0.3, 0.4]])
GRIDS = {
    "subsequence": (Betas.linear(9, 0.05, 0.4), np.array([0, 2, 3, 7, 9])),
    "edm": (EDM(sigma_max=9.0), np.array([0.0, 0.2, 0.5, 1.5, 5.0])),  # ends before the schedule does
    "flow": (RectifiedFlow(), np.array([0.0, 0.3, 0.7, 1.0])),
    "one step": (VP(), np.array([0.0, 0.3])),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A chain: on which grid, in how many dimensions, with which variances, how far from the best denoiser."""

    grid: str
    d: int
    variance: str
    skew: float = 0.0
    isotropic: bool = False

    def __str__(self):
        return f"{self.grid}-{self.d}-{self.variance}{'-isotropic' * self.isotropic}"


CASES = (
    Case("subsequence", 1, "large", 0.1),
    Case("edm", 2, "small", 0.1),
    Case("flow", 4, "optimal"),
    Case("edm", 2, "optimal", isotropic=True),
    Case("one step", 2, "optimal", isotropic=True),
)


class Gaussian:
    """N(mean, covariance) as NumPy arrays."""

    def __init__(self, mean, covariance):
        self.mean, self.covariance = mean, covariance

    def log_prob(self, x):
        gap = np.asarray(x) - self.mean
        solved = np.linalg.solve(self.covariance, gap.T).T
        _, log_det = np.linalg.slogdet(2 * np.pi * self.covariance)
        return -0.5 * np.sum(gap * solved, axis=-1) - 0.5 * log_det

    def entropy(self):
        return 0.5 * np.linalg.slogdet(2 * np.pi * np.e * self.covariance)[1]

    def part(self, index):
        return Gaussian(self.mean[index], self.covariance[np.ix_(index, index)])

    def given(self, index, value):
        """The law of the other coordinates given x[index] = value."""
        rest = np.setdiff1d(np.arange(self.mean.size), index)
        gain = np.linalg.solve(self.covariance[np.ix_(index, index)], self.covariance[np.ix_(index, rest)]).T
        covariance = self.covariance[np.ix_(rest, rest)] - gain @ self.covariance[np.ix_(index, rest)]
        return Gaussian(self.mean[rest] + gain @ (value - self.mean[index]), covariance)

    def kl(self, other):
        gap = other.mean - self.mean
        solved = np.linalg.solve(other.covariance, self.covariance + np.outer(gap, gap))
        log_ratio = np.linalg.slogdet(other.covariance)[1] - np.linalg.slogdet(self.covariance)[1]
        return 0.5 * (np.trace(solved) - gap.size + log_ratio)


def data(d, isotropic=False):
    """A Gaussian in d dimensions, correlated or isotropic."""
    root = 0.7 * np.eye(d) if isotropic else ROOT[:d, :d]
    return Gaussian(MEAN[:d], root @ root.T)


@jax.jit
def _levels(process, times):
    return process.alpha(times), process.schedule.variance(times)


def levels(process, times):
    """α and σ² on the grid."""
    with jax.enable_x64(True):
        return [np.asarray(value) for value in _levels(process, times)]


def encoder_joint(process, times, law):
    """q(x_0, ..., x_N), from x_k = α_k x_0 + σ_k ε and the Markov property: Cov(x_j, x_k) for j < k."""
    (alpha, variance), d = levels(process, times), law.mean.size
    n = len(times)
    covariance = np.zeros((n, d, n, d))
    for j, k in itertools.product(range(n), range(n)):
        low, high = min(j, k), max(j, k)
        scale = alpha[high] / alpha[low] if alpha[low] else float(low == high)
        shared = scale * variance[low] * np.eye(d)
        covariance[j, :, k, :] = alpha[j] * alpha[k] * law.covariance + shared
    return Gaussian(np.concatenate([a * law.mean for a in alpha]), covariance.reshape(n * d, n * d))


def affine_denoiser(process, times, law, skew):
    """[(A_k, b_k)] for k = 1..N with D = A x + b: E[x_0|x_k], spoilt by `skew`."""
    alpha, variance = levels(process, times)
    for a, v in zip(alpha[1:], variance[1:], strict=True):
        gain = a * np.linalg.solve(a**2 * law.covariance + v * np.eye(law.mean.size), law.covariance).T
        yield (1 - skew) * gain, (1 - skew) * (law.mean - a * gain @ law.mean) + skew


def generator_joint(process, times, denoiser, variances):
    """p(x_0, ..., x_N) for steps of the given variances: x = μ + L n for independent normal n, built from the top."""
    alpha, variance = levels(process, times)
    denoiser = list(denoiser)
    d, n = denoiser[0][1].size, len(times)
    means, maps = [np.zeros(d)] * n, [np.zeros((d, n * d))] * n
    fresh = np.eye(n * d).reshape(n, d, n * d)
    maps[-1] = float(process.schedule.prior_std(times[-1])) * fresh[-1]
    for k in range(n - 1, 0, -1):
        scale = alpha[k] / alpha[k - 1]
        added = variance[k] - scale**2 * variance[k - 1]
        c_t, c_0 = scale * variance[k - 1] / variance[k], alpha[k - 1] * added / variance[k]
        gain, offset = denoiser[k - 1]
        step = c_t * np.eye(d) + c_0 * gain
        means[k - 1] = step @ means[k] + c_0 * offset
        maps[k - 1] = step @ maps[k] + np.sqrt(variances[k - 1]) * fresh[k - 1]
    whole = np.concatenate(maps)
    return Gaussian(np.concatenate(means), whole @ whole.T)


def covariances(process, times, law):
    """tr Cov[x_0|x_k]/d for k = 1..N: ((C⁻¹ + α²/σ²)⁻¹ traced."""
    alpha, variance = levels(process, times)
    d = law.mean.size
    precision = np.linalg.inv(law.covariance)
    return np.array(
        [
            np.trace(np.linalg.inv(precision + a**2 / v * np.eye(d))) / d
            for a, v in zip(alpha[1:], variance[1:], strict=True)
        ]
    )


def textbook_variances(name, process, times, law):
    """The variances of the steps k = 1..N, by subtraction and not by the library's stable forms."""
    alpha, variance = levels(process, times)
    scale = np.divide(alpha[1:], alpha[:-1])
    large = variance[1:] - scale**2 * variance[:-1]
    small = variance[:-1] * large / variance[1:]
    if name == "large":
        return large
    if name == "small":
        return np.concatenate([[small[1] if len(small) > 1 else large[0]], small[1:]])
    c_0 = alpha[:-1] * large / variance[1:]
    return small + c_0**2 * covariances(process, times, law)


def _denoise(process, mean, basis, eigenvalues, skew, x, t):
    """E[x_0|x] = m + Q diag(α λ/(α² λ + σ²)) Qᵀ (x − α m), spoilt by `skew`."""
    alpha, variance = expand(process.alpha(t), x), expand(process.schedule.variance(t), x)
    along = alpha * eigenvalues / (alpha**2 * eigenvalues + variance)
    return (1 - skew) * (mean + ((x - alpha * mean) @ basis * along) @ basis.T) + skew


def denoiser(process, law, skew=0.0):
    """The library's kind of denoiser for N(mean, covariance)."""
    eigenvalues, basis = np.linalg.eigh(law.covariance)
    return Partial(_denoise, process, law.mean, basis, eigenvalues, skew)


def build(case):
    """(the generator chain, the exact joint law of q, the exact joint law of p, the data)."""
    (schedule, times), law = GRIDS[case.grid], data(case.d, case.isotropic)
    process = Process(schedule)
    table = Optimal(times[1:].astype(float), covariances(process, times, law))
    variance = {"optimal": table, "large": FixedLarge(), "small": FixedSmall()}[case.variance]
    affine = affine_denoiser(process, times, law, case.skew)
    model = generator_joint(process, times, affine, textbook_variances(case.variance, process, times, law))
    chain = GeneratorChain(process, denoiser(process, law, case.skew), times, variance)
    return chain, encoder_joint(process, times, law), model, law


def corners(law):
    """(x_0, ε) at the 2^{2d} corners of a cube: means over them are exact for quadratic functions under q."""
    d = law.mean.size
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=2 * d)))
    root = np.linalg.cholesky(law.covariance)
    return law.mean + signs[:, :d] @ root.T, signs[:, d:]


@jax.jit
def _answers(chain, trajectory, x_0, eps):
    """Everything the library says of a chain, in one compilation."""
    times, process = jnp.asarray(chain.times), chain.process

    def at(k):
        return elbo_term(chain, x_0, process.alpha(times[k]) * x_0 + process.sigma(times[k]) * eps, k)

    def step(k):
        law = chain.step(trajectory[0], k)
        return law.mean, jnp.broadcast_to(law.std, (1, 1))

    return {
        "encoder": EncoderChain(process, chain.times).log_prob(trajectory),
        "generator": chain.log_prob(trajectory),
        "prior": prior_kl(chain, x_0),
        "terms": jax.lax.map(at, jnp.arange(1, chain.steps + 1)),
        "steps": jax.lax.map(step, jnp.arange(2, chain.steps + 1)),
        "decoder": chain.decode(trajectory[0]),
    }


@functools.cache
def solved(case):
    """The chain, its exact laws, a trajectory in no relation to them, the corners, and the library's answers there."""
    chain, encoder, model, law = build(case)
    trajectory = np.random.default_rng(0).normal(size=(chain.steps + 1, 3, case.d))
    x_0, eps = corners(law)
    answers = SimpleNamespace(**_answers(chain, trajectory, x_0, eps))
    return SimpleNamespace(
        chain=chain, encoder=encoder, model=model, law=law, trajectory=trajectory, x_0=x_0, answers=answers
    )


def flat(trajectory):
    """(N + 1, b, d) as (b, (N + 1) d), the order of the joint laws."""
    return np.moveaxis(np.asarray(trajectory), 0, 1).reshape(trajectory.shape[1], -1)
