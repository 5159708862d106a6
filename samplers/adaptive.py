"""Steps that choose themselves: any diffrax solver on the probability-flow ODE, or on a reverse SDE.

The only part of the samplers that imports more than JAX: `pip install 'scorefield[adaptive]'`. Each sample has steps of
its own, so it is a function of its seed alone here too; a batch takes as many rounds as its slowest sample.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

from diffusion import keys as keys_lib
from diffusion.arguments import as_denoiser, kind_of, require_process
from diffusion.arrays import expand
from diffusion.dynamics import reverse_drift_from_x0, velocity_from_x0
from diffusion.host import host_float64
from diffusion.noises import require_gaussian
from diffusion.prediction import Denoiser
from diffusion.process import Process
from diffusion.pytree import as_traced, is_concrete, pytree
from samplers import streams
from samplers.one_by_one import one_by_one
from samplers.sample import check_batch, initial_state, require_continuous
from samplers.sde import check_level


@pytree
class AdaptiveSampled:
    """What `sample_adaptive` returns."""

    x: Float[Array, "b *event"]
    """The samples."""
    accepted: Int[Array, " b"]
    """The steps taken."""
    rejected: Int[Array, " b"]
    """The steps rejected, whose error estimates were too large."""
    nfe: Int[Array, " b"] | None
    """The denoiser calls for each sample; None under a trace, and for implicit solvers, which are not counted."""
    arrived: Bool[Array, " b"]
    """Whether each sample reached the end within the steps allowed, for a trace, where nothing is raised."""


def sample_adaptive(
    key: Key[Array, ""],
    process: Process,
    denoise: Denoiser,
    solver: diffrax.AbstractSolver,
    shape: tuple[int, ...],
    *,
    rtol: ArrayLike = 1e-4,
    atol: ArrayLike = 1e-4,
    level: float = 0.0,
    t_start: float | None = None,
    t_end: float | None = None,
    to_data: bool = True,
    controller: diffrax.AbstractStepSizeController | None = None,
    first_step: float | None = None,
    max_steps: int = 4096,
    ids: ArrayLike | None = None,
    x_init: ArrayLike | None = None,
) -> AdaptiveSampled:
    """Samples of shape (b, *event) by a diffrax solver, from the prior at `t_start` down to `t_end`.

    With `level` 0 it solves dx/dt = α' x̂_0 + σ' ε̂ (Song et al. 2021, eq. 13), for any noise; with more, the reverse SDE
    with σ̃ = level · g (eq. 6 at 1) along a virtual Brownian tree, for Gaussian noise. Steps keep the error in t, by
    the solver's own estimate, below atol + rtol |x| in the root mean square over one sample. A solver without an error
    estimate, such as `diffrax.Euler()`, takes a `controller`, such as `diffrax.ConstantStepSize()` with `first_step`.

    `t_start` and `t_end` are the process's t_max and t_min unless given. `to_data` ends with the denoiser's answer at
    t_end, one more call. `ids` and `x_init` are as in `sample`. Tolerances and times are traced, `max_steps` is not.

    Raises ValueError when a sample needs more than `max_steps` steps, and for options that do not fit; TypeError on a
    discrete chain, for an SDE with other noise than Gaussian, and for an argument of another type.
    """
    require_continuous(require_process(process), "sample_adaptive")
    _check_solver(solver, level, rtol=rtol, atol=atol)
    shape, ids, x_init = check_batch(key, shape, ids, x_init)
    start, end = _ends(process, t_start, t_end, level)
    stochastic = level > 0
    controller = _default_controller(solver, rtol, atol, stochastic) if controller is None else controller
    kind = jnp.result_type(float)
    first = None if first_step is None else jnp.asarray(first_step, kind)
    x, steps, rejected, arrived = _solve(
        key=key,
        ids=jnp.asarray(ids),
        process=as_traced(process),
        denoise=as_traced(as_denoiser(denoise)),
        solver=solver,
        controller=controller,
        times=jnp.asarray([start, end], kind),
        x_init=x_init,
        level=jnp.asarray(level, kind),
        stochastic=stochastic,
        first_step=first,
        shape=shape,
        to_data=to_data,
        max_steps=max_steps,
    )
    if isinstance(arrived, Tracer):
        return AdaptiveSampled(x, steps - rejected, rejected, None, arrived)
    if not bool(arrived.all()):
        which = np.asarray(ids)[~np.asarray(arrived)]
        raise ValueError(
            f"{len(which)} of {shape[0]} samples, {which[0]} the first, did not arrive in max_steps = {max_steps}; "
            "allow more steps, or larger tolerances."
        )
    calls = calls_of(solver, controller, first_step, stochastic)
    nfe = None if calls is None else calls[0] + calls[1] * steps + int(to_data)
    return AdaptiveSampled(x, steps - rejected, rejected, nfe, arrived)


def _check_solver(solver: Any, level: float, **tolerances: ArrayLike) -> None:
    """Raise TypeError for what is no diffrax solver, ValueError for a negative level or tolerance."""
    if not isinstance(solver, diffrax.AbstractSolver):
        raise TypeError(f"solver is {kind_of(solver)}; give a diffrax solver, such as diffrax.Tsit5().")
    check_level(level)
    for name, value in tolerances.items():
        if is_concrete(value) and not value >= 0:  # pyright: ignore[reportOperatorIssue]
            raise ValueError(f"{name} = {value}; give 0 or more, such as 1e-4.")


def _default_controller(
    solver: diffrax.AbstractSolver, rtol: ArrayLike, atol: ArrayLike, stochastic: bool
) -> diffrax.PIDController:
    """A controller by the solver's error estimate, with gentler gains for an SDE. Raises ValueError without one."""
    if not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise ValueError(
            f"{type(solver).__name__} does not estimate its error, so it cannot choose its steps; "
            "give controller=diffrax.ConstantStepSize() and a first_step, or another solver, such as diffrax.Tsit5()."
        )
    gains: dict[str, Any] = {"pcoeff": 0.1, "icoeff": 0.3} if stochastic else {}
    return diffrax.PIDController(rtol=jnp.asarray(rtol), atol=jnp.asarray(atol), **gains)


