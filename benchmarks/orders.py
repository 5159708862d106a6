"""Print the README's tables of orders, or with --write put them there: python benchmarks/orders.py [--write].

The measurement is that of the tests, `tests/samplers/convergence.py` and `sde_convergence.py`.
"""

import pathlib
import re
import sys

import jax

ROOT = pathlib.Path(__file__).parents[1]
# Not this folder, whose samplers.py would hide the package, but the repository's.
sys.path[0] = str(ROOT)

from tests.samplers import convergence, sde_convergence  # noqa: E402

if __name__ == "__main__":
    with jax.enable_x64(True):
        tables = {"orders": convergence.table(), "sde orders": sde_convergence.table()}
    if "--write" in sys.argv[1:]:
        readme = ROOT / "README.md"
        text = readme.read_text()
        for name, printed in tables.items():
            pattern = rf"(<!-- {name}: [^>]*-->\n).*?(<!-- /{name} -->)"
            text = re.sub(pattern, lambda m, printed=printed: f"{m[1]}\n{printed}\n{m[2]}", text, flags=re.DOTALL)
        readme.write_text(text)
    print("\n".join(tables.values()), end="")
