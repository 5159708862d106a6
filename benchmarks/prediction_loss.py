"""What to predict and what to compare: {x, ε, v} predictions × {x, ε, v} losses, for docs/benchmarks.md.

    python benchmarks/prediction_loss.py --column 16 --seconds 240 --json table.json    one column, 1.8 hours
    python benchmarks/prediction_loss.py --table --json table.json                      all columns that are there

The columns are a spiral in a plane that lies at random in D = 2, 16, 128 or 512 dimensions, for a perceptron of width
256, as in figure 2 of Li & He 2025 (arXiv:2511.13720), and the handwritten digits, for a small transformer. Under
x_t = (1 − t) x_0 + t ε, v = ε − x_0, each prediction gives the two others, and a division by t or 1 − t is one by at
least 0.05, as in their code. The 9 cells × 3 seeds of a column are trained side by side, on the same data and noise,
for as many steps in 27 × SECONDS as the machine has time for.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Key

from diffusion import Process, RectifiedFlow, perturb
from diffusion.distances import sliced_wasserstein
from diffusion.networks import DiTConfig, MLPConfig, Network
from diffusion.prediction import Preconditioning, network_input, target
from diffusion.score_matching import LogNormalSigma, SNRWeighting, UniformWeighting, VelocityWeighting
from experiments.data.sources import plane
from samplers import Heun, sample, uniform_time

PROCESS = Process(RectifiedFlow())
TIMES = LogNormalSigma(mean=0.0, std=1.0)
FLOOR = 0.05
KINDS = ("x0", "eps", "velocity")
NAMES = {"x0": "x", "eps": "ε", "velocity": "v"}
SEEDS = 3
COLUMNS = ("2", "16", "128", "512", "digits")
CHUNK = 20
RATE = 1e-3
"""Adam's, falling to 0 as a cosine."""


class Problem(NamedTuple):
    """Data, a network, and how samples are judged."""

    data: Float[np.ndarray, "n ..."]
    held_out: Float[np.ndarray, "m ..."]
    frame: Float[np.ndarray, "d 2"] | None
    network: Network
    sigma_data: float
    batch: int


def problem(column: str) -> Problem:
    """The problem of a column: a dimension, or the digits."""
    if column == "digits":
        from sklearn.datasets import load_digits

        images, _ = load_digits(return_X_y=True)
        images = (images.reshape(-1, 8, 8, 1) / 8 - 1).astype(np.float32)[np.random.default_rng(0).permutation(1797)]
        config = DiTConfig(
            patch=2, width=64, depth=2, heads=4, positions="both", qk_norm=True, mlp="swiglu", norm="rms"
        )
        return Problem(images[:1297], images[1297:], None, Network(config, (8, 8, 1)), float(images.std()), 64)
    dim = int(column)
    points = plane.draw(plane.law("spirals"), 41_000)
    points = (points - points.mean(0)) / points.std()
    frame = np.linalg.qr(np.random.default_rng(1).standard_normal((dim, 2)))[0].astype(np.float32)
    network = Network(MLPConfig(hidden=256, layers=3), (dim,))
    return Problem(points[:40_000] @ frame.T, points[40_000:] @ frame.T, frame, network, (2 / dim) ** 0.5, 256)


def factors(t: Float[Array, " b"]) -> Float[Array, "3 3 b"]:
    """m[prediction, loss](t), so that the loss is m |y − ŷ|² of the prediction y itself.

    For x they are the weightings of the library; ε has x = (x_t − t ε)/(1 − t), v has x = x_t − t v.
    """
    alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
    of_x = [
        weighting.weight(PROCESS, t)
        for weighting in (UniformWeighting(), SNRWeighting(FLOOR), VelocityWeighting(FLOOR))
    ]
    bounded = jnp.maximum(alpha, FLOOR)
    of_eps = [(sigma / bounded) ** 2, jnp.ones_like(t), 1 / bounded**2]
    return jnp.stack([jnp.stack(of_x), jnp.stack(of_eps), jnp.stack([sigma**2, alpha**2, jnp.ones_like(t)])])


