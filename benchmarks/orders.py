"""Print the README's table of orders, or with --write put it there: python benchmarks/orders.py [--write].

The measurement is that of the tests, `tests/samplers/convergence.py`.
"""

import pathlib
import re
import sys

import jax

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "samplers"))

if __name__ == "__main__":
    from convergence import table  # pyright: ignore[reportMissingImports]

    with jax.enable_x64(True):
        printed = table()
    if "--write" in sys.argv[1:]:
        readme = ROOT / "README.md"
        pattern = r"(<!-- orders: [^>]*-->\n).*?(<!-- /orders -->)"
        readme.write_text(re.sub(pattern, lambda m: f"{m[1]}\n{printed}\n{m[2]}", readme.read_text(), flags=re.DOTALL))
    print(printed, end="")
