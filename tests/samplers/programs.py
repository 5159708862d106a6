"""What lets tests share a compiled program: one process for several schedules, and denoisers asked in one piece."""

import functools

import jax
import jax.numpy as jnp

from diffusion import EDM, VP, Process, RectifiedFlow
from experiments.verification.chosen import OneOf

CONTINUOUS = (VP(), EDM(), RectifiedFlow())


def chosen(schedule, among=CONTINUOUS):
    """The process of a schedule, which the program is told as a number where it is one of these."""
    if schedule in among:
        return Process(OneOf(among, jnp.int32(among.index(schedule))))
    return Process(schedule)


@jax.jit
def answers(functions, x, t):
    """Those of several denoisers or covariances, which are Partials, in one program."""
    return [function(x, t) for function in functions]


def answer(function, x, t):
    """That of one."""
    return answers([function], x, t)[0]


def bent(x, t):
    """A denoiser that is linear in nothing: enough where no law is needed, and quick to compile."""
    return jnp.tanh(x) + 0.1 * jnp.cos(t)


@jax.jit
def coefficients(process, t):
    """(α, σ), in one program."""
    return process.alpha(t), process.sigma(t)


@functools.partial(jax.jit, static_argnames="count")
def marginal(law, key, process, count, t):
    """Samples of x_t, in one program."""
    return law.sample_marginal(key, process, count, t)
