"""Print the page of orders, or with --write put it into docs/orders.md: python benchmarks/orders.py [--write]."""

import pathlib
import sys

from experiments.verification.orders.tables import page

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "orders.md"


def main(arguments: list[str]) -> None:
    """Measure every order, and print the page or write it."""
    text = page()
    if "--write" in arguments:
        PAGE.write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main(sys.argv[1:])
