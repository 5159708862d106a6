"""What a probe of the Fokker-Planck residuals costs by dimension: python benchmarks/residuals.py

A divergence is exact with d products of the Jacobian and estimated with one for each probe; a product costs a constant
number of evaluations of the density, so a probe costs O(d). Medians over rounds, all dimensions in turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
from jax.tree_util import Partial

from diffusion import VP, Process
from diffusion.fokker_planck import forward_equation, gradient, log_density_residual, score_residual
from diffusion.likelihood import Hutchinson
from diffusion.oracles import GaussianMixture

DIMENSIONS = (256, 1024, 4096, 16384)
BATCH, PROBES, ROUNDS = 16, (1, 9), 7


def runs(dim: int) -> dict[tuple[str, int], Callable[[], jax.Array]]:
    """The compiled residuals by (form, number of probes)."""
    process, rng = Process(VP()), np.random.default_rng(0)
    law = GaussianMixture.isotropic(rng.normal(size=(3, dim)) / np.sqrt(dim), np.asarray([0.5, 0.6, 0.7]))
    ln_p = Partial(lambda x, t: law.log_prob(process, x, t))
    x = law.sample_marginal(jax.random.key(0), process, BATCH, 0.4)
    equation = forward_equation(process)
    forms = {
        "log-density": lambda y, method: log_density_residual(equation, ln_p, y, 0.4, method=method, key=KEY).value,
        "score": lambda y, method: score_residual(equation, gradient(ln_p), y, 0.4, method=method, key=KEY).value,
    }
    found = {}
    for (name, form), count in ((pair, count) for pair in forms.items() for count in PROBES):
        run = jax.jit(lambda y, form=form, count=count: form(y, Hutchinson(count)))
        jax.block_until_ready(run(x))
        found[name, count] = lambda run=run: run(x)
    return found


KEY = jax.random.key(1)


def main() -> None:
    """Print milliseconds for one more probe, and the power of d that they grow by."""
    everything = {dim: runs(dim) for dim in DIMENSIONS}
    seconds: dict[tuple[int, str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for dim, found in everything.items():
            for (name, count), run in found.items():
                start = time.perf_counter()
                jax.block_until_ready(run())
                seconds.setdefault((dim, name, count), []).append(time.perf_counter() - start)
    few, many = PROBES
    print(f"| form | {' | '.join(f'd = {dim}, ms' for dim in DIMENSIONS)} | grows as d to the |")
    print("|---" * (len(DIMENSIONS) + 2) + "|")
    for name in ("log-density", "score"):
        probe = [
            (statistics.median(seconds[dim, name, many]) - statistics.median(seconds[dim, name, few])) / (many - few)
            for dim in DIMENSIONS
        ]
        power = np.polyfit(np.log(DIMENSIONS[1:]), np.log(np.maximum(probe[1:], 1e-9)), 1)[0]
        print(f"| {name} | {' | '.join(f'{1e3 * one:.3f}' for one in probe)} | {power:.2f} |")


if __name__ == "__main__":
    main()
