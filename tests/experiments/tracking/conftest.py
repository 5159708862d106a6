"""The programs that trainings of a file share."""

from tests.experiments.training.conftest import programs_kept, shared_programs  # noqa: F401
