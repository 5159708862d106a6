"""Every sampler that has a name has a row of orders, and the pages print the rows."""

from experiments.verification.orders import deterministic, stochastic
from experiments.verification.orders.tables import WITHOUT_ORDER, page, rows
from samplers.registry import SAMPLERS
from tests.samplers.orders_page import PAGE, PRINTED, ROOT


def test_the_page_is_that_of_the_cases():
    """Row for row; the tests of orders compare the cells with what they measure."""
    assert page(PRINTED.__getitem__, PRINTED.__getitem__) == PAGE
    assert list(PRINTED) == [*deterministic.CASES, *stochastic.CASES]


def test_what_the_readme_prints_is_on_the_page():
    for name, cells in rows((ROOT / "README.md").read_text(encoding="utf-8")).items():
        assert cells == PRINTED[name]


def test_every_sampler_of_the_registry_has_a_row_or_a_reason():
    measured = {type(case.sampler) for case in (*deterministic.CASES.values(), *stochastic.CASES.values())}
    without = {name for name, entry in SAMPLERS.items() if type(entry.default()) not in measured}
    assert without == set(WITHOUT_ORDER)
