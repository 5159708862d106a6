"""Row 44: the effect of averaging blocks of pixels on the noise, and the schedule that undoes it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import Process, Shifted, perturb
from diffusion.oracles import GaussianMixture
from experiments.verification.closed_forms import STEPS, levels
from experiments.verification.laws import mixture
from experiments.verification.registry import Measured, Setting, Within, identity, largest, relative, worst_of
from experiments.verification.report.plots import Curves

_BASES = ("Cosine", "VP", "RectifiedFlow")
_SOURCE = "Hoogeboom et al. 2023, arXiv:2301.11093, section 3.1; Chen 2023, arXiv:2301.10972"


def _averaged(x: np.ndarray, side: int) -> np.ndarray:
    """The images (b, h, w, c), averaged over blocks of side × side pixels and flattened."""
    b, h, w, c = x.shape
    return x.reshape(b, h // side, side, w // side, side, c).mean(axis=(2, 4)).reshape(b, -1)


@jax.jit
def _noised(process: Process, x_0: jax.Array, z: jax.Array, times: jax.Array) -> jax.Array:
    return jax.vmap(lambda t: perturb(process, x_0, z, t))(times)


def _averaged_log_snr(process: Process, side: int, channels: int, times: np.ndarray) -> tuple[np.ndarray, float]:
    """(ln SNR of the averaged image at each time, from the covariance of its noise; the largest correlation)."""
    shape = (2 * side, 2 * side, channels)
    size = int(np.prod(shape))
    # Every unit vector of the noise, and one image of ones without noise.
    x_0, z = np.zeros((size + 1, *shape)), np.zeros((size + 1, *shape))
    x_0[size], z[:size] = 1, np.eye(size).reshape(size, *shape)
    log_snr, correlation = [], 0.0
    for x_t in np.asarray(_noised(process, x_0, z, times), np.float64):
        rows = _averaged(x_t, side)
        covariance, signal = rows[:size].T @ rows[:size], rows[size]
        log_snr.append(np.log(np.min(signal**2 / np.diag(covariance))))
        off = covariance / covariance[0, 0] - np.eye(len(covariance))
        correlation = largest(correlation, float(np.max(np.abs(off))), float(np.ptp(signal)))
    return np.asarray(log_snr), correlation


@identity(
    row="44a",
    title="Averaging blocks of pixels multiplies the SNR",
    latex=r"\bar x_t = \alpha\,\bar x_0 + \sigma\,\bar z,\quad \mathrm{SNR}(\bar x_t) = s^2\,\mathrm{SNR}(x_t);\quad "
    r"\frac{\sigma'}{\alpha'} = s\,\frac{\sigma}{\alpha}\ \Rightarrow\ \mathrm{SNR}'(\bar x_t) = \mathrm{SNR}(x_t)",
    compared="ln SNR of averaged images, under a schedule and under its shifted form, with ln SNR + 2 ln s and ln SNR",
    oracle="the covariance of averaged white noise, from every unit vector; α and σ in closed form",
    source=_SOURCE,
    bound=Within(1e-12, "means of a few numbers", roundoffs=100),
    functions=(Shifted, perturb),
)
def _pooling(setting: Setting) -> Measured:
    times, found, lines = np.linspace(0.05, 0.95, 10), {}, {}
    for name, side in (("Cosine", 2), ("VP", 2), ("RectifiedFlow", 4)):
        process, known = STEPS[name][0], levels(name, times)
        exact = 2 * np.log(known.alpha / known.sigma)
        shifted = Process(Shifted(process.schedule, float(side)))
        curves = {"averaged": exact + 2 * np.log(side), "averaged, shifted": exact}
        for (label, expected), each in zip(curves.items(), (process, shifted), strict=True):
            log_snr, correlation = _averaged_log_snr(each, side, setting.dim, times)
            found[f"{label}, {name}"] = largest(float(np.max(np.abs(log_snr - expected))), correlation)
            if name == "Cosine":
                lines |= {f"exact, {label}": expected, label: log_snr}
    return worst_of(found, Curves(times, lines, "t, on Cosine", "ln SNR"))


@identity(
    row="44b",
    title="Under the shifted schedule a large image is denoised as the small one is",
    latex=r"x_0 = U y\ \mathrm{(each\ pixel\ a\ block)}:\quad D'(x_t, t) = U\,D(\frac{\bar x_t}{c}, t),\quad "
    r"c^2 = \frac{\alpha^2 + \sigma^2}{\alpha^2 + s^2\sigma^2}",
    compared="the denoiser of images of blocks of 2 × 2, shifted by 2, with that of their averages, on three schedules",
    oracle="a mixture of three Gaussians, in the pixels of the small image and by its factor in those of the large one",
    source=_SOURCE,
    bound=Within(1e-12, "posterior means in closed form on both sides", roundoffs=200),
    functions=(Shifted, GaussianMixture.low_rank),
    answers=True,
)
def _aligned_schedule(setting: Setting) -> Measured:
    small, blocks = mixture(setting.dim), np.kron(np.ones((4, 1)), np.eye(setting.dim))
    means, stds = np.asarray(small.means), np.sqrt(np.asarray(small.floor))
    large = GaussianMixture.low_rank(means @ blocks.T, stds[:, None, None] * blocks, np.zeros(3), small.weights)
    x_t, found = np.random.default_rng(0).normal(size=(8, 4 * setting.dim)), {}
    for name in _BASES:
        process, _, t = STEPS[name]
        known, shifted = levels(name, t), Process(Shifted(process.schedule, 2.0))
        c = np.sqrt((known.alpha**2 + known.sigma**2) / (known.alpha**2 + 4 * known.sigma**2))
        averaged = jnp.asarray(_averaged(x_t.reshape(8, 2, 2, setting.dim), 2) / c)
        denoised = jax.jit(setting.answered(large.denoiser(shifted)))(jnp.asarray(x_t), t)
        expected = jax.jit(small.denoiser(process))(averaged, t)
        found[name] = relative(denoised, np.asarray(expected, np.float64) @ blocks.T)
    return worst_of(found)