def _ends(process: Process, t_start: float | None, t_end: float | None, level: float) -> tuple[float, float]:
    """(t_start, t_end). Raises ValueError where there is nothing between them, or g is infinite at the start."""
    t_max = float(process.t_max)
    start = t_max if t_start is None else float(t_start)
    end = float(process.t_min) if t_end is None else float(t_end)
    if not 0 <= end < start <= t_max * (1 + 1e-6):
        raise ValueError(f"t_start = {start:g} and t_end = {end:g}; give times of [0, {t_max:g}], t_end the smaller.")
    with host_float64():
        clean = float(process.sigma(end)) == 0
    if clean:
        raise ValueError(
            f"t_end = {end:g} is the data, where the score is infinite; end just above, at {t_max / 1000:g}."
        )
    if level > 0:
        require_gaussian(process.noise, "the reverse SDE")
        if process.schedule.is_noise_at(start):
            raise ValueError(
                f"t_start = {start:g} has α = 0 and an infinite g; start just below, at t_start={0.999 * start:g}."
            )
    return start, end


def _terms(
    process: Process, ask: Callable[[Array, Array], Array], level: Array, event: tuple[int, ...], brownian: Any
) -> Any:
    """The equation in u = −t, which rises: dy = −drift du + σ̃ dW, y the flattened event."""

    def slope(u: Any, y: Any, args: Any) -> Array:
        del args
        x, t = y.reshape(1, *event), jnp.asarray(-u, y.dtype)
        x_0 = ask(x[0], t)[None]
        if brownian is None:
            return -velocity_from_x0(process, x, x_0, t).reshape(y.shape)
        return -reverse_drift_from_x0(process, x, x_0, t, level).reshape(y.shape)

    if brownian is None:
        return diffrax.ODETerm(slope)

    def spread(u: Any, y: Any, args: Any) -> Any:
        del args
        size = level * jnp.sqrt(process.schedule.diffusion_squared(jnp.asarray(-u, y.dtype)))
        return lineax.DiagonalLinearOperator(jnp.broadcast_to(size, y.shape))

    return diffrax.MultiTerm(diffrax.ODETerm(slope), diffrax.ControlTerm(spread, brownian))


def _brownian(solver: Any, start: Any, end: Any, size: int, key: Array) -> diffrax.VirtualBrownianTree:
    """W on [start, end], with the Lévy areas that the solver needs."""
    area = getattr(solver, "minimal_levy_area", diffrax.BrownianIncrement)
    for kind in (diffrax.BrownianIncrement, diffrax.SpaceTimeLevyArea, diffrax.SpaceTimeTimeLevyArea):
        if issubclass(kind, area):
            area = kind
            break
    length = jnp.asarray(end) - jnp.asarray(start)
    return diffrax.VirtualBrownianTree(start, end, length * 2.0**-20, (size,), key, levy_area=area)


