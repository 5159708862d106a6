"""The run that measured trainings are compared with."""

from tests.experiments.training.conftest import straight  # noqa: F401
