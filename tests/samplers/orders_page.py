"""docs/orders.md, as the tests of orders read it."""

import pathlib

from experiments.verification.orders.tables import rows

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "orders.md").read_text(encoding="utf-8")
PRINTED = rows(PAGE)
"""The cells of every row, by the sampler's name."""
