"""Rows 12 to 14 and N2: the family of DDIM's steps, the marginals that they all keep, and the limit of their noise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from diffusion import Betas, Process
from diffusion import keys as keys_lib
from diffusion.ddpm.reverse_steps import ddim_posterior
from diffusion.oracles import GaussianLaw, flow_map_1d
from experiments.verification.closed_forms import STEPS, Matrices, levels, one_step, shared
from experiments.verification.laws import line
from experiments.verification.registry import Measured, OffBy, Setting, Within, identity, relative, worst_of
from experiments.verification.report.plots import Curves
from samplers import DDIM, Ancestral, Sampler


@jax.jit
def _family(process: Process, x_t: jax.Array, x_0: jax.Array, s: float, t: float, stds: jax.Array) -> jax.Array:
    return jax.vmap(lambda std: ddim_posterior(process, x_t, x_0, s, t, std).mean)(stds)


@identity(
    row="12",
    title="DDIM keeps the marginals, whatever noise it adds",
    latex=r"p(x_{t-1}|x_t,x_0) = \mathcal{N}(A_-x_0 + \sqrt{B_-^2-\sigma^2}\,\frac{x_t - A x_0}{B},\ \sigma^2 I),\ "
    r"0\leq\sigma\leq B_-\ \Rightarrow\ x_{t-1}|x_0\sim\mathcal{N}(A_-x_0, B_-^2 I)",
    compared="mean and variance of x_s given x_0 with A x_0 and B², for σ of 0, 0.1, ..., 1 times B, on six processes",
    oracle="α and σ in closed form; the step is affine in the noise, so that ε = ±1 gives both moments",
    source="Song et al. 2021, arXiv:2010.02502, eq. 7 and lemma 1; Su 2022, the fourth post on diffusion models",
    bound=Within(1e-12, "a square root and a few products", roundoffs=200),
    functions=(ddim_posterior,),
)
def _ddim_marginals(setting: Setting) -> Measured:
    shares, found = np.linspace(0, 1, 11), {}
    x_0 = np.random.default_rng(0).normal(size=(1, setting.dim)) * np.ones((2, 1))
    signs, kept = np.asarray([[-1.0], [1.0]]) * np.ones(setting.dim), np.zeros(11)
    for name in ("VP", "SubVP", "VE", "EDM", "RectifiedFlow", "chain"):
        process, (_, s, t) = shared(name), STEPS[name]
        before, after = levels(name, s), levels(name, t)
        stds = shares * before.sigma
        mean = np.asarray(_family(process, after.alpha * x_0 + after.sigma * signs, x_0, s, t, stds), np.float64)
        kept = (0.5 * (mean[:, 1] - mean[:, 0])) ** 2
        found[f"the mean, {name}"] = relative(np.mean(mean, axis=1), before.alpha * x_0[:1] * np.ones((11, 1)))
        found[f"the variance, {name}"] = relative(kept + stds[:, None] ** 2, np.full_like(kept, before.sigma**2))
    lines = {"exact B²": np.full(11, levels("chain", 7).sigma ** 2), "of x_t": kept[:, 0]}
    lines |= {"fresh": lines["exact B²"] * shares**2, "both": kept[:, 0] + lines["exact B²"] * shares**2}
    return worst_of(found, Curves(shares, lines, "σ / B", "variance of the noise"))


@jax.jit
def _run(process: Process, denoise: Partial, sampler: Sampler, x: jax.Array, grid: jax.Array, steps: int) -> jax.Array:
    """The end of the first `steps` steps of a grid, which may be longer, so that one program serves all lengths."""
    keys = keys_lib.sample_keys(jax.random.key(0), jnp.arange(x.shape[0]))

    def one(i: jax.Array, y: jax.Array) -> jax.Array:
        return sampler.step(keys_lib.fold(keys, i + 1), y, (), grid[i], grid[i + 1], process, denoise)[0]

    return jax.lax.fori_loop(0, steps, one, x)


@identity(
    row="13a",
    title="A step of DDIM is the mean of the past that has the same noise",
    latex=r"x_{t-1}^{\mathrm{DDIM}} = \mathbb{E}[x_{t-1}|x_t],\quad x_{t-1} = A_-x_0 + B_-\varepsilon,\ "
    r"x_t = A x_0 + B\varepsilon\ \mathrm{of\ one}\ (x_0,\varepsilon)",
    compared="one step from 5 points with the conditional mean, for correlated Gaussian data on VP and a chain",
    oracle="the joint law of (x_s, x_t) as a matrix, conditioned by hand",
    source="Song et al. 2021, arXiv:2010.02502, eq. 9; Su 2022, the fourth post on diffusion models",
    bound=Within(1e-12, "a linear system on either side", roundoffs=20),
    functions=(DDIM.step,),
    answers=True,
    test="tests/diffusion/ddpm/test_reverse_steps.py",
)
def _ddim_shared_noise(setting: Setting) -> Measured:
    rng, found, d = np.random.default_rng(0), {}, setting.dim
    root = 0.5 * np.eye(d) + 0.3 * rng.normal(size=(d, d)) / np.sqrt(d)
    law, x_t = Matrices(rng.normal(size=d), root @ root.T), rng.normal(size=(5, d))
    for name in ("VP", "chain"):
        process, s, t = STEPS[name]
        alpha, sigma = (np.asarray([getattr(levels(name, u), part) for u in (s, t)]) for part in ("alpha", "sigma"))
        covariance = np.kron(np.outer(alpha, alpha), law.covariance) + np.kron(np.outer(sigma, sigma), np.eye(d))
        joint = Matrices(np.kron(alpha, law.mean), covariance)
        denoise = setting.answered(GaussianLaw.full(law.mean, law.covariance).denoiser(process))
        moved = _run(process, denoise, DDIM(), x_t, np.asarray([t, s], float), 1)
        found[name] = relative(moved, [joint.given(np.arange(d, 2 * d), x).mean for x in x_t])
    return worst_of(found)


@identity(
    row="13b",
    title="DDIM shrinks a Gaussian by a product of cosines",
    latex=r"\frac{\mathrm{std\ of\ the\ samples}}{\sqrt{v}} = \prod_t\cos(\theta_t - \theta_{t-1}),\quad "
    r"\tan\theta_t = \frac{B_t}{A_t\sqrt{v}}",
    compared="the end of 1, 2, 4, ..., 64 steps of DDIM with the product, for data N(0, 0.3) on three processes",
    oracle="angles from α and σ in closed form",
    source="Song et al. 2021, arXiv:2010.02502, eq. 12; Su 2022, the fourth post on diffusion models",
    bound=Within(1e-12, "one product for each step", roundoffs=80),
    functions=(DDIM.step,),
    answers=True,
    test="tests/samplers/test_identities.py",
)
def _ddim_cosines(setting: Setting) -> Measured:
    std, found, curves = np.sqrt(0.3), {}, {}
    for name, counts in {"VP": (1, 2, 4, 8, 16, 32, 64), "RectifiedFlow": (3, 17), "chain": (3, 40)}.items():
        process, shrunk, products = STEPS[name][0], [], []
        denoise = setting.answered(GaussianLaw.isotropic(np.zeros(setting.dim), std).denoiser(process))
        for n in counts:
            grid = np.linspace(1, 0, n + 1) * float(process.t_max)
            grid = np.rint(grid) if name == "chain" else grid
            known = levels(name, grid)
            arrow = np.stack([std * known.alpha, known.sigma])
            length = np.linalg.norm(arrow, axis=0)
            products.append(np.prod(np.sum(arrow[:, 1:] * arrow[:, :-1], axis=0) / (length[1:] * length[:-1])))
            start, padded = np.full((1, setting.dim), length[0]), np.pad(grid, (0, 64 - n), mode="edge")
            shrunk.append(float(_run(process, denoise, DDIM(), start, padded, n)[0, -1]) / std)
        found[name], curves[name] = relative(shrunk, products), (shrunk, products)
    shrunk, products = curves["VP"]
    lines = {"exact product of cosines": products, "DDIM on VP": shrunk}
    return worst_of(found, Curves(2 ** np.arange(7), lines, "steps", "std of samples / data", log_x=True))


@identity(
    row="14a",
    title="DDIM is the probability-flow ODE at order 1",
    latex=r"|x_N - x(0)| = O(N^{-1}),\quad \frac{d}{d\rho}\frac{x}{\alpha} = \mathbb{E}[z|x_t],\quad "
    r"\rho = \frac{\sigma}{\alpha}",
    compared="the slope of ln(error) over ln(1/N) for N = 160, ..., 1280 with 1; σ/α from 5 to 0.05 on VP, 16 points",
    oracle="two Gaussians on the line, whose flow is the map between quantiles",
    source="Song et al. 2021, arXiv:2010.02502, section 4.3; Su 2022, the fourth post on diffusion models",
    bound=Within(0.05, "the next term of the error is smaller by a factor of order 1/N", roundoffs=1),
    functions=(DDIM, flow_map_1d),
    test="tests/samplers/test_order.py",
)
def _ddim_order(setting: Setting) -> Measured:
    process, law, counts = STEPS["VP"][0], line(), np.asarray([160, 320, 640, 1280])
    integral = np.log1p(np.geomspace(5.0, 0.05, 1281) ** 2)
    times = 2 * integral / (0.1 + np.sqrt(0.01 + 39.8 * integral))
    x = levels("VP", times[0]).sigma * np.linspace(-1.5, 1.5, 16)[:, None]
    exact = np.asarray(jax.jit(flow_map_1d)(law, process, x, times[0], times[-1]))
    denoise, errors = law.denoiser(process), []
    for n in counts:
        grid = np.pad(times[:: 1280 // n], (0, 1280 - n), mode="edge")
        end = np.asarray(_run(process, denoise, DDIM(), x, grid, int(n)))
        errors.append(float(np.sqrt(np.mean((end - exact) ** 2))))
    slope = float(-np.polyfit(np.log(counts), np.log(errors), 1)[0])
    lines = {"exact slope 1": errors[0] * counts[0] / counts, "DDIM": errors}
    plot = Curves(counts, lines, "steps", "error", log_x=True, log_y=True)
    return Measured(abs(slope - 1), f"a slope of {slope:.3f}", plot)


@identity(
    row="14b",
    title="DDIM with η = 1 is DDPM",
    latex=r"\sigma^2 = \frac{B_-^2b^2}{B^2}\ \Rightarrow\ \sqrt{B_-^2-\sigma^2}\,\frac{x_t - A x_0}{B} + A_-x_0 = "
    r"\frac{aB_-^2x_t + A_-b^2x_0}{B^2}",
    compared="a step of DDIM with η = 1, and of ancestral sampling, with the posterior, on VP and a chain",
    oracle="the posterior's formula with a, b, A and B in closed form; the same normal draws",
    source="Song et al. 2021, arXiv:2010.02502, section 4.1; Ho et al. 2020, algorithm 2",
    bound=Within(1e-12, "a square root and a few products", roundoffs=20),
    functions=(DDIM.step, Ancestral.step),
    test="tests/samplers/test_identities.py",
)
def _ddim_is_ddpm(setting: Setting) -> Measured:
    x, found = np.random.default_rng(0).normal(size=(5, setting.dim)), {}
    keys = keys_lib.fold(keys_lib.sample_keys(jax.random.key(0), jnp.arange(5)), 1)
    noise = np.asarray(keys_lib.normal(keys, (setting.dim,)), np.float64)
    for name in ("VP", "chain"):
        process, s, t = STEPS[name]
        before, after = levels(name, s), levels(name, t)
        a, b = one_step(before, after)
        mean = (a * before.sigma**2 * x + before.alpha * b**2 * np.sin(x)) / after.sigma**2
        expected, grid = mean + before.sigma * b / after.sigma * noise, np.asarray([t, s], float)
        for sampler in (DDIM(eta=1.0), Ancestral()):
            moved = _run(process, Partial(_sine), sampler, x, grid, 1)
            found[f"{type(sampler).__name__}, {name}"] = relative(moved, expected)
    return worst_of(found)


def _sine(x: jax.Array, t: jax.Array) -> jax.Array:
    return jnp.sin(x)


@identity(
    row="N2",
    title="DDIM may add the noise of the forward step, σ = b",
    latex=r"\sigma_t = b_t\ \mathrm{for\ all}\ t:\quad \frac{b_t^2}{B_{t-1}^2}\leq 1"
    r"\quad(\mathrm{false\ at}\ t = 1, 2, 3)",
    compared="the least excess of b² over B₋² at t = 1, 2, 3 of the default chain, or 0 if the library allows one",
    oracle="the recursion from b² = 0.02 t/1000; at t = 4 there is room, and the library agrees",
    source="Su 2022, the fourth post on diffusion models; Song et al. 2021, arXiv:2010.02502, eq. 7",
    bound=OffBy(1e-5, "at t = 3 it is 1.3e-5: b² = 6e-5 and B₋² = 6e-5 − 8e-10"),
    functions=(ddim_posterior,),
)
def _ddim_with_beta(setting: Setting) -> Measured:
    process, x = Process(Betas.ramp(1000)), jnp.ones((1, setting.dim))
    t = np.arange(1, 13)
    b2 = 0.02 * t / 1000
    room = 1 - np.cumprod(np.append(1.0, 1 - b2[:-1]))
    refused = []
    for k, std in zip(t[:4], np.sqrt(b2), strict=False):
        try:
            ddim_posterior(process, x, x, k - 1, k, std)
        except ValueError:
            refused.append(int(k))
    excess = float(np.min(b2[1:3] / room[1:3])) - 1
    plot = Curves(t[1:], {"exact limit": np.ones(11), "b²/B₋²": b2[1:] / room[1:]}, "t", "noise asked for / there is")
    return Measured(excess if refused == [1, 2, 3] else 0.0, f"refused at t = {refused}, of 1 to 4", plot)
