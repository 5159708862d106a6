"""A tiny run whose sampler is exported once."""

import importlib.util

import pytest

from experiments.runs.load import load_model

needs_flatbuffers = pytest.mark.skipif(
    importlib.util.find_spec("flatbuffers") is None, reason="flatbuffers missing, which jax.export serialises with"
)


@pytest.fixture(scope="module")
def exported(conditional_run, tmp_path_factory, run_command):
    """(The run, the file of its sampler for batches of 6, what the command said); with guidance and noise."""
    path = tmp_path_factory.mktemp("exported") / "sampler.zip"
    done = run_command("export", "--run", conditional_run, *FLAGS, "--batch", "6", "--out", path, "--json")
    assert done.status == 0, done.err
    return conditional_run, path, done.value


FLAGS = ["--sampler", "heun", "--sampler.S-churn", "0.5", "--steps", "3", "--guidance", "1.5", "--clip", "dynamic"]
"""A sampler that draws noise, of a guided model."""


@pytest.fixture(scope="module")
def model(conditional_run):
    return load_model(conditional_run)
