"""The two likelihoods of a model: the bound by its chain and the density of its flow."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.ddpm.analytic_variance import estimate_optimal_variance
from diffusion.ddpm.chains import GeneratorChain
from diffusion.ddpm.decoders import DiscretisedDecoder
from diffusion.ddpm.elbo import elbo_estimate
from diffusion.ddpm.reverse_steps import Optimal
from diffusion.interpolated import continuous
from diffusion.likelihood import Adaptive, Hutchinson, log_likelihood
from diffusion.prediction import Denoiser
from diffusion.process import Process
from experiments.sampling.variance import chain_times
from experiments.verification.trained.finding import NOT_APPLICABLE, TENTH, Finding, estimate, number, verdict_of
from experiments.verification.trained.needs import NEEDS
from experiments.verification.trained.subject import Batch, Subject, batches, noised, quick_jit

_STEPS, _DRAWS = 1000, 64
_TOLERANCE = 1e-3


def likelihood(subject: Subject) -> Finding:
    """−ELBO of the chain against −log p of the flow, down to the same least noise and for the same images."""
    part = subject.training if subject.held_out is None else subject.held_out
    count = min(max(16, subject.samples // 4), len(part))
    which = "training" if subject.held_out is None else "held-out"
    head = (
        "likelihood",
        NEEDS["likelihood"].title,
        r"-\ln p_{t_1}(x_{t_1}) \leq \mathrm{KL}(q_T\|p_T) + \sum_{k>1}\mathrm{KL}(q(x_{k-1}|x_k,x_0)\|p(x_{k-1}|x_k))"
        r" - \ln q(x_{t_1}|x_0)",
        f"bits per dimension of {count} {which} images down to the least noise t₁, beyond which the decoder of both "
        f"is the same: the bound by a chain of {_STEPS} steps with the best variance, and the density of the flow at "
        "x_{t₁} by the instantaneous change of variables" + (", both given the class" if subject.num_classes else ""),
    )
    if subject.chain and subject.between is None:
        return Finding(
            *head, f"{NOT_APPLICABLE}: this denoiser knows the times of its chain alone, and has no flow", ""
        )
    if not subject.gaussian:
        return Finding(
            *head, f"{NOT_APPLICABLE}: the noise is not Gaussian, so that there is no chain of Gaussian steps", ""
        )
    times = chain_times(subject.process, _STEPS)
    variance = _best_variance(subject, times)
    bounds, exact, reached = [], [], []
    for batch in batches(subject, part, float(times[1]), count, 80, min(subject.batch, 32)):
        kept, pair = len(batch.places), _pair(subject, batch, times, variance)
        for out, value in zip((bounds, exact, reached), pair, strict=True):
            out.append(np.asarray(value, np.float64)[:kept])
    bits = subject.dim * math.log(2)
    bound, density = np.concatenate(bounds) / bits, np.concatenate(exact) / bits
    if not np.concatenate(reached).all():
        return Finding(
            *head, verdict_of(True), "The flow could not be followed for some images: the score is too rough."
        )
    return _judged(head, bound, density)


def _judged(head: tuple[str, str, str, str], bound: np.ndarray, density: np.ndarray) -> Finding:
    """The finding, judged by the mean of bound − density over the images."""
    gap = estimate(bound - density)
    values = {"−ELBO": estimate(bound), "−log₂ p of the flow": estimate(density), "gap": gap}
    under, wide = gap.below(0.0) and gap.value < -0.01, gap.above(TENTH)
    bad = (
        "The flow gives the images less likelihood than the chain is certain to give. With the score of a density that "
        "is impossible, so that the score is not one: the flow and the chain have different laws. Usually the training "
        "was too short, or some noise levels count for little in its loss; see the Fokker-Planck residual."
    )
    loose = (
        f"The bound is {number(gap.value)} bits from the likelihood of the flow; with the exact score they would meet, "
        "for what the bound loses is the error of the score, added up over the noise levels. Usually the training was "
        "too short, or levels that matter here, the low ones, count for little in its loss."
    )
    good = (
        f"The bound holds, {number(gap.value)} bits from the likelihood; with the exact score and small steps they "
        "would meet."
    )
    return Finding(
        *head,
        verdict_of(bool(under or wide)),
        bad if under else loose if wide else good,
        limit="a bound below the likelihood by 4 standard errors and a hundredth of a bit, the error of the solver and "
        "of the steps; or above it by a tenth of a bit",
        values=values,
    )


def _best_variance(subject: Subject, times: np.ndarray) -> Optimal:
    """Analytic-DPM's variance, from some training images at 64 of the times and interpolated between them."""
    count = max(16, subject.samples // 4)
    rows = np.sort(subject.rng(2).permutation(len(subject.training))[:count])
    labels = None if subject.labels is None else jnp.asarray(subject.labels[rows], jnp.int32)
    places = np.unique(np.linspace(1, len(times) - 1, 64).round().astype(int))
    found = quick_jit(estimate_optimal_variance)(
        subject.key(81),
        subject.process,
        subject.denoiser(labels),
        jnp.asarray(subject.training.take(rows)),
        jnp.asarray(times[places]),
    )
    return found.variance


def _pair(subject: Subject, batch: Batch, times: np.ndarray, variance: Optimal) -> tuple[Array, Array, Array]:
    """(−ELBO without the decoder's term, −ln p(x_1) + ln q(x_1|x_0), whether the flow came to its end), in nats."""
    denoise, ids = subject.denoiser(batch.labels), jnp.asarray(np.resize(batch.places, len(batch.x_0)))
    bound = _bound(subject.key(82), subject.process, denoise, jnp.asarray(times, jnp.float32), variance, batch.x_0, ids)
    first = jnp.asarray(times[1], batch.x_0.dtype)
    x = noised(subject.process, batch.x_0, batch.z, first)
    smooth = denoise if subject.between is None else subject.between(batch.labels)
    density, converged = _density(subject.key(83), continuous(subject.process), smooth, x, first, ids)
    return bound, _log_prob(subject.process, batch.z, first) - density, converged


@jax.jit
def _log_prob(process: Process, z: Array, t: Array) -> Array:
    """ln q(x_t|x_0) of the noised images."""
    return process.noise.log_prob(z) - math.prod(z.shape[1:]) * jnp.log(process.sigma(t))


@quick_jit
def _density(
    key: Array, process: Process, denoise: Denoiser, x: Array, first: Array, ids: Array
) -> tuple[Array, Array]:
    """(ln p(x) of the flow, whether it came to its end)."""
    solver = Adaptive(_TOLERANCE, _TOLERANCE, t_start=first)  # type: ignore[arg-type]
    found = log_likelihood(process, denoise, x, solver=solver, method=Hutchinson(2), key=key, ids=ids)
    return found.log_prob, found.converged


@quick_jit
def _bound(
    key: Array, process: Process, denoise: Denoiser, times: Array, variance: Optimal, x_0: Array, ids: Array
) -> Array:
    chain = GeneratorChain(process, denoise, times, variance, DiscretisedDecoder())
    terms = elbo_estimate(key, chain, x_0, draws=_DRAWS, ids=ids)
    return terms.prior + jnp.sum(terms.steps, axis=1)
