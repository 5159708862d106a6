"""In which order the files of the suite are handed to its workers.

A worker gets a file as a whole, so that what the file's tests share, fixtures and compiled programs, is made once.
The dearest come first: where they came last, one worker would still be busy with one of them when the others are done.
"""

from __future__ import annotations

from collections import Counter

import pytest

DEAREST = (
    "tests/experiments/verification/test_verify.py",
    "tests/experiments/runs/test_kept_runs.py",
    "tests/experiments/verification/test_trained.py",
    "tests/experiments/commands/test_cli.py",
    "tests/samplers/test_inverse.py",
    "tests/test_readme.py",
    "tests/samplers/test_order.py",
    "tests/samplers/test_stochastic_order.py",
    "tests/samplers/test_sample.py",
    "tests/experiments/interface/test_page.py",
    "tests/experiments/training/test_processes.py",
    "tests/experiments/evaluation/plane/test_run.py",
    "tests/experiments/interface/test_run.py",
    "tests/samplers/test_identities.py",
    "tests/experiments/commands/test_anomaly.py",
    "tests/diffusion/fokker_planck/test_residuals.py",
    "tests/diffusion/likelihood/test_likelihood.py",
    "tests/diffusion/oracles/test_law.py",
    "tests/samplers/test_guidance.py",
    "tests/samplers/test_adaptive.py",
    "tests/experiments/sampling/test_guidance.py",
    "tests/samplers/test_grid_fit.py",
    "tests/experiments/evaluation/test_features.py",
    "tests/experiments/evaluation/plane/test_density.py",
    "tests/experiments/training/test_loop.py",
    "tests/experiments/training/test_generator.py",
)
"""The files that take longest, as `--by-kind` prints them, longest first, as far as it matters."""


def dearest_first(items: list[pytest.Item]) -> None:
    """Sort tests by file: the dearest first, then those with the most tests; within a file all stays as it is."""
    files = [item.nodeid.partition("::")[0] for item in items]
    rank = {file: i - len(DEAREST) for i, file in enumerate(DEAREST)}
    tests = Counter(files)
    place = {file: (rank.get(file, 0), -tests[file], file) for file in tests}
    items.sort(key=lambda item: place[item.nodeid.partition("::")[0]])