def denoised(raw: Array, x: Array, t: Array, prediction: Array) -> Array:
    """x̂ from a network's answer of one of the three kinds, by its number."""
    alpha, sigma = (f(t).reshape(-1, *[1] * (x.ndim - 1)) for f in (PROCESS.alpha, PROCESS.sigma))
    return jnp.stack([raw, (x - sigma * raw) / jnp.maximum(alpha, FLOOR), x - sigma * raw])[prediction]


def answer(it: Problem, params: Any, x: Array, t: Array) -> Array:
    """What the network says at x_t = x."""
    return it.network(params, *network_input(Preconditioning("x0", it.sigma_data), PROCESS, x, t))


def loss(it: Problem, params: Any, key: Key[Array, ""], data: Array, prediction: Array, kind: Array) -> Array:
    """The loss of one cell on a batch of its own seed and step."""
    keys = jax.random.split(key, 3)
    x_0 = data[jax.random.randint(keys[0], (it.batch,), 0, len(data))]
    t = TIMES.quantile(PROCESS, (jax.random.uniform(keys[1]) + jnp.arange(it.batch) / it.batch) % 1.0 * 0.9998 + 1e-4)
    z = jax.random.normal(keys[2], x_0.shape)
    x_t = perturb(PROCESS, x_0, z, t)
    wanted = jnp.stack([target(PROCESS, x_0, z, t, name) for name in KINDS])[prediction]
    error = jnp.mean((wanted - answer(it, params, x_t, t)) ** 2, axis=tuple(range(1, x_0.ndim)))
    return jnp.mean(factors(t)[prediction, kind] * error)


def trained(it: Problem, seconds: float, steps: int | None) -> tuple[Any, int]:
    """The parameters of the 27 trainings, (9, 3, ...), and their number of steps."""
    predictions, kinds = jnp.arange(9) // 3, jnp.arange(9) % 3
    optimiser = optax.scale_by_adam()
    seeds = jax.vmap(jax.random.key)(jnp.arange(SEEDS))
    one_cell = jax.vmap(it.network.init)(seeds)
    params = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (9, *leaf.shape)), one_cell)
    data = jnp.asarray(it.data)

    def one(params: Any, state: Any, seed: Array, step: Array, rate: Array, prediction: Array, kind: Array) -> Any:
        gradient = jax.grad(lambda p: loss(it, p, jax.random.fold_in(seed, step), data, prediction, kind))(params)
        updates, state = optimiser.update(gradient, state)
        return jax.tree.map(lambda p, u: p - rate * u, params, updates), state

    every: Any = jax.vmap(jax.vmap(one, (0, 0, 0, None, None, None, None)), (0, 0, None, None, None, 0, 0))

    @jax.jit
    def chunk(params: Any, state: Any, start: Array, total: Array) -> Any:
        def body(carry: Any, step: Array) -> Any:
            rate = RATE * 0.5 * (1 + jnp.cos(jnp.pi * step / total))
            return every(*carry, seeds, step, rate, predictions, kinds), None

        return jax.lax.scan(body, (params, state), start + jnp.arange(CHUNK))[0]

    state = jax.vmap(jax.vmap(optimiser.init))(params)
    jax.block_until_ready(chunk(params, state, jnp.int32(0), jnp.float32(CHUNK)))
    begun = time.perf_counter()
    jax.block_until_ready(chunk(params, state, jnp.int32(0), jnp.float32(CHUNK)))
    chunks = 9 * SEEDS * seconds / (time.perf_counter() - begun) if steps is None else steps / CHUNK
    total = CHUNK * max(1, round(chunks))
    for start in range(0, total, CHUNK):
        params, state = chunk(params, state, jnp.int32(start), jnp.float32(total))
    return params, total


