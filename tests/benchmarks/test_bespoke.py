"""The benchmark of solvers that are fitted as a whole has every kind beside every other, and its table both ratios."""

from benchmarks import bespoke
from benchmarks.bespoke import KINDS, Result


def test_the_table_has_a_row_for_each_number_of_calls_and_both_ratios():
    errors = dict(zip(KINDS, (0.4, 0.2, 0.3, 0.05, 0.1), strict=True))
    found = [Result("64-D", calls, kind, error, error / 2, "x") for calls in (5, 8) for kind, error in errors.items()]
    *_, row, last = bespoke.table(found).splitlines()
    assert row.startswith("| 64-D | 5 | 4.0e-01 (2.0e-01) |")
    assert last.endswith("| 0.25 | 0.25 |")
