"""What these tests share with those of `experiments`."""

from tests.experiments.conftest import run_command, tiny_run, trained

__all__ = ["run_command", "tiny_run", "trained"]
