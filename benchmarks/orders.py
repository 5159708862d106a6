"""Print the README's table of orders, or with --write put it there: python benchmarks/orders.py [--write].

The measurement is that of the tests, `tests/samplers/convergence.py`.
"""

import pathlib
import re
import sys

import jax

ROOT = pathlib.Path(__file__).parents[1]
# Not this folder, whose samplers.py would hide the package, but the repository's.
sys.path[:1] = [str(ROOT), str(ROOT / "tests" / "samplers")]

from convergence import table  # noqa: E402  # pyright: ignore[reportMissingImports]

if __name__ == "__main__":
    with jax.enable_x64(True):
        printed = table()
    if "--write" in sys.argv[1:]:
        readme = ROOT / "README.md"
        pattern = r"(<!-- orders: [^>]*-->\n).*?(<!-- /orders -->)"
        readme.write_text(re.sub(pattern, lambda m: f"{m[1]}\n{printed}\n{m[2]}", readme.read_text(), flags=re.DOTALL))
    print(printed, end="")
