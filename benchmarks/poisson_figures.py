"""The pictures of docs/poisson.md: digits flow along field lines to the hemisphere; what the extra dimension is for.

    python benchmarks/poisson_figures.py docs

Field and lines are those of scikit-learn's 1,797 digits as charges in 64 + 1 dimensions, exact; nothing is trained.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.oracles import Atoms
from diffusion.poisson import ball_field, field_lines, law_flow, shell_field
from experiments.data import open_source
from experiments.data.scaling import to_model

COLOURS = ("#0b62a4", "#c1272d", "#3a7d34", "#8a5a9e", "#b8860b", "#d1608f", "#4d4d4d", "#1aa3a3", "#e07b00", "#7a5230")
HEMISPHERE = 24.0
"""Its radius; the digits lie within 8 of their mean."""
STRIP = (0.01, 0.1, 0.3, 0.6, 1.5, 4.0)
"""Heights z at which a digit is shown."""


def main() -> None:
    """Write the pictures to a folder."""
    import matplotlib

    matplotlib.use("Agg")
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    source = open_source("digits")
    assert source.labels is not None
    images, first = to_model(source.images), [int(np.argmax(source.labels == digit)) for digit in range(10)]
    law = Atoms(images.reshape(len(images), -1).astype(np.float64))
    with jax.enable_x64(True):
        _digits(law, np.asarray(first), folder / "poisson-digits.png")
        _disc(folder / "poisson-disc.png")
        _shell(folder / "poisson-shell.png")


def _digits(law: Atoms, rows: np.ndarray, file: Path) -> None:
    import matplotlib.pyplot as plt

    points = np.asarray(law.points)
    # As much field leaves a charge in every direction of the half sphere above it: Cauchy's law at z = 0.01.
    keys = jax.random.split(jax.random.key(11))
    sideways = jax.random.normal(keys[0], (len(rows), 64)) / jnp.abs(jax.random.normal(keys[1], (len(rows), 1)))
    radii = np.geomspace(0.01, HEMISPHERE, 161)
    lines = np.asarray(field_lines(law_flow(law), jnp.asarray(points[rows]) + 0.01 * sideways, radii, substeps=4).x)
    figure = plt.figure(figsize=(11.5, 5.2), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=(1.2, 1))
    left, right = parts
    _fan(left.subplots(), lines - points.mean(0), radii)
    panels = right.subplots(6, len(STRIP))
    for digit in range(6):
        for panel, height in zip(panels[digit], STRIP, strict=True):
            picture = lines[int(np.argmin(np.abs(radii - height))), digit].reshape(8, 8)
            panel.imshow((picture - picture.min()) / np.ptp(picture), cmap="gray")
            panel.set(xticks=[], yticks=[])
            for spine in panel.spines.values():
                spine.set_color(COLOURS[digit])
                spine.set_linewidth(2)
    for panel, height in zip(panels[0], STRIP, strict=True):
        panel.set_title(f"z = {height:g}", fontsize=9)
    right.suptitle("What moves along six of them, greys stretched", fontsize=11)
    left.suptitle("Ten digits along field lines of 1,797 charges, out to the hemisphere", fontsize=11)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _fan(panel: Any, gaps: np.ndarray, radii: np.ndarray) -> None:
    """The lines by z and by the distance sideways, on the left and on the right in turn."""
    for digit, colour in enumerate(COLOURS):
        sideways = np.sqrt(np.sum(gaps[:, digit] ** 2, axis=1)) * (-1) ** digit
        inside = np.hypot(sideways, radii) <= HEMISPHERE
        x, z = sideways[inside], radii[inside]
        panel.plot(x, z, color=colour, linewidth=1.5)
        panel.plot(x[0], z[0], "o", color=colour, markersize=4)
        panel.plot(x[-1], z[-1], "o", color=colour, markersize=4)
        panel.annotate(
            str(digit), (x[-1], z[-1]), (9 * (-1) ** digit, -3), textcoords="offset points", color=colour, ha="center"
        )
    angle = np.linspace(0.0, np.pi, 400)
    panel.plot(HEMISPHERE * np.cos(angle), HEMISPHERE * np.sin(angle), color="#9a9a9a", linestyle=":")
    panel.set(
        xlabel="distance from the mean digit, in 64 dimensions (even digits right, odd left)",
        ylabel="z, the extra dimension (stretched fivefold)",
        xlim=(-1.15 * HEMISPHERE, 1.15 * HEMISPHERE),
        ylim=(0, 0.3 * HEMISPHERE),
    )
    panel.grid(True, color="#e4e4e4", linewidth=0.8)
    panel.spines[["top", "right"]].set_visible(False)


def _disc(file: Path) -> None:
    """A disc of charges: without the extra dimension all lines from afar lead to its centre."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(11.5, 4.0), layout="constrained")
    x = np.linspace(-1.8, 1.8, 41)
    grid = jnp.asarray(np.stack(np.meshgrid(x, x), -1).reshape(-1, 2))
    field = -np.asarray(ball_field(grid)).reshape(41, 41, 2)
    panels[0].streamplot(x, x, field[..., 0], field[..., 1], color=COLOURS[0], linewidth=0.8, density=1.1)
    panels[0].set_title("the field in the plane of the disc")

    angle = 2 * np.pi * np.arange(600) / ((1 + np.sqrt(5)) / 2)
    charges = np.sqrt((np.arange(600) + 0.5) / 600)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    # Back along the plane field from |x| = 3: ends at the centre, for inside dx/ds is a multiple of −x.
    far = 3 * jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], 1))
    ends = jax.lax.fori_loop(0, 4000, lambda _, y: y - 0.02 * ball_field(y), far)
    panels[1].plot(*charges.T, ".", color="#c8c8c8", markersize=3, label="the data")
    panels[1].plot(*np.asarray(ends).T, "o", color=COLOURS[1], markersize=5, label="600 lines' ends")
    panels[1].set_title("followed back: one point")

    law, height = Atoms(charges), 100.0
    # What comes from the data above the hyperplane z = 100: Cauchy's law, the field's own.
    keys = jax.random.split(jax.random.key(0))
    start = height * jax.random.normal(keys[0], (600, 2)) / jnp.abs(jax.random.normal(keys[1], (600, 1)))
    back = field_lines(law_flow(law), start, np.geomspace(height, 1e-3, 121), substeps=4).x[-1]
    panels[2].plot(*charges.T, ".", color="#c8c8c8", markersize=3)
    panels[2].plot(*np.asarray(back).T, ".", color=COLOURS[1], markersize=5)
    panels[2].set_title("followed back from z = 100: the disc")
    for panel in panels:
        panel.set_aspect("equal")
        panel.set(xlim=(-1.8, 1.8), ylim=(-1.8, 1.8))
        panel.spines[["top", "right"]].set_visible(False)
    panels[1].legend(frameon=False, loc="lower left")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _shell(file: Path) -> None:
    """Half of the charge on a shell and half at its centre: without the extra dimension the shell is never drawn."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(11.5, 4.0), layout="constrained")
    dims, shares, errors = (2, 3, 8, 32, 64), [], []
    for dim in dims:
        keys = jax.random.split(jax.random.key(dim), 3)
        charges = np.asarray(jax.random.normal(keys[0], (800, dim)))
        charges = charges / np.linalg.norm(charges, axis=1, keepdims=True)
        law = Atoms(np.concatenate([charges, np.zeros((1, dim))]), np.append(np.full(800, 1 / 1600), 0.5))
        height = 100.0
        start = height * jax.random.normal(keys[1], (300, dim)) / jnp.abs(jax.random.normal(keys[2], (300, 1)))
        back = np.asarray(field_lines(law_flow(law), start, np.geomspace(height, 1e-3, 121), substeps=4).x[-1])
        at_centre = np.linalg.norm(back, axis=1) < 0.5
        shares.append(at_centre.mean())
        errors.append(np.sqrt(0.25 / len(back)))
        if dim == 2:
            _two_ends(panels, charges, back)
    panels[2].axhline(1.0, color=COLOURS[0], label="without it, exactly")
    panels[2].axhline(0.5, color="#a0a0a0", linestyle=":", label="the centre's charge")
    panels[2].errorbar(range(len(dims)), shares, errors, fmt="o", color=COLOURS[1], label="with the extra dimension")
    panels[2].set(xticks=range(len(dims)), xlabel="dimensions d of the shell", ylim=(0, 1.08))
    panels[2].set_xticklabels(dims)
    panels[2].set_title("share of lines that end at the centre")
    panels[2].legend(frameon=False, loc="lower left")
    panels[2].spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _two_ends(panels: Any, charges: np.ndarray, back: np.ndarray) -> None:
    """The ends of 300 lines in the plane that start at |x| = 3 without the extra dimension, at z = 100 with it."""
    angle = 2 * np.pi * (np.arange(300) + 0.5) / 300
    far = 3 * jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], 1))

    def inwards(_: Any, x: jax.Array) -> jax.Array:
        # Newton: outside, all the charge is as if at the centre; inside, the shell's pulls nowhere.
        length = jnp.sqrt(jnp.sum(x**2, axis=1, keepdims=True))
        field = 0.5 * shell_field(x) + 0.5 * x / (2 * jnp.pi * length**2)
        return x - jnp.minimum(0.02, 0.5 * length) * field / jnp.sqrt(jnp.sum(field**2, axis=1, keepdims=True))

    ends = np.asarray(jax.lax.fori_loop(0, 400, inwards, far))
    for panel, points, title in (
        (panels[0], ends, "followed back in the plane: the centre"),
        (panels[1], back, "followed back from z = 100: both"),
    ):
        panel.plot(*charges.T, ".", color="#c8c8c8", markersize=3)
        panel.plot(0, 0, "o", color="#c8c8c8", markersize=12)
        panel.plot(*points.T, ".", color=COLOURS[1], markersize=5)
        panel.set(xlim=(-1.8, 1.8), ylim=(-1.8, 1.8), title=title, aspect="equal")
        panel.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
