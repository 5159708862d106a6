"""A solver for one grid alone, whose weights are numbers of its own: a bespoke non-stationary solver."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.arguments import is_traced
from diffusion.keys import Draws
from diffusion.prediction import Denoiser
from diffusion.process import Process
from diffusion.pytree import pytree
from samplers.grids import as_times
from samplers.sample import Sampler


@pytree
class Bespoke(Sampler):
    """x_{i+1} = a_i x_i + Σ_j b_ij x̂_0(x_{i−j}, t_{i−j}), with weights that belong to step i of one grid.

    Every multistep method on x̂_0 is of this form on any one grid, and so are the non-stationary solvers of Shaul et al.
    2024 (arXiv:2403.01329) with a memory of q answers. The numbers are found by `samplers.bespoke_solver`, for one
    denoiser, process and number of steps; where the grid ends at 0 the last step too may take older answers in.
    """

    times: Float[Array, " n"] | Float[np.ndarray, " n"]
    """The N + 1 descending times of its grid."""
    states: Float[Array, " m"] | Float[np.ndarray, " m"]
    """a_i, one for each of the N steps."""
    answers: Float[Array, "m q"] | Float[np.ndarray, "m q"]
    """b_ij, this step's answer first; zero for answers from before the beginning."""

    order: ClassVar[Any] = None
    """None: it exists on one grid, and does not converge."""

    def __post_init__(self) -> None:
        parts = (self.times, self.states, self.answers)
        if not all(isinstance(part, np.ndarray) or hasattr(part, "aval") for part in parts) or is_traced(parts):
            return
        steps = len(self.times) - 1
        if self.states.shape != (steps,) or self.answers.ndim != 2 or len(self.answers) != steps:
            raise ValueError(
                f"a solver of {steps} steps has weights of shapes {self.states.shape} and {self.answers.shape}; "
                f"give ({steps},) and ({steps}, answers)."
            )

    @property
    def remembers(self) -> bool:
        """True: even without older answers, a step depends on its number."""
        return True

    def check(self, process: Process, grid: np.ndarray) -> None:
        """Raise ValueError on any grid but its own."""
        own = as_times(np.asarray(self.times))
        if grid.shape != own.shape or not np.allclose(grid, own, rtol=1e-5, atol=0.0):
            raise ValueError(
                f"this solver's weights belong to its own grid of {len(own) - 1} steps, and the grid given has "
                f"{len(grid) - 1} or other times; give solver.times."
            )

    def init(self, x: Float[Array, "b *event"], grid: Float[Array, " n"]) -> Any:
        """(The number of the step, no answers yet.)"""
        del grid
        return jnp.asarray(0), jnp.zeros((self.answers.shape[1] - 1, *x.shape), x.dtype)

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
        """The step whose number the carry has."""
        del keys, s, process
        index, last = carry
        known = jnp.concatenate([denoise(x, t)[None], last])
        own, others = jnp.asarray(self.states, x.dtype)[index], jnp.asarray(self.answers, x.dtype)[index]
        return own * x + jnp.tensordot(others, known, axes=1), (index + 1, known[:-1])
