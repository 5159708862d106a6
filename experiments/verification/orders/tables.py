"""The page docs/orders.md: the stated and the measured orders of every sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from experiments.verification.orders import deterministic, stochastic
from experiments.verification.orders.problems import PROCESSES

ODE_COLUMNS = ("sampler", "stated order", *deterministic.COLUMNS)
SDE_COLUMNS = (
    "sampler",
    "stated weak order",
    *PROCESSES,
    "stated strong order",
    *stochastic.STRONG_PROCESSES,
)

WITHOUT_ORDER = {
    "annealed-langevin": "a chain at each noise level, whose error does not vanish with finer grids",
    "cfgpp": "needs two denoisers, whose combination follows no flow of a known law; with two equal ones it is DDIM",
    "flow-map": "its error is the model's, and of an exact map every step is exact, however long",
    "restart": "the solver inside has the order, and the steps within an interval do not become finer with the grid",
}
"""The samplers of the registry whose order is not measured, each with the reason."""

_PAGE = """\
# Orders

What the orders of the samplers are stated and measured to be. Printed by `python benchmarks/orders.py --write` from
`experiments/verification/orders/`; the tests measure every cell, and compare it with this page.

An order p means that the error falls as N^−p in the number of steps N: it is the slope of ln(error) against ln(1/N) by
least squares over four grids, from σ/α = 5 to 0.05, in float64.

## ODE samplers

The error is the root-mean-square distance from the exact end of the probability flow: the map between quantiles for two
Gaussians on the line, an eighth-order solver to 1e-12 for three Gaussians in eight dimensions.

{ode}
Some stated orders are lower than the number in the name. iPNDM's fixed coefficients are those of even steps in ρ = σ/α
(the grid that iPNDM-4 is measured on); UniPC-3 starts with a step of lower order; 3M as published halves its second
difference.

## SDE samplers

They are measured weakly, by the exact mean and variance of what they make of a Gaussian law (the variance is printed),
and strongly, by the distance from the end of one Brownian path that is the same on every grid
(`sample(..., brownian_tree=True)`).

{sde}
## Samplers without a row

{without}
"""


def markdown(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown that ends each row with a newline."""
    header = list(columns)
    lines = [_line(header), "|---" * len(header) + "|", *(_line(row) for row in rows)]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def page(
    ode: Callable[[str], list[str]] = deterministic.cells, sde: Callable[[str], list[str]] = stochastic.cells
) -> str:
    """The page as Markdown, from functions that make the row of a name; by default they measure it."""
    return _PAGE.format(
        ode=markdown(ODE_COLUMNS, map(ode, deterministic.CASES)),
        sde=markdown(SDE_COLUMNS, map(sde, stochastic.CASES)),
        without="\n".join(f"- `{name}`: {why}." for name, why in WITHOUT_ORDER.items()),
    )


def rows(text: str) -> dict[str, list[str]]:
    """The cells of every row of orders in a Markdown page, by the sampler's name."""
    split = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {cells[0]: cells for cells in split if cells and cells[0] in {**deterministic.CASES, **stochastic.CASES}}