def judged(it: Problem, x: Float[np.ndarray, "n ..."]) -> tuple[float, float]:
    """Sliced Wasserstein distance to held-out data, in the plane if there is one, and the distance from the plane."""
    key, other = jax.random.key(7), it.held_out
    if it.frame is None:
        return float(sliced_wasserstein(key, x, other)), 0.0
    inside = x @ it.frame
    outside = float(np.sqrt(np.mean(np.sum((x - inside @ it.frame.T) ** 2, axis=1))))
    return float(sliced_wasserstein(key, inside, other @ it.frame)), outside


def measured(column: str, seconds: float, steps: int | None = None) -> dict[str, Any]:
    """A column of the table: for each cell, the two numbers of each seed."""
    it = problem(column)
    params, taken = trained(it, seconds, steps)
    count = len(it.held_out)

    def denoise(params: Any, prediction: Array, x: Array, t: Array) -> Array:
        times = jnp.broadcast_to(t, (len(x),))
        return denoised(answer(it, params, x, times), x, times, prediction)

    rows: dict[str, Any] = {"data": judged(it, it.data[:count])}
    for cell, (prediction, kind) in enumerate(np.ndindex(3, 3)):
        found = []
        for seed in range(SEEDS):
            own = jax.tree.map(lambda leaf, at=(cell, seed): leaf[at], params)
            model = Partial(denoise, own, jnp.int32(prediction))
            drawn = sample(
                jax.random.key(seed), PROCESS, model, Heun(), uniform_time(PROCESS, 25), (count, *it.data.shape[1:])
            )
            found.append(judged(it, np.asarray(drawn.x)))
        rows[f"{NAMES[KINDS[prediction]]} {NAMES[KINDS[kind]]}"] = found
    return {"steps": taken, "rows": rows}


def table(found: dict[str, Any]) -> str:
    """The columns as Markdown, mean ± standard deviation over the seeds; distance in the plane / from it."""
    columns = [column for column in COLUMNS if column in found]
    heads = [f"{'D = ' if c != 'digits' else ''}{c} ({found[c]['steps']} steps)" for c in columns]
    lines = [f"| prediction | loss | {' | '.join(heads)} |", "|---|---|" + "---|" * len(columns)]

    def shown(column: str, cell: str) -> str:
        numbers = np.atleast_2d(found[column]["rows"][cell])
        mean, spread = numbers.mean(0), numbers.std(0, ddof=1) if len(numbers) > 1 else np.zeros(2)
        one = [f"{m:.3f}" + (f" ± {s:.3f}" if len(numbers) > 1 else "") for m, s in zip(mean, spread, strict=True)]
        return one[0] if column in ("2", "digits") else " / ".join(one)

    for prediction in NAMES.values():
        for kind in NAMES.values():
            cells = [shown(column, f"{prediction} {kind}") for column in columns]
            lines.append(f"| {prediction} | {kind} | {' | '.join(cells)} |")
    lines.append(f"| training data | | {' | '.join(shown(column, 'data') for column in columns)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure a column and keep it, or print those that are kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--column", choices=COLUMNS, help="what is measured")
    parser.add_argument("--seconds", type=float, default=240.0, help="seconds of training for each cell and seed")
    parser.add_argument("--steps", type=int, help="steps of training, whatever time they take")
    parser.add_argument(
        "--json", type=pathlib.Path, default=pathlib.Path("prediction_loss.json"), help="where it is kept"
    )
    parser.add_argument("--table", action="store_true", help="print the table of what is kept")
    told = parser.parse_args()
    found = json.loads(told.json.read_text()) if told.json.exists() else {}
    if told.column:
        found[told.column] = measured(told.column, told.seconds, told.steps)
        told.json.write_text(json.dumps(found))
    if told.table or not told.column:
        print(table(found))


if __name__ == "__main__":
    main()
