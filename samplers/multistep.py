"""Multistep exponential integrators: one denoiser call a step, and a polynomial through the last predictions."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from diffusion.keys import Draws
from diffusion.prediction import Denoiser
from diffusion.process import Process
from samplers.exponential import (
    Form,
    Variable,
    exponential_step,
    half_log_snr,
    in_form,
    integral_weights,
    last_values,
    node,
    remember,
    single_step,
    transfer,
)
from samplers.sample import Sampler

Start = Literal["single-step", "lower-order"]


class Multistep(Sampler):
    """What the multistep methods share: the history, the start, and the first order at the ends of time.

    A method of order p needs p − 1 predictions before this one. It starts, with `start` "single-step", by one step of
    order p − 1 that costs p − 2 more denoiser calls, so that it has order p as a whole; with "lower-order" the first
    steps are those of the lower orders, which is free and leaves order 2 for any p > 2, as the first step's error
    does not vanish.
    """

    start: Start
    """How the method starts."""

    @property
    def remembers(self) -> bool:
        """True, except at order 1."""
        return self.order > 1

    @property
    def form(self) -> Form:
        """The prediction that is integrated."""
        raise NotImplementedError

    @property
    def variable(self) -> Variable:
        """The polynomial's variable."""
        raise NotImplementedError

    def coefficients(
        self, process: Process, t: Array, s: Array, nodes: Float[Array, " q"], used: Bool[Array, " q"]
    ) -> Float[Array, " q"]:
        """The weight of each prediction, this step's first."""
        return integral_weights(process, self.form, self.variable, t, s, nodes, used)

    @property
    def extra(self) -> int:
        """The extra denoiser calls of the start."""
        return max(self.order - 2, 0) if self.start == "single-step" else 0

    @property
    def stated_order(self) -> int:
        """`order`, or 2 at most when it starts by the lower orders."""
        return self.order if self.start == "single-step" else min(self.order, 2)

    @property
    def one_call_from_noise(self) -> bool:
        """True: the start is made at the first finite λ."""
        return True

    def nfe(self, steps: int, to_data: bool) -> int:
        """One call a step, and those of the start unless the only step is the one onto the data."""
        return steps + (self.extra if steps - int(to_data) > 0 else 0)

    def check(self, process: Process, grid: np.ndarray) -> None:
        """Raise ValueError for fewer steps than the order needs, or a chain without room for the start's stages."""
        check_steps(self.order, grid)
        if self.extra > 0 and process.schedule.discrete and grid[0] - grid[1] <= self.extra:
            raise ValueError(
                f"the chain has no {self.extra} time(s) between {grid[0]:g} and {grid[1]:g} for the start of order "
                f'{self.order}; use fewer steps, a lower order, or start="lower-order".'
            )

    def init(self, x: Float[Array, "b *event"], grid: Float[Array, " n"]) -> Any:
        """No predictions yet."""
        del grid
        return last_values(x.shape, self.order - 1, x.dtype)

    def step(
        self,
        keys: Draws,
        x: Float[Array, "b *event"],
        carry: Any,
        t: Float[Array, ""],
        s: Float[Array, ""],
        process: Process,
        denoise: Denoiser,
    ) -> tuple[Float[Array, "b *event"], Any]:
        """One multistep update."""
        x_0 = denoise(x, t)
        value = in_form(process, self.form, x, x_0, t)
        places, values, count = carry
        here, starts = node(process, self.variable, t), jnp.isfinite(half_log_snr(process, t))
        inside = starts & (process.sigma(s) > 0)
        # Where λ is infinite the weights are not finite: other times stand in, and their result is discarded.
        safe_t, safe_s = jnp.where(inside, t, 0.7 * process.t_max), jnp.where(inside, s, 0.6 * process.t_max)

        def multistep() -> tuple[Array, Any]:
            nodes = jnp.concatenate([node(process, self.variable, safe_t)[None], places])
            used = jnp.arange(self.order) <= count
            weights = self.coefficients(process, safe_t, safe_s, nodes, used)
            moved = self.advance(keys, x, value, values, weights, safe_t, safe_s, process)
            moved = jnp.where(inside, moved, exponential_step(process, x, x_0, t, s))
            return moved, remember(carry, here, value, starts)

        if self.extra == 0:
            return multistep()

        def begin() -> tuple[Array, Any]:
            moved, place, there = single_step(process, denoise, self.form, x, value, safe_t, safe_s, self.order - 1)
            history = remember(carry, here, value, starts)
            if self.order > 3:  # two predictions, of which the nearer one is remembered last
                history = remember(history, node(process, self.variable, place), there, starts)
            return moved, history

        return jax.lax.cond(inside & (count == 0), begin, multistep)

    def advance(
        self, keys: Draws, x: Array, value: Array, values: Array, weights: Array, t: Array, s: Array, process: Process
    ) -> Array:
        """x_s from this prediction and the last ones."""
        del keys
        return transfer(process, self.form, x, t, s, weights, jnp.concatenate([value[None], values]))


class MultistepSDE(Multistep):
    """What the multistep methods for SDEs share: a polynomial through x̂_0 in λ, begun by the lower orders."""

    start: Start = "lower-order"

    @property
    def stated_order(self) -> int:
        """1, weakly, whatever `order`: x̂_0 is rough along a noisy path."""
        return 1

    @property
    def form(self) -> Form:
        """x̂_0."""
        return "x0"

    @property
    def variable(self) -> Variable:
        """λ."""
        return "log-snr"


def check_steps(order: int, grid: np.ndarray) -> None:
    """Raise ValueError for fewer steps than the order needs."""
    if len(grid) - 1 < order:
        raise ValueError(
            f"grid has {len(grid) - 1} step(s), and order {order} needs at least {order}; "
            "add steps or use a lower order."
        )


def check_order(name: str, order: Any, highest: int) -> None:
    """Raise ValueError unless the order is one of 1 to `highest`."""
    if isinstance(order, int) and not 1 <= order <= highest:
        raise ValueError(f"order = {order}; {name} has the orders 1 to {highest}.")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless the value is one of `choices`."""
    if isinstance(value, str) and value not in choices:
        raise ValueError(f"{name} = {value!r}; choose {' or '.join(choices)}.")
