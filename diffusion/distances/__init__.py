"""Distances between laws: closed forms for Gaussians, and statistics of two samples with p-values.

`gaussians` has the Kullback-Leibler divergence, Bhattacharyya's distance and the 2-Wasserstein distance. `two_sample`
has the energy distance and the maximum mean discrepancy, `sliced` the sliced Wasserstein distance, and `permutation`
the test that turns any statistic into a p-value with an exact level.
"""

from diffusion.distances.gaussians import (
    bhattacharyya,
    bures_squared,
    gaussian_kl,
    wasserstein2,
    wasserstein2_squared,
)
from diffusion.distances.permutation import PermutationTest, permutation_test
from diffusion.distances.sliced import sliced_wasserstein, sliced_wasserstein_test
from diffusion.distances.two_sample import energy_distance, energy_test, median_distance, mmd, mmd_test

__all__ = [
    "PermutationTest",
    "bhattacharyya",
    "bures_squared",
    "energy_distance",
    "energy_test",
    "gaussian_kl",
    "median_distance",
    "mmd",
    "mmd_test",
    "permutation_test",
    "sliced_wasserstein",
    "sliced_wasserstein_test",
    "wasserstein2",
    "wasserstein2_squared",
]