@eqx.filter_jit
def _solve(
    key: Array,
    ids: Array,
    process: Process,
    denoise: Denoiser,
    solver: Any,
    controller: Any,
    times: Array,
    x_init: Array | None,
    level: Array,
    stochastic: bool,
    first_step: Array | None,
    shape: tuple[int, ...],
    to_data: bool,
    max_steps: int,
) -> tuple[Array, Array, Array, Array]:
    keys, event = keys_lib.sample_keys(key, ids), shape[1:]
    x = initial_state(keys, process, shape, times[0], x_init)
    start, end = -times[0], -times[1]
    ask = one_by_one(denoise, shape[0])

    def one(i: Array, key: Array, y: Array) -> tuple[Array, Array, Array, Array]:
        brownian = _brownian(solver, start, end, y.shape[0], key) if stochastic else None
        solution = diffrax.diffeqsolve(
            _terms(process, functools.partial(ask, i), level, event, brownian),
            solver,
            start,
            end,
            first_step,
            y,
            stepsize_controller=controller,
            max_steps=max_steps,
            throw=False,
        )
        assert solution.ys is not None
        arrived = solution.result == diffrax.RESULTS.successful
        return solution.ys[0], solution.stats["num_steps"], solution.stats["num_rejected_steps"], arrived

    paths, rows = keys_lib.fold(keys, streams.PATH), x.reshape(shape[0], -1)
    ends, steps, rejected, arrived = jax.vmap(one)(jnp.arange(shape[0]), paths, rows)
    x = ends.reshape(shape)
    if to_data:
        x = expand(process.alpha(jnp.zeros_like(times[1])), x) * denoise(x, times[1]).astype(x.dtype)
    return x, steps, rejected, arrived


def calls_of(solver: Any, controller: Any, first_step: Any, stochastic: bool) -> tuple[int, int] | None:
    """(calls before the first step, calls a step) of a solver's drift; None when they vary.

    Counted on a linear equation, since what a solver reuses from step to step is its own affair.
    """
    if isinstance(solver, diffrax.AbstractImplicitSolver):
        return None
    name = (repr(solver), type(controller), first_step is None, stochastic)
    if name not in _CALLS:
        _CALLS[name] = _count_calls(solver, controller, first_step, stochastic)
    return _CALLS[name]


_CALLS: dict[Any, tuple[int, int]] = {}
"""The counts so far."""
_FAR = 50.0
"""Where the longest of the counted solutions ends."""


def _count_calls(solver: Any, controller: Any, first_step: Any, stochastic: bool) -> tuple[int, int]:
    counts: list[int] = []

    def slope(t: Any, y: Any, args: Any) -> Array:
        jax.debug.callback(lambda: counts.append(1))
        return -y

    terms: Any = diffrax.ODETerm(slope)
    if stochastic:
        one = lineax.DiagonalLinearOperator(jnp.ones(1))
        noise = diffrax.ControlTerm(lambda t, y, args: one, _brownian(solver, 0.0, _FAR, 1, jax.random.key(0)))
        terms = diffrax.MultiTerm(terms, noise)

    @eqx.filter_jit
    def solve(end: Array, controller: Any, first: Any) -> Array:
        solution = diffrax.diffeqsolve(
            terms, solver, 0.0, end, first, jnp.ones(1), stepsize_controller=controller, max_steps=64, throw=False
        )
        return solution.stats["num_steps"]

    def run(end: float, controller: Any, first: Any) -> tuple[int, int]:
        counts.clear()
        steps = int(solve(jnp.asarray(end), controller, None if first is None else jnp.asarray(first)))
        jax.effects_barrier()
        return len(counts), steps

    if isinstance(controller, diffrax.PIDController):
        # Any tolerance starts the same way, and a longer way takes more steps: one program tells both.
        controller = diffrax.PIDController(rtol=0.1, atol=0.1)
        (few, two), (calls, steps) = (run(end, controller, first_step) for end in (0.5, _FAR))
        each = (calls - few) // (steps - two)
    else:
        (few, two), (many, four) = (run(end, diffrax.ConstantStepSize(), 0.25) for end in (0.5, 1.0))
        each = (many - few) // (four - two)
        calls, steps = run(1.0, controller, first_step)
    return calls - each * steps, each
