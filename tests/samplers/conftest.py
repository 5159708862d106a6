"""Laws whose flows are known, and grids that refine smoothly: those that orders are measured by."""

import pytest

from diffusion.oracles import examples
from experiments.verification.orders.problems import grid_of


@pytest.fixture(scope="session")
def mixture():
    """Two well separated, unequal humps on the line."""
    return examples.line()


@pytest.fixture(scope="session")
def mixture_8d():
    """Three humps in eight dimensions."""
    return examples.space()


@pytest.fixture(scope="session")
def log_snr_grid():
    """A grid of n even steps in log-SNR between two finite noise-to-signal ratios, without the data's end."""
    return grid_of
